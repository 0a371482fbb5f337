"""A real Kafka from Kafka's own jars, for tests: one node in KRaft mode, or three, on loopback, no Docker.

From Python, a context manager::

    with KafkaServer() as kafka:
        Producer(kafka.bootstrap_servers)

`KafkaCluster` has three, to be killed one by one.

From a shell, ``python tests/kafka_server.py`` prints the bootstrap servers once they answer and runs until it is
terminated. Both need Java 17 or newer and the folder of jars that ``script/kafka-jars`` fetches and prints, given as an
argument or in ``KAFKA_ASYNC_KAFKA_LIBS``.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

HOST = "127.0.0.1"
CLUSTER_ID = "a2Fma2EtYXN5bmMtdGVzdA"  # "kafka-async-test" in base64

# What docker-compose.yml sets too, but for the addresses, which depend on the ports.
SETTINGS: Mapping[str, str] = {
    "node.id": "1",
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
}


# Where there are several on few cores: what the second compiler would take is more than it could save.
SMALL = ("-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")

# What three brokers have instead.
REPLICATED: Mapping[str, str] = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
}


def addresses(port: int, controller_port: int) -> dict[str, str]:
    """Give the settings that depend on the ports."""
    return {
        "listeners": _listeners(port, controller_port),
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
    }


def _listeners(port: int, controller_port: int) -> str:
    return f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}"


def free_port(taken: Collection[int] = ()) -> int:
    """Find a free port below the range that the kernel gives to outgoing connections, which could take it meanwhile."""
    for port in random.sample([port for port in range(20_000, 32_000) if port not in taken], 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port between 20000 and 32000")


class KafkaServer:
    """One Kafka broker (and its controller) as a child process with a data folder of its own.

    Parameters
    ----------
    libs
        Folder of Kafka's jars; by default the one named by ``KAFKA_ASYNC_KAFKA_LIBS``.
    port
        Port of the broker; by default a free one. It stays the same over restarts.
    properties
        Broker properties on top of, or instead of, the defaults.
    format_options
        More of Kafka's storage tool, which prepares the data folder.
    start_timeout
        Seconds that the broker may take to answer.
    java
        Options of Java.
    """

    def __init__(
        self,
        libs: str | Path | None = None,
        *,
        port: int | None = None,
        properties: Mapping[str, str] | None = None,
        format_options: Sequence[str] = (),
        start_timeout: float = 180.0,
        java: Sequence[str] = ("-Xmx512m",),
    ) -> None:
        libs = libs or os.environ.get("KAFKA_ASYNC_KAFKA_LIBS")
        if not libs:
            raise ValueError("KAFKA_ASYNC_KAFKA_LIBS names no folder of Kafka's jars; script/kafka-jars prints one")
        self._classpath = f"{libs}/*"
        self._format_options = format_options
        self._start_timeout = start_timeout
        self._options = java
        self._process: subprocess.Popen[bytes] | None = None
        self._home = tempfile.TemporaryDirectory(prefix="kafka-server-")
        self.home = Path(self._home.name)
        self._data = Path((properties or {}).get("log.dirs", self.home / "data"))
        self.port = port or free_port()
        self._write_properties(properties or {})

    @property
    def bootstrap_servers(self) -> str:
        """Where clients connect, as ``host:port``."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the running broker."""
        if self._process is None:
            raise RuntimeError("the broker is not running")
        return self._process.pid

    def log(self) -> str:
        """Give what the broker has written so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> None:
        """Start the broker and wait until it takes connections; it has the data of earlier runs."""
        if self._process is not None:
            raise RuntimeError("the broker is running already")
        if not self._data.exists():
            self._format()
        self._process = self._java(*self._options, "kafka.Kafka", str(self._config))
        try:
            self._wait_ready(self._process)
        except BaseException:
            self.kill()
            raise

    def stop(self, timeout: float = 20.0) -> None:
        """Stop the broker as an administrator would, by a signal, and keep its data."""
        if self._process is None:
            return
        self._process.terminate()
        if _wait(self._process, timeout):
            self._process = None
        else:
            self.kill()

    def kill(self) -> None:
        """End the broker at once, as a crash would, and keep its data."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None

    def restart(self) -> None:
        """Stop and start on the same port with the same data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop the broker and delete its data."""
        self.stop()
        self._home.cleanup()

    def __enter__(self) -> KafkaServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _config(self) -> Path:
        return self.home / "server.properties"

    @property
    def _log(self) -> Path:
        return self.home / "server.log"

    def _write_properties(self, extra: Mapping[str, str]) -> None:
        places = {**addresses(self.port, free_port()), "log.dirs": str(self._data)}
        lines = [f"{name}={value}\n" for name, value in {**SETTINGS, **places, **extra}.items()]
        self._config.write_text("".join(lines))

    def _format(self) -> None:
        options = ("-t", CLUSTER_ID, "-c", str(self._config), *self._format_options)
        tool = self._java("kafka.tools.StorageTool", "format", *options)
        if tool.wait() != 0:
            raise RuntimeError(f"Kafka's storage tool failed (exit status {tool.returncode}):\n{self.log()}")

    def _java(self, *arguments: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                ["java", "-Dlog4j2.level=WARN", "-cp", self._classpath, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.home,
            )

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._start_timeout
        # The broker opens its port last, when the controller has let it in.
        while not self._accepts():
            if _wait(process, 0.05):
                raise RuntimeError(f"Kafka ended with status {process.returncode}:\n{self.log()[-4000:]}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"Kafka did not answer within {self._start_timeout} s:\n{self.log()[-4000:]}")

    def _accepts(self) -> bool:
        try:
            socket.create_connection((HOST, self.port), timeout=1).close()
        except OSError:
            return False
        return True


class KafkaCluster:
    """Three brokers that keep every topic three times, two of them at least in time, each with a controller of its own.

    Of the three one may be dead at a time. A context manager, like `KafkaServer`.

    Parameters
    ----------
    libs, properties
        As for each `KafkaServer`.
    """

    def __init__(self, libs: str | Path | None = None, *, properties: Mapping[str, str] | None = None) -> None:
        ports: list[int] = []
        for _ in range(6):
            ports.append(free_port(ports))
        voters = ",".join(f"{number}@{HOST}:{port}" for number, port in zip((1, 2, 3), ports[3:], strict=True))
        common = {**REPLICATED, "controller.quorum.voters": voters, **(properties or {})}
        #: By id, from 1 on.
        self.brokers = {
            number: KafkaServer(
                libs,
                port=ports[number - 1],
                properties={**common, "node.id": str(number), "listeners": _listeners(*ports[number - 1 :: 3])},
                java=SMALL,
            )
            for number in (1, 2, 3)
        }

    @property
    def bootstrap_servers(self) -> str:
        """Where clients connect, as ``host:port,...``."""
        return ",".join(broker.bootstrap_servers for broker in self.brokers.values())

    def start(self) -> None:
        """Start all brokers and wait until they take connections: none can alone."""
        with ThreadPoolExecutor() as threads:
            for started in [threads.submit(broker.start) for broker in self.brokers.values()]:
                started.result()

    def close(self) -> None:
        """End all brokers and delete their data."""
        for broker in self.brokers.values():
            broker.kill()  # the last ones could not hand their partitions over, and would wait
            broker.close()

    def __enter__(self) -> KafkaCluster:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _wait(process: subprocess.Popen[bytes], timeout: float) -> bool:
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        return False
    return True


def main() -> None:
    """Run a broker until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="Run a Kafka broker from its jars until terminated.")
    parser.add_argument("--libs", help="folder of Kafka's jars (default: KAFKA_ASYNC_KAFKA_LIBS)")
    parser.add_argument("--port", type=int, help="port of the broker (default: a free one)")
    parser.add_argument("-P", "--property", action="append", default=[], metavar="NAME=VALUE", help="broker property")
    arguments = parser.parse_args()
    properties = dict(item.split("=", 1) for item in arguments.property)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    with KafkaServer(arguments.libs, port=arguments.port, properties=properties) as kafka:
        print(kafka.bootstrap_servers, flush=True)
        while True:
            signal.pause()


if __name__ == "__main__":
    main()
