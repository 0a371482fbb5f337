"""Sends to a broker that goes away for good, as a process of its own, so that its memory can be measured.

Prints a line once messages flow, goes on sending for a while, flushes, stops, and prints a line of JSON: what it
counted itself, what the producer's metrics say, and how long the outcome of each accepted message took. Half of the
messages are sent with a callback, half with a future.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import re
import sys
import threading
import time
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from kafka_async import DeliveryError, DeliveryReport, FlushTimeout, Producer, QueueFull

LIMIT_S = 30
LARGEST = 10_000  # bytes of a value


def resident(which: str) -> int:
    """Bytes of this process in memory: VmRSS, now; VmHWM, the most that there ever were."""
    found = re.search(rf"^{which}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


class Ledger:
    """What the application itself knows of each message, by the message's number."""

    def __init__(self) -> None:
        self.attempts = 0
        self.refused = 0  # by an exception of send
        self.outcomes: Counter[str] = Counter()  # by the error's name; "" is delivered
        self.told = bytearray()  # how often each message's outcome was told
        self.accepted_at: list[float] = []  # the latest time at which it can have been
        self.own_latency = 0.0
        self.latency = 0.0
        self.first_failure = math.inf

    def count(self, number: int, error: str, latency_s: float | None) -> None:
        """On the delivery thread, for each outcome."""
        self.told[number] += 1
        self.outcomes[error] += 1
        own = time.monotonic() - self.accepted_at[number]
        self.own_latency = max(self.own_latency, own)
        if latency_s is not None:
            self.latency = max(self.latency, latency_s)
            if error == "_MSG_TIMED_OUT":
                self.first_failure = min(self.first_failure, latency_s)

    def send(self, producer: Producer, value: bytes) -> None:
        number = self.attempts
        self.attempts += 1
        self.told.append(0)
        self.accepted_at.append(math.inf)
        try:
            if number % 2:
                producer.send(value, on_delivery=lambda report: self.called(number, report))
            else:
                delivery = producer.submit(value)
                delivery.add_done_callback(lambda done: self.completed(number, done))
            self.accepted_at[number] = time.monotonic()
        except QueueFull:
            self.refused += 1

    def called(self, number: int, report: DeliveryReport) -> None:
        self.count(number, report.error.name if report.error else "", report.latency_s)

    def completed(self, number: int, done: Future[Any]) -> None:
        error = done.exception()
        if isinstance(error, QueueFull):  # dropped at once, by the caller's thread: never accepted
            return
        if error is None:
            self.count(number, "", None)
            return
        assert isinstance(error, DeliveryError)
        assert error.report is not None
        self.count(number, error.name, error.report.latency_s)


class Sampler:
    """Takes snapshots of the metrics all along, and notes those that can't be."""

    def __init__(self, producer: Producer, ledger: Ledger, bounds: dict[str, int]) -> None:
        self.producer = producer
        self.ledger = ledger
        self.bounds = bounds
        self.snapshots = 0
        self.wrong: list[str] = []
        self.most = [0, 0]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        last = (0, 0, 0, 0)
        while not self._stop.wait(0.002):
            metrics = self.producer.metrics()
            ended = (metrics.delivered, metrics.failed, metrics.purged, metrics.accepted)
            self.snapshots += 1
            self.most = [
                max(self.most[0], metrics.outstanding),
                max(self.most[1], metrics.outstanding_bytes),
            ]
            right = (
                metrics.accepted == sum(ended[:3]) + metrics.outstanding
                and metrics.accepted <= self.ledger.attempts
                and 0 <= metrics.outstanding <= self.bounds["queue_messages"]
                and 0 <= metrics.outstanding_bytes <= self.bounds["queue_bytes"]
                and all(before <= now for before, now in zip(last, ended, strict=True))
            )
            if not right:
                self.wrong.append(repr(metrics))
            last = ended


def pace(producer: Producer, ledger: Ledger, seconds: float, per_second: int) -> None:
    """Send numbered messages of any size; a send that blocks is not made up for."""
    numbers = random.Random(1)
    filling = numbers.randbytes(LARGEST)
    tick = 0.01
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for _ in range(round(per_second * tick)):
            value = b"%d " % ledger.attempts + filling[: numbers.randrange(LARGEST - 20)]
            ledger.send(producer, value)
        time.sleep(tick)


def timed(call: Any, *arguments: Any) -> tuple[float, Exception | None]:
    began = time.monotonic()
    try:
        call(*arguments)
    except (FlushTimeout, DeliveryError) as error:
        return time.monotonic() - began, error
    return time.monotonic() - began, None


def main() -> None:
    servers, topic, seconds, per_second, options = json.loads(sys.argv[1])
    before = resident("VmRSS")
    bounds = {name: options[name] for name in ("queue_messages", "queue_bytes")}
    ledger = Ledger()
    producer = Producer(servers, topic, log=False, **options)
    with Sampler(producer, ledger, bounds) as sampler:
        began = time.monotonic()
        while producer.metrics().delivered < 500:
            assert time.monotonic() < began + LIMIT_S
            pace(producer, ledger, 0.05, 1000)
        print("flowing", flush=True)
        pace(producer, ledger, seconds, per_second)
        impatient_s, impatient = timed(producer.flush, 0.5)
        outstanding = producer.metrics().outstanding
        patient_s, patient = timed(producer.flush, LIMIT_S)
        for _ in range(10):  # for stop() to purge
            ledger.send(producer, b"last")
        stop_s, stopped = timed(producer.stop, 0.5)
        with contextlib.suppress(RuntimeError):
            producer.stop()
    metrics = producer.metrics()
    report = {
        "attempts": ledger.attempts,
        "refused": ledger.refused,
        "outcomes": ledger.outcomes,
        "never_twice": not set(ledger.told) - {0, 1},
        "latency_s": ledger.latency,
        "own_latency_s": ledger.own_latency,
        "first_failure_s": ledger.first_failure,
        "snapshots": sampler.snapshots,
        "wrong": sampler.wrong[:3],
        "most": sampler.most,
        "flush": [impatient_s, type(impatient).__name__, getattr(impatient, "outstanding", 0), outstanding],
        "second_flush": [patient_s, type(patient).__name__],
        "stop": [stop_s, type(stopped).__name__, getattr(stopped, "outstanding", 0)],
        "metrics": {
            name: getattr(metrics, name)
            for name in ("accepted", "delivered", "failed", "purged", "dropped", "outstanding", "outstanding_bytes")
        },
        "grown": resident("VmHWM") - before,
    }
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
