"""The programs in examples/ do what they say."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from support import read, reader, send_all, wait_for

from kafka_async.testing import MockCluster

EXAMPLES = Path(__file__).parent.parent / "examples"
LIMIT_S = 45


@contextlib.contextmanager
def start(name: str, *args: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, str(EXAMPLES / name), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_embedded_example_reads_back_what_it_sent() -> None:
    with start("embedded.py") as process:
        output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, output
    assert "accepted 10000, delivered 10000, failed 0" in output
    assert "received 10000" in output


def test_telemetry_example_delivers_its_readings_when_interrupted(cluster: MockCluster) -> None:
    cluster.create_topic("telemetry", 1)
    with (
        start("telemetry_producer.py", cluster.bootstrap_servers) as process,
        reader(cluster.bootstrap_servers, "telemetry") as consumer,
    ):
        first = consumer.poll_message(20)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=LIMIT_S)
    assert first is not None
    assert first.key == b"machine-1"
    assert process.returncode == 0, output
    assert "readings delivered" in output


def test_group_example_counts_what_its_group_reads(cluster: MockCluster, topic: str) -> None:
    send_all(cluster.bootstrap_servers, topic, [b"x"] * 1000)
    with start("group_consumer.py", cluster.bootstrap_servers, topic) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("1000 messages of partitions [")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, output


def test_exactly_once_example_commits_results_and_progress(cluster: MockCluster) -> None:
    cluster.create_topic("orders", 1)
    cluster.create_topic("priced", 1)
    send_all(cluster.bootstrap_servers, "orders", [b"%d" % number for number in range(250)])
    with (
        start("exactly_once.py", cluster.bootstrap_servers) as process,
        reader(cluster.bootstrap_servers, "priced") as consumer,
    ):
        results = [message.value for message in read(consumer, 250, limit=30)]
        wait_for(lambda: consumer.poll_message(0.5) is None)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=LIMIT_S)
    assert results == [b"priced %d" % number for number in range(250)]
    assert process.returncode == 0, output
    assert "250 orders priced" in output
