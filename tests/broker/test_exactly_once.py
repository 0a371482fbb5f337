"""With `enable.idempotence` every accepted message is in the log once and in order, whatever the broker suffers."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from kafka_server import KafkaServer
from other_client import Row, read_log
from real_kafka import frozen, own_broker
from support import create_topic, wait_for

from kafka_async import Delivery, DeliveryReport, Producer

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]

LIMIT_S = 60
SENDING_S = 20.0
FROZEN_S = 4.0
PARTITIONS = 4
KEYS = 23


@pytest.fixture(scope="module")
def kafka() -> Iterator[KafkaServer]:
    with own_broker() as server:
        yield server


def faults(log: Sequence[Row], accepted: Sequence[int]) -> dict[str, list[str]]:
    """What is wrong with a log that should hold the messages b"sender number" of each sender, from 0 on."""
    found: dict[str, list[str]] = {}
    times = Counter(row.value for row in log)
    expected = {b"%d %d" % (sender, number) for sender, count in enumerate(accepted) for number in range(count)}
    found["missing"] = sorted(str(value) for value in expected if value not in times)
    found["doubled"] = sorted(str(value) for value, count in times.items() if count > 1)
    found["foreign"] = sorted(str(value) for value in times if value not in expected)
    found["disordered"] = []
    last: dict[tuple[int, bytes], int] = {}
    for row in log:
        sender, number = (row.value or b"").split()
        if int(number) < last.get((row.partition, sender), -1):
            found["disordered"].append(str(row.value))
        last[row.partition, sender] = int(number)
    places: dict[bytes | None, set[int]] = {}
    for row in log:
        places.setdefault(row.key, set()).add(row.partition)
    found["keys"] = [str(key) for key, partitions in places.items() if len(partitions) > 1]
    return {name: which for name, which in found.items() if which}


class Sender:
    """Sends b"sender 0", b"sender 1" ... at a steady pace, and keeps what it is told of each."""

    def __init__(self, producer: Producer, number: int) -> None:
        self.producer = producer
        self.number = number
        self.accepted = 0
        self.reports: list[DeliveryReport] = []
        self.deliveries: list[Delivery] = []

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(0.01):
            for _ in range(10):
                self.send_one()

    def send_one(self) -> None:
        value, key = b"%d %d" % (self.number, self.accepted), b"key %d" % (self.accepted % KEYS)
        if self.number:
            self.deliveries.append(self.producer.submit(value, key))
        else:
            self.producer.send(value, key, on_delivery=self.reports.append)
        self.accepted += 1

    def told(self) -> list[tuple[bytes, int | None, int | None]]:
        """Value, partition and offset of each outcome."""
        by_future = [
            (b"%d %d" % (self.number, number), metadata.partition, metadata.offset)
            for number, delivery in enumerate(self.deliveries)
            for metadata in [delivery.result(0)]
        ]
        assert [report.error for report in self.reports] == [None] * len(self.reports)
        return by_future + [(report.value or b"", report.partition, report.offset) for report in self.reports]


class Phases:
    """How long each part took, for the reader of the test's output."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._ended: list[str] = []

    def end(self, name: str) -> None:
        now = time.monotonic()
        self._ended.append(f"{name} {now - self._began:.1f} s")
        self._began = now

    def __str__(self) -> str:
        return ", ".join(self._ended)


