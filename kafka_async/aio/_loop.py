"""Waiting on an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
from collections.abc import Callable

from kafka_async import errors
from kafka_async._native import ffi, lib
from kafka_async._wait import Deadline, Lock

_NOT_YET = (lib.KA_TIMEOUT, lib.KA_INTERRUPTED)


class _TaskLock:
    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def acquire(self, timeout: float | None) -> bool:
        try:
            return await asyncio.wait_for(self._lock.acquire(), timeout)
        except asyncio.TimeoutError:
            return False

    def release(self) -> None:
        self._lock.release()


class Looped:
    """Waits on the event loop that runs when it is made, by one bell.

    The bell is armed but for the time between its ring and `_on_ring`, which arms it and then looks at every
    condition that is waited for. So one that was looked at in vain is looked at again after each change.

    Parameters
    ----------
    what : str
        What waits, for errors.
    pulse : float, optional
        Seconds after which every condition is looked at again in any case.

    Raises
    ------
    RuntimeError
        No event loop is running, or it can't watch a file descriptor.
    """

    def __init__(self, what: str, pulse: float | None = None) -> None:
        self._what = what
        self._process = os.getpid()
        self._pulse = pulse
        try:
            self.loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(f"no event loop is running: make a {what} of kafka_async.aio in a coroutine") from None
        bell = lib.ka_bell_new()
        if not bell:
            raise OSError(f"no file descriptor is left for the {what}: close some, or raise the limit (ulimit -n)")
        self.bell = ffi.gc(bell, lib.ka_bell_release)
        self._waiting: dict[asyncio.Future[int], Callable[[], int]] = {}
        self._serve: Callable[[], bool] | None = None
        lib.ka_bell_arm(self.bell)
        try:
            self.loop.add_reader(lib.ka_bell_descriptor(self.bell), self._on_ring)
        except NotImplementedError:
            raise RuntimeError(
                f"{type(self.loop).__name__} can't watch a file descriptor (no add_reader()): use another event loop, "
                "such as asyncio.SelectorEventLoop"
            ) from None

    def serve(self, serve: Callable[[], bool]) -> None:
        """Call this, too, when the bell has rung; again soon, if it returns True.

        Parameters
        ----------
        serve : callable
        """
        self._serve = serve

    def check(self) -> None:
        """Refuse a caller that does not run on this loop.

        Raises
        ------
        RuntimeError
            No event loop runs in this thread, or another one.
        ForkedError
            It belongs to the parent process.
        """
        if asyncio._get_running_loop() is not self.loop:
            if self._process != os.getpid():
                raise errors.ForkedError(
                    f"this {self._what} belongs to the parent process: make a new one after the fork"
                )
            raise RuntimeError(
                f"this {self._what} belongs to the event loop that it was made on, and that is not the one that "
                "runs here: make one for each loop"
            )

    def close(self) -> None:
        """Watch the bell no more."""
        self._serve = None  # which knows us
        if not self.loop.is_closed():
            self.loop.remove_reader(lib.ka_bell_descriptor(self.bell))

    def call(self, function: Callable[[], object]) -> None:
        """Have a function called on the loop; the caller may be the garbage collector, on any thread.

        Parameters
        ----------
        function : callable
        """
        if self._process == os.getpid():
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.loop.call_soon_threadsafe(function)

    async def until(
        self,
        block: Callable[[int], int],  # noqa: ARG002 - for threads
        look: Callable[[], int],
        timeout: Deadline | float | None,
    ) -> int:
        self.check()
        deadline = timeout if isinstance(timeout, Deadline) else Deadline(timeout)
        while (status := look()) in _NOT_YET:
            left = deadline.left()
            if left == 0:
                return lib.KA_TIMEOUT
            status = await self._sleep(look, left)
            if status not in _NOT_YET:
                break
        return status

    async def _sleep(self, look: Callable[[], int], left: float | None) -> int:
        future = self.loop.create_future()
        self._waiting[future] = look
        times = [time for time in (left, self._pulse) if time is not None]
        timer = self.loop.call_later(min(times), _end, future) if times else None
        try:
            return int(await future)
        finally:
            del self._waiting[future]
            if timer is not None:
                timer.cancel()

    def _on_ring(self) -> None:
        if lib.ka_bell_arm(self.bell) != lib.KA_OK:
            return  # in a forked child
        self._look()

    def _look(self) -> None:
        if self._serve is not None and self._serve() and not self.loop.is_closed():
            self.loop.call_soon(self._look)
        for future, look in list(self._waiting.items()):
            if not future.done() and (status := look()) not in _NOT_YET:
                future.set_result(status)

    def listen(self, command: ffi.CData) -> None:
        lib.ka_command_hang(command, self.bell)

    def caller(self) -> object:
        return asyncio.current_task()

    def lock(self) -> Lock:
        return _TaskLock()

    async def finish(self, outcome: object, what: str) -> None:  # noqa: ARG002 - any kind of callback will do
        if inspect.isawaitable(outcome):
            await outcome


def _end(future: asyncio.Future[int]) -> None:
    if not future.done():
        future.set_result(lib.KA_TIMEOUT)
