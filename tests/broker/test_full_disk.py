"""A broker whose disk is full: a log directory that is a small file system of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka_server import SMALL, KafkaServer
from other_client import log_values
from real_kafka import own_broker
from support import create_topic, wait_for

from kafka_async import DeliveryReport, Producer

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]

LIMIT_S = 120.0
DISK_MB = 48
PAYLOAD = b"x" * 20_000


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a file system of `DISK_MB` there."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        if os.environ.get("KAFKA_ASYNC_REQUIRE_MOUNT") == "1":
            pytest.fail(f"mounting is required: {mounted.stderr}")
        pytest.skip(f"a file system can't be mounted here, which takes root: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def full(tmp_path: Path) -> Iterator[tuple[KafkaServer, Path]]:
    """A broker with a small disk, and a file on that disk to be deleted when room is needed."""
    with small_disk(tmp_path) as disk:
        logs = {
            "log.dirs": str(disk / "data"),
            "log.segment.bytes": str(2**20),
            "log.index.size.max.bytes": "4096",  # it is allocated in advance, for each partition
        }
        ballast = disk / "ballast"
        ballast.write_bytes(b"\0" * (DISK_MB * 2**20 // 2))
        with own_broker(java=SMALL, **logs) as server:
            yield server, ballast


def test_full_disk_gives_every_message_an_outcome_and_keeps_what_was_acknowledged(
    full: tuple[KafkaServer, Path], topic: str
) -> None:
    kafka, ballast = full
    create_topic(kafka.bootstrap_servers, topic, 1)
    told: list[DeliveryReport] = []
    sent = 0
    config = {"message.timeout.ms": 10_000, "enable.idempotence": True}
    with Producer(
        kafka.bootstrap_servers, topic, config=config, on_full="block", queue_messages=100, block_timeout=LIMIT_S
    ) as producer:

        def send() -> None:
            nonlocal sent
            producer.send(b"%d " % sent + PAYLOAD, on_delivery=told.append)
            sent += 1

        while not (words := of_its_disk(kafka)):
            assert sent * len(PAYLOAD) < 2 * DISK_MB * 2**20, "the disk is not full"
            send()  # at the bound it waits for the next outcome
        for _ in range(20):
            send()
        wait_for(lambda: producer.metrics().outstanding == 0 and len(told) == sent, LIMIT_S, "the outcomes")
        stored = [report for report in told if report.error is None]
        errors = {report.error.name for report in told if report.error}
        print(f"\n{sent} sent, {len(stored)} stored, {sent - len(stored)} failed with {errors}; {words[0]}")
        assert len(stored) * len(PAYLOAD) > 2**20
        assert len(stored) < sent
        assert errors <= {"_MSG_TIMED_OUT", "KAFKA_STORAGE_ERROR"}

        kafka.kill()  # it has ended itself, as it does when its only disk fails
        ballast.unlink()
        kafka.start()
        before = len(stored)
        for _ in range(50):
            send()
        producer.flush(LIMIT_S)
        metrics = producer.metrics()
    assert len(told) == sent == metrics.accepted
    stored = [report for report in told if report.error is None]
    assert len(stored) == before + 50 == metrics.delivered
    assert metrics.failed == sent - len(stored)
    log = [value.split()[0] for value in log_values(kafka.bootstrap_servers, topic) if value]
    acknowledged = [(report.value or b"").split()[0] for report in stored]
    assert set(acknowledged) <= set(log)
    assert len(set(log)) == len(log)
    assert [value for value in log if value in set(acknowledged)] == acknowledged


def of_its_disk(kafka: KafkaServer) -> list[str]:
    """What the broker says when it is full."""
    return [line for line in kafka.log().splitlines() if "No space left on device" in line]