def test_freeze_and_kill_lose_and_repeat_nothing(kafka: KafkaServer, topic: str) -> None:
    create_topic(kafka.bootstrap_servers, topic, PARTITIONS)
    # The freeze outlasts requests: they are sent again, and the first ones, read when it thaws, are stored as well.
    config = {"enable.idempotence": True, "socket.timeout.ms": 1500, "message.timeout.ms": 120_000}
    stop = threading.Event()
    with (
        Producer(kafka.bootstrap_servers, topic, config=config, queue_messages=20_000, on_full="block") as producer,
        ThreadPoolExecutor() as threads,
    ):
        senders = [Sender(producer, number) for number in range(2)]
        began = time.monotonic()
        phases = Phases()
        jobs = [threads.submit(sender.run, stop) for sender in senders]
        try:
            wait_for(lambda: producer.metrics().delivered > 2000, LIMIT_S, "a steady flow")
            phases.end("first")
            with frozen(kafka):
                time.sleep(FROZEN_S)
            phases.end("frozen")
            delivered = producer.metrics().delivered
            wait_for(lambda: producer.metrics().delivered > delivered + 5000, LIMIT_S, "the flow after the freeze")
            phases.end("flowing again")
            wait_for(lambda: producer.metrics().outstanding, LIMIT_S, "something on its way")
            kafka.kill()
            delivered = producer.metrics().delivered
            wait_for(lambda: producer.metrics().outstanding > 1000, LIMIT_S, "a backlog")
            phases.end("dead")
            kafka.start()
            phases.end("starting")
            wait_for(lambda: producer.metrics().delivered > delivered + 5000, LIMIT_S, "the flow after the kill")
            phases.end("flowing again")
            stop.wait(max(0.0, began + SENDING_S - time.monotonic()))
        finally:
            stop.set()
        for job in jobs:
            job.result(LIMIT_S)
        sending_s = time.monotonic() - began
        producer.flush(LIMIT_S)
        metrics = producer.metrics()

    accepted = [sender.accepted for sender in senders]
    told = [outcome for sender in senders for outcome in sender.told()]
    log = read_log(kafka.bootstrap_servers, topic)
    print(
        f"\n{phases}\n{sending_s:.1f} s of sending: accepted {accepted}, in the log {len(log)}, told {len(told)}\n"
        f"{metrics.ack_latency}"
    )
    assert sending_s >= SENDING_S
    assert (metrics.accepted, metrics.delivered) == (sum(accepted), sum(accepted))
    assert (metrics.failed, metrics.purged, metrics.dropped, metrics.outstanding) == (0, 0, 0, 0)
    assert faults(log, accepted) == {}
    assert {row.partition for row in log} == set(range(PARTITIONS))
    assert sorted(value for value, _, _ in told) == sorted(row.value or b"" for row in log)
    # Of a batch that the broker had already, and forgot where, it can't tell the offset.
    places = {row.value: (row.partition, row.offset) for row in log}
    unknown = [value for value, _, offset in told if offset is None]
    assert [told_ for told_ in told if told_[2] is not None and places[told_[0]] != told_[1:]] == []
    print(f"outcomes without an offset: {len(unknown)}")


def test_without_idempotence_the_same_freeze_repeats_messages(kafka: KafkaServer, topic: str) -> None:
    """The control: what the broker goes through above is enough to do harm."""
    create_topic(kafka.bootstrap_servers, topic, PARTITIONS)
    config = {"enable.idempotence": False, "socket.timeout.ms": 1000}
    with Producer(kafka.bootstrap_servers, topic, config=config) as producer:
        sender = Sender(producer, 0)
        sender.send_one()
        producer.flush(LIMIT_S)
        with frozen(kafka):
            for _ in range(1000):
                sender.send_one()
            time.sleep(2.5)
        producer.flush(LIMIT_S)
    found = faults(read_log(kafka.bootstrap_servers, topic), [sender.accepted])
    assert found["doubled"]
    assert "missing" not in found


def rows(*values: bytes) -> list[Row]:
    return [Row(0, offset, None, value, [], 1) for offset, value in enumerate(values)]


@pytest.mark.parametrize(
    ("log", "found"),
    [
        (rows(b"0 0", b"1 0", b"0 1", b"0 2"), {}),
        (rows(b"0 0", b"1 0", b"0 2"), {"missing": ["b'0 1'"]}),
        (rows(b"0 0", b"0 1", b"1 0", b"0 2", b"0 1"), {"doubled": ["b'0 1'"], "disordered": ["b'0 1'"]}),
        (rows(b"0 1", b"0 0", b"0 2", b"1 0"), {"disordered": ["b'0 0'"]}),
        (rows(b"0 0", b"0 1", b"0 2", b"0 3", b"1 0"), {"foreign": ["b'0 3'"]}),
    ],
    ids=["right", "missing", "doubled", "disordered", "foreign"],
)
def test_checker_finds_what_is_wrong(log: list[Row], found: dict[str, list[str]]) -> None:
    assert faults(log, [3, 1]) == found
