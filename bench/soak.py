"""Runs for hours: both clients send and read at a steady rate, and are replaced by new ones again and again.

Every message has a number, and each topic one partition, so a reader sees at once when one is missing, repeated, or out
of order: then the run ends with status 1. A line for each interval tells of memory, threads, descriptors, and
latencies (p50 / p99 / p99.9). See README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import pathlib
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from kafka_async import Consumer, DeliveryReport, Producer, RecordMetadata, aio
from kafka_async.bench.clients import TIMEOUT_S, temporary_topic

STAMP = struct.Struct("<qq")  # number, time of the send
FILL = b"x" * (100 - STAMP.size)
READER = {"auto.offset.reset": "earliest"}
PAGE = os.sysconf("SC_PAGE_SIZE")


class Lane:
    """One topic, its sender, its reader, and what they have seen."""

    def __init__(self, name: str, servers: str, topic: str, rate: float, life_s: float) -> None:
        self.name, self.servers, self.topic, self.rate, self.life_s = name, servers, topic, rate, life_s
        self.sent = self.delivered = self.read = self.lives = 0
        self.send_us: list[float] = []
        self.arrival_ms: list[float] = []
        self.problem = ""
        self.ending = threading.Event()  # no more sends
        self.all_sent = threading.Event()

    def value(self) -> bytes:
        """Give the next message."""
        self.sent += 1
        return STAMP.pack(self.sent - 1, time.perf_counter_ns()) + FILL

    def arrived(self, value: bytes) -> None:
        """Take a message that was read."""
        number, sent_ns = STAMP.unpack_from(value)
        if number != self.read:
            raise RuntimeError(f"message {self.read} was due and {number} came")
        self.read += 1
        self.arrival_ms.append((time.perf_counter_ns() - sent_ns) / 1e6)

    def acknowledged(self, outcome: DeliveryReport | RecordMetadata) -> None:
        """Take an outcome that was asked for."""
        if isinstance(outcome, DeliveryReport) and outcome.error:
            self.fail(outcome.error)

    def replaced(self, delivered: int, accepted: int) -> None:
        """Take the counts of a producer that has ended."""
        self.delivered += delivered
        self.lives += 1
        if delivered != accepted:
            self.fail(RuntimeError(f"{accepted - delivered} messages were accepted and not delivered"))

    def fail(self, error: BaseException) -> None:
        """Note the first thing that went wrong, and end."""
        self.problem = self.problem or f"{self.name}: {error!r}"
        self.ending.set()

    @property
    def is_over(self) -> bool:
        """Whether everything that was sent has been read."""
        return bool(self.problem) or (self.all_sent.is_set() and self.read == self.sent)


def send(lane: Lane) -> None:
    """Send by the clock; every tenth message with a callback, every tenth with a future."""
    ways: list[Callable[[Producer, bytes], object]] = [lambda producer, value: producer.send(value)] * 8
    ways.append(lambda producer, value: producer.send(value, on_delivery=lane.acknowledged))
    ways.append(lambda producer, value: producer.submit(value))
    pace = Pace(lane)
    while not lane.ending.is_set():
        with Producer(lane.servers, lane.topic) as producer:
            ends = time.monotonic() + lane.life_s
            while time.monotonic() < ends and not lane.ending.wait(pace.wait_s()):
                value = lane.value()
                begin = time.perf_counter_ns()
                ways[lane.sent % 10](producer, value)
                lane.send_us.append((time.perf_counter_ns() - begin) / 1e3)
            producer.flush(TIMEOUT_S)
            metrics = producer.metrics()
        lane.replaced(metrics.delivered, metrics.accepted)
    lane.all_sent.set()


def read(lane: Lane) -> None:
    """Read one at a time; each new member of the group goes on where the last one ended."""
    while not lane.is_over:
        with Consumer(lane.servers, lane.topic, group_id=lane.topic, config=READER) as consumer:
            ends = time.monotonic() + lane.life_s * 1.3
            while time.monotonic() < ends and not lane.is_over:
                if message := consumer.poll_message(0.5):
                    lane.arrived(message.value)


async def send_awaited(lane: Lane) -> None:
    """Do the same on an event loop: acknowledgements are awaited, as many at once as it takes to keep the rate."""
    pace = Pace(lane)
    while not lane.ending.is_set():
        async with aio.Producer(lane.servers, lane.topic) as producer, asyncio.TaskGroup() as group:
            ends = time.monotonic() + lane.life_s
            while time.monotonic() < ends and not lane.ending.is_set():
                await asyncio.sleep(pace.wait_s())
                begin = time.perf_counter_ns()
                group.create_task(producer.send(lane.value()))
                lane.send_us.append((time.perf_counter_ns() - begin) / 1e3)
        metrics = producer.metrics()
        lane.replaced(metrics.delivered, metrics.accepted)
    lane.all_sent.set()


async def read_awaited(lane: Lane) -> None:
    """Do the same on an event loop."""
    while not lane.is_over:
        async with aio.Consumer(lane.servers, lane.topic, group_id=lane.topic, config=READER) as consumer:
            ends = time.monotonic() + lane.life_s * 1.3
            while time.monotonic() < ends and not lane.is_over:
                if message := await consumer.poll_message(0.5):
                    lane.arrived(message.value)


class Pace:
    """Says how long to wait until the next message is due."""

    def __init__(self, lane: Lane) -> None:
        self.step_s = 1 / lane.rate
        self.due = time.monotonic()

    def wait_s(self) -> float:
        """Give seconds; late sends are not made up for, so that a pause of the machine is no burst."""
        self.due = max(self.due + self.step_s, time.monotonic())
        return self.due - time.monotonic()


async def _both(lane: Lane) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(send_awaited(lane))
        group.create_task(read_awaited(lane))


def _guarded(run: Callable[[Lane], Any], lane: Lane) -> threading.Thread:
    def target() -> None:
        try:
            run(lane)
        except BaseException as error:
            lane.fail(error)

    thread = threading.Thread(target=target, name=f"{lane.name}-{run.__name__}")
    thread.start()
    return thread


def _process() -> tuple[float, ...]:
    """Give resident memory in MiB, threads, and open descriptors."""
    resident = int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * PAGE / 2**20
    return resident, *(sum(1 for _ in pathlib.Path("/proc/self", name).iterdir()) for name in ("task", "fd"))


def _percentiles(values: list[float]) -> str:
    ordered = sorted(values)
    if not ordered:
        return "-"
    return " / ".join(f"{ordered[math.ceil(len(ordered) * q) - 1]:,.2f}" for q in (0.5, 0.99, 0.999))


def _show(minutes: float, lanes: list[Lane]) -> None:
    resident, threads, descriptors = _process()
    for lane in lanes:
        lane.send_us, sends = [], lane.send_us
        lane.arrival_ms, arrivals = [], lane.arrival_ms
        print(
            f"| {minutes:.1f} | {lane.name} | {resident:.1f} | {threads} | {descriptors} | {lane.lives} | {lane.sent:,}"
            f" | {lane.read:,} | {_percentiles(sends)} | {_percentiles(arrivals)} |",
            flush=True,
        )


def main() -> int:
    """Run what the command line asks for; Ctrl-C ends it early, and all is checked all the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap-servers", default="localhost:9092", help="default: %(default)s")
    parser.add_argument("--minutes", type=float, default=120, help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=500, help="messages/s of each client (default: %(default)s)")
    parser.add_argument("--life", type=float, default=20, help="seconds of a producer (default: %(default)s)")
    parser.add_argument("--interval", type=float, default=60, help="seconds between lines (default: %(default)s)")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        lanes = [
            Lane(
                name,
                arguments.bootstrap_servers,
                stack.enter_context(temporary_topic(arguments.bootstrap_servers, 1)).topic,
                arguments.rate,
                arguments.life,
            )
            for name in ("sync", "aio")
        ]
        return _run(lanes, arguments.minutes, arguments.interval)


def _run(lanes: list[Lane], minutes: float, interval_s: float) -> int:
    interrupted = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    print("| minutes | client | RSS, MiB | threads | fds | producers ended | sent | read | send, us | end to end, ms |")
    print(f"{'|---' * 10}|")
    begin = time.monotonic()
    threads = [_guarded(send, lanes[0]), _guarded(read, lanes[0])]
    threads.append(_guarded(lambda lane: asyncio.run(_both(lane)), lanes[1]))
    ends = begin + minutes * 60
    shown = begin
    while time.monotonic() < ends and not interrupted.is_set() and not any(lane.problem for lane in lanes):
        interrupted.wait(min(shown + interval_s, ends) - time.monotonic())
        shown += interval_s
        _show((time.monotonic() - begin) / 60, lanes)
    for lane in lanes:
        lane.ending.set()
    for thread in threads:
        thread.join(TIMEOUT_S)
        if thread.is_alive():
            lanes[0].fail(TimeoutError(f"{thread.name} did not end"))
    _show((time.monotonic() - begin) / 60, lanes)
    problems = [lane.problem for lane in lanes if lane.problem]
    print("\n".join(problems) or "nothing lost, nothing repeated, all in order")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
