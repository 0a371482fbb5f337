"""A broker that is killed or frozen amid sends and never comes back: every accepted message ends in time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from kafka_server import KafkaServer
from real_kafka import own_broker
from support import NOBODY, create_topic

from kafka_async import DeliveryReport, Producer

pytestmark = [pytest.mark.broker, pytest.mark.timeout(120)]

PROGRAM = Path(__file__).with_name("never_returning.py")
LIMIT_S = 60
MIB = 2**20
TIMEOUT_S = 2.0
IN_TIME_S = TIMEOUT_S + 2.0
SENDING_S = 4.0
PER_SECOND = 2000
BOUNDS = {"queue_messages": 1000, "queue_bytes": 4 * MIB}
WAYS = ["frozen", "killed"]
POLICIES = ["raise", "block", "drop_new", "drop_old"]

# The ring, whose size is a power of two, librdkafka's copies, its and our structures of each message; then
# threads, allocators, socket buffers, Python's objects in flight.
MEMORY = 2 * (BOUNDS["queue_bytes"] + 2 * MIB) + BOUNDS["queue_bytes"] + BOUNDS["queue_messages"] * 700 + 16 * MIB

Reports = dict[str, dict[str, Any]]


def start(servers: str, topic: str, policy: str) -> subprocess.Popen[str]:
    config = {"message.timeout.ms": int(TIMEOUT_S * 1000)}
    arguments = [servers, topic, SENDING_S, PER_SECOND, {**BOUNDS, "on_full": policy, "config": config}]
    return subprocess.Popen([sys.executable, str(PROGRAM), json.dumps(arguments)], stdout=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline()


@pytest.fixture(scope="module")
def server() -> Iterator[KafkaServer]:
    with own_broker() as server:
        # Now: one that was frozen is fenced by its own controller for a while, and makes no topics.
        for way in WAYS:
            for policy in POLICIES:
                create_topic(server.bootstrap_servers, f"{way}-{policy}", 3)
        yield server


@pytest.fixture(scope="module", params=WAYS)
def reports(request: pytest.FixtureRequest, server: KafkaServer) -> Reports:
    """What the programs of all four policies report, run side by side."""
    programs = {policy: start(server.bootstrap_servers, f"{request.param}-{policy}", policy) for policy in POLICIES}
    frozen = 0
    try:
        with ThreadPoolExecutor(len(POLICIES)) as threads:
            assert set(threads.map(first_line, programs.values())) == {"flowing\n"}
            if request.param == "frozen":
                os.kill(frozen := server.pid, signal.SIGSTOP)
            else:
                server.kill()
            outputs = list(threads.map(lambda program: program.communicate(timeout=LIMIT_S)[0], programs.values()))
    finally:
        for program in programs.values():
            program.kill()
        if frozen:
            os.kill(frozen, signal.SIGCONT)
    assert [program.wait() for program in programs.values()] == [0] * len(programs)
    return {policy: json.loads(output) for policy, output in zip(programs, outputs, strict=True)}


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def report(reports: Reports, policy: str) -> dict[str, Any]:
    return reports[policy]


def test_every_message_ends_in_time(report: dict[str, Any]) -> None:
    print(
        f"\nthe latest outcome after {report['latency_s']:.2f} s, seen after {report['own_latency_s']:.2f} s; "
        f"the first time-out after {report['first_failure_s']:.2f} s"
    )
    assert report["outcomes"]["_MSG_TIMED_OUT"]
    assert report["first_failure_s"] >= TIMEOUT_S
    assert report["latency_s"] <= IN_TIME_S
    assert report["own_latency_s"] <= IN_TIME_S + 1.0  # for the delivery thread to get its turn


def test_accounting_is_exact(report: dict[str, Any], policy: str) -> None:
    print(f"\n{report['attempts']} attempts, {report['refused']} refused, {report['outcomes']}, {report['metrics']}")
    outcomes, metrics = report["outcomes"], report["metrics"]
    purged = sum(outcomes.get(name, 0) for name in ("_PURGE_QUEUE", "_PURGE_INFLIGHT"))
    failed = sum(outcomes.values()) - purged - outcomes[""]
    assert report["never_twice"]
    assert (metrics["delivered"], metrics["failed"], metrics["purged"]) == (outcomes[""], failed, purged)
    assert metrics["accepted"] == sum(outcomes.values())
    assert (metrics["outstanding"], metrics["outstanding_bytes"]) == (0, 0)
    without_outcome = report["attempts"] - report["refused"] - sum(outcomes.values())
    evicted = purged - report["stop"][2]
    if policy == "drop_old":
        assert report["refused"] == 0
        assert evicted > 0
    else:
        assert evicted == 0
    assert metrics["dropped"] == without_outcome + evicted
    if policy == "drop_new":
        assert report["refused"] == 0
        assert without_outcome > 0
    if policy in ("raise", "block"):
        assert without_outcome == 0
    if policy == "raise":
        assert report["refused"] > 0


def test_outstanding_stays_within_the_bounds(report: dict[str, Any]) -> None:
    print(f"\n{report['snapshots']} snapshots, at most {report['most']} outstanding")
    assert report["snapshots"] > 100
    assert report["wrong"] == []
    messages, size = report["most"]
    assert messages > BOUNDS["queue_messages"] * 0.7, "the bounds were never near"
    assert size > BOUNDS["queue_bytes"] * 0.7


def test_memory_is_bounded(report: dict[str, Any]) -> None:
    print(f"\n+{report['grown'] / MIB:.1f} MiB of {MEMORY / MIB:.1f}")
    assert report["grown"] < MEMORY


def test_flush_and_stop_end_in_time(report: dict[str, Any]) -> None:
    print(f"\nflush {report['flush']}, {report['second_flush']}, stop {report['stop']}")
    seconds, error, outstanding, still = report["flush"]
    assert (error, still > 0) == ("FlushTimeout", True)
    assert outstanding >= still
    assert 0.5 <= seconds < 1.5
    # All were told by callbacks and futures, so that nothing is raised.
    assert report["second_flush"][1] == "NoneType"
    assert report["second_flush"][0] < IN_TIME_S
    seconds, error, purged = report["stop"]
    assert (error, purged) == ("FlushTimeout", 10)
    assert 0.5 <= seconds < 2.0


def test_message_that_waited_in_the_queue_ends_in_time_too(topic: str) -> None:
    """With "drop_old" most messages wait for others to end; their own time begins at acceptance all the same."""
    timeout_s = 2.5
    reports: list[DeliveryReport] = []
    config = {"message.timeout.ms": int(timeout_s * 1000)}
    with Producer(NOBODY, topic, on_full="drop_old", queue_messages=1000, config=config) as producer:
        for _ in range(250):  # librdkafka's share
            producer.send(b"first", on_delivery=reports.append)
        began = time.monotonic()
        while time.monotonic() < began + timeout_s:
            producer.send(b"later", on_delivery=reports.append)
            time.sleep(0.01)
        producer.flush(LIMIT_S)
    latest = max(reports, key=lambda report: report.latency_s)
    print(f"\nthe latest outcome after {latest.latency_s:.2f} s: {latest.value!r}")
    assert {report.error.name for report in reports if report.error} == {"_MSG_TIMED_OUT"}
    assert latest.latency_s <= timeout_s + 2.0
