"""A TCP proxy that does to connections what networks do: cuts, refuses, stalls, slows, forgets them.

A process of its own, so that it is as quick whatever the tests do::

    with TcpProxy(to_port) as proxy:
        Producer(proxy.address)
        proxy.cut()

It runs until its standard input ends, and takes one command a line there, which it answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

HOST = "127.0.0.1"
_CHUNK = 16 * 1024


class TcpProxy:
    """A proxy on loopback.

    Parameters
    ----------
    to_port
        Where it connects to.
    port
        Where it listens; by default a free one.
    """

    def __init__(self, to_port: int, port: int = 0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), str(to_port), str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.port = int(self._answer())
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def cut(self) -> int:
        """Reset every connection at once, in the midst of whatever it carries. Returns how many there were."""
        return self._do("cut")

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Reset every connection and refuse new ones meanwhile, as a host without the server does."""
        self._do("refuse")
        try:
            yield
        finally:
            self._do("listen")

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Carry nothing meanwhile, and all of it afterwards: packets are lost, and TCP sends them again."""
        self._do("stall")
        try:
            yield
        finally:
            self._do("carry")

    def forget(self) -> int:
        """Carry nothing any more on the connections there are, and leave them open: half-open ones, as behind a router
        that has lost its table. New ones work. Returns how many there were."""
        return self._do("forget")

    @contextlib.contextmanager
    def slow(self, *, delay_s: float = 0.0, bytes_per_s: float = 0.0) -> Iterator[None]:
        """Let everything arrive later meanwhile, and no faster than this (0: as fast as it can)."""
        self._do(f"slow {delay_s} {bytes_per_s}")
        try:
            yield
        finally:
            self._do("slow 0 0")

    def connections(self) -> int:
        """How many there are that carry something."""
        return self._do("count")

    def close(self) -> None:
        """End all connections and the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _do(self, command: str) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return int(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the proxy ended with status {self._process.wait(10)}"
        return line


class _Proxy:
    """What runs in the process."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._port = 0
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._forgotten: set[asyncio.Task[None]] = set()
        self._carrying = asyncio.Event()
        self._carrying.set()
        self._delay_s = self._bytes_per_s = 0.0

    async def listen(self, port: int = 0) -> int:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, HOST, port or self._port)
            self._port = self._server.sockets[0].getsockname()[1]
        return self._port

    async def do(self, command: str, *arguments: str) -> int:
        if command == "refuse" and self._server is not None:
            self._server.close()
            self._server = None
        if command in ("cut", "refuse"):
            return self._cut()
        if command == "listen":
            return await self.listen()
        if command == "forget":
            return self._forget()
        if command == "slow":
            self._delay_s, self._bytes_per_s = map(float, arguments)
        elif command == "stall":
            self._carrying.clear()
        elif command == "carry":
            self._carrying.set()
        return len(self._open)

    def _cut(self) -> int:
        cut = [*self._open, *self._forgotten]
        for task in cut:
            task.cancel()
        return len(cut)

    def _forget(self) -> int:
        count = len(self._open)
        self._forgotten.update(self._open)
        self._open.clear()
        return count

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writers = [writer]
        try:
            await self._carrying.wait()
            far_reader, far_writer = await asyncio.open_connection(HOST, self._to_port)
            writers.append(far_writer)
            await self._both_ways(task, reader, writer, far_reader, far_writer)
        except (OSError, asyncio.CancelledError):
            pass  # one side is gone, or it was cut
        finally:
            self._open.pop(task, None)
            self._forgotten.discard(task)
            for each in writers:
                _reset(each)

    async def _both_ways(
        self,
        task: asyncio.Task[None],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        ways = [
            asyncio.ensure_future(self._carry(task, reader, far_writer)),
            asyncio.ensure_future(self._carry(task, far_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _carry(
        self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(_CHUNK):
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            await self._carrying.wait()
            if task in self._forgotten:
                continue  # read on, so that the end of this side is seen
            writer.write(data)
            await writer.drain()
            if self._bytes_per_s:
                await asyncio.sleep(len(data) / self._bytes_per_s)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close without a farewell, as a cut does."""
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _main(to_port: int, port: int) -> None:
    proxy = _Proxy(to_port)
    print(await proxy.listen(port), flush=True)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        print(await proxy.do(*line.decode().split()), flush=True)


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), int(sys.argv[2])))
