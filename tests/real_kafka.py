"""A Kafka of a test's own, to be frozen and killed, and kcat."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from kafka_server import HOST, SMALL, KafkaServer, free_port
from support import wait_for
from tcp_proxy import TcpProxy

LIMIT_S = 30
SETTINGS = {
    "auto.create.topics.enable": "false",
    # After a kill the controller waits for the old broker's session to end.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
    # One partition is opened sooner than fifty, at each start.
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.num.partitions": "1",
}


def need_jars() -> None:
    """Skip the test where the broker in use does not run from jars."""
    if "KAFKA_ASYNC_KAFKA_LIBS" not in os.environ:
        pytest.skip("the broker in use does not run from jars")


@contextlib.contextmanager
def own_broker(
    *,
    port: int | None = None,
    java: Sequence[str] = ("-Xmx512m",),
    format_options: Sequence[str] = (),
    **properties: str,
) -> Iterator[KafkaServer]:
    """Run a broker that may be killed."""
    need_jars()
    settings = {**SETTINGS, **properties}
    with KafkaServer(port=port, java=java, properties=settings, format_options=format_options) as server:
        yield server


@contextlib.contextmanager
def broker_behind_proxy(**properties: str) -> Iterator[tuple[KafkaServer, TcpProxy]]:
    """Run a broker that clients reach through a proxy alone: that is the address it tells them."""
    need_jars()
    port = free_port()
    own = free_port([port])  # by this one it talks to itself
    controller = free_port([port, own])
    with TcpProxy(port) as proxy:
        listeners = {
            "listeners": f"PLAINTEXT://{HOST}:{port},OWN://{HOST}:{own},CONTROLLER://{HOST}:{controller}",
            "controller.quorum.voters": f"1@{HOST}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{proxy.address},OWN://{HOST}:{own}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,OWN:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "OWN",
        }
        with own_broker(port=port, java=SMALL, **listeners, **properties) as server:
            yield server, proxy


def running(server: KafkaServer) -> KafkaServer:
    """Start it again after a test that ended with a dead one."""
    with contextlib.suppress(RuntimeError):  # it runs already
        server.start()
    return server


def is_stopped(pid: int) -> bool:
    """Whether every thread is; they stop one after the other, and one that still runs may answer a message."""
    try:
        states = [task.read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").glob("*/stat")]
    except FileNotFoundError:  # one has just ended
        return False
    return set(states) == {"T"}


@contextlib.contextmanager
def frozen(server: KafkaServer) -> Iterator[None]:
    os.kill(server.pid, signal.SIGSTOP)
    wait_for(lambda: is_stopped(server.pid))
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def kcat(*arguments: str, stdin: bytes | None = None, limit: float = LIMIT_S) -> bytes:
    """What kcat prints."""
    program = shutil.which("kcat") or shutil.which("kafkacat")
    if program is None:
        if os.environ.get("KAFKA_ASYNC_REQUIRE_KCAT") == "1":
            pytest.fail("kcat is required: install the package kcat")
        pytest.skip("needs kcat: install the package kcat")
    return _run([program, *arguments], stdin, limit)


def java(*arguments: str, stdin: bytes | None = None, limit: float = LIMIT_S) -> bytes:
    """What one of Kafka's own tools prints: the class's name, then its arguments."""
    if (libs := os.environ.get("KAFKA_ASYNC_KAFKA_LIBS")) is None:
        pytest.skip("needs Kafka's jars: set KAFKA_ASYNC_KAFKA_LIBS")
    # Short programs: what the second compiler would take is more than it could save.
    return _run(["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", f"{libs}/*", *arguments], stdin, limit)


def _run(command: list[str], stdin: bytes | None, limit: float) -> bytes:
    done = subprocess.run(command, input=stdin or b"", capture_output=True, timeout=limit, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout
