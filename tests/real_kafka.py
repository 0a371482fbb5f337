"""A Kafka of a test's own, to be frozen and killed, and kcat."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka_server import KafkaServer
from support import wait_for

LIMIT_S = 30


@contextlib.contextmanager
def own_broker(**properties: str) -> Iterator[KafkaServer]:
    """Run a broker that may be killed; skip the test where the one in use does not run from jars."""
    if "KAFKA_ASYNC_KAFKA_LIBS" not in os.environ:
        pytest.skip("the broker in use does not run from jars")
    settings = {
        "auto.create.topics.enable": "false",
        # After a kill the controller waits for the old broker's session to end.
        "broker.session.timeout.ms": "2000",
        "broker.heartbeat.interval.ms": "500",
        # One partition is opened sooner than fifty, at each start.
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.num.partitions": "1",
    }
    with KafkaServer(properties={**settings, **properties}) as server:
        yield server


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
