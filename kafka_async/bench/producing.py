"""Samples of the sending side: the time inside one call, and messages per second.

What is timed is a statement, compiled into the loop as timeit does it, so that no wrapper's cost is added to one
client's calls and not to the other's. Garbage collection is off meanwhile, as there.
"""

from __future__ import annotations

import contextlib
import threading
import time
import timeit
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

from kafka_async import DeliveryReport
from kafka_async.bench.clients import (
    TIMEOUT_S,
    Broker,
    Properties,
    flush_confluent,
    opened_confluent_producer,
    opened_producer,
)
from kafka_async.bench.timing import Values, busy_thread, exact_timers, pace, percentiles, queued, with_cores

BATCH = 1000
SIZE = 100


class Sender(NamedTuple):
    """A producer in use: the statement that sends `value`, what its names mean, and how to wait for the outcomes."""

    statement: str
    names: dict[str, Any]
    flush: Callable[[], None]


Opened: TypeAlias = Callable[[Broker, Properties], "contextlib.AbstractContextManager[Sender]"]


# Who sends -------------------------------------------------------------------------------------


class _Outcomes:
    """Counts reports; the least that an application does with them."""

    def __init__(self) -> None:
        self.delivered = self.failed = 0

    def theirs(self, error: object, _message: object) -> None:
        if error is None:
            self.delivered += 1
        else:
            self.failed += 1

    def ours(self, report: DeliveryReport) -> None:
        self.delivered += report.error is None


def _ours(statement: str) -> Opened:
    @contextlib.contextmanager
    def opened(broker: Broker, config: Properties) -> Iterator[Sender]:
        with opened_producer(broker, config) as producer:
            names = {name: getattr(producer, name) for name in ("send", "submit", "send_many")}
            names["outcome"] = _Outcomes().ours
            yield Sender(statement, names, lambda: producer.flush(TIMEOUT_S))
            metrics = producer.metrics()
        if metrics.delivered != metrics.accepted:
            raise RuntimeError(f"not everything was delivered: {metrics}")

    return opened


def _theirs(statement: str) -> Opened:
    @contextlib.contextmanager
    def opened(broker: Broker, config: Properties) -> Iterator[Sender]:
        outcomes = _Outcomes()
        with opened_confluent_producer(broker, config) as producer:
            names = {"produce": producer.produce, "poll": producer.poll, "topic": broker.topic}
            names["outcome"] = outcomes.theirs
            yield Sender(statement, names, lambda: flush_confluent(producer))
        if outcomes.failed:
            raise RuntimeError(f"{outcomes.failed} messages failed")

    return opened


send = _ours("send(value)")
send_with_callback = _ours("send(value, on_delivery=outcome)")
submit = _ours("submit(value)")
send_many = _ours("send_many(values)")
produce = _theirs("produce(topic, value)")
produce_and_poll = _theirs("produce(topic, value, on_delivery=outcome); poll(0)")


# What is measured ------------------------------------------------------------------------------


def time_calls(opened: Opened, broker: Broker, calls: int) -> Values:
    """Time each call by itself, then as many in a loop without clocks in it."""
    with opened(broker, {}) as sender:
        values = percentiles(_clocked(sender, calls))
        sender.flush()
        return values | _loop(sender, calls)


def time_calls_busy(opened: Opened, broker: Broker, calls: int) -> Values:
    """Do that beside a thread that computes."""
    with busy_thread():
        return time_calls(opened, broker, calls)


def time_batches(broker: Broker, calls: int) -> Values:
    """Time ``send_many``, for each of its messages."""
    with send_many(broker, {}) as sender:
        values = _loop(sender._replace(names={**sender.names, "values": [bytes(SIZE)] * BATCH}), calls // BATCH)
    return {name: value / BATCH for name, value in values.items()}


def _clocked(sender: Sender, calls: int) -> list[int]:
    times: list[int] = []
    names = {**sender.names, "value": b"x" * SIZE, "clock": time.perf_counter_ns, "note": times.append}
    timeit.Timer(f"begin = clock(); {sender.statement}; note(clock() - begin)", globals=names).timeit(calls)
    return times


def _loop(sender: Sender, calls: int) -> Values:
    """Tell time and CPU time: that says what a call costs where the machine has something else to do."""
    cpu = time.thread_time_ns()
    wall_s = timeit.Timer(sender.statement, globals={"value": b"x" * SIZE, **sender.names}).timeit(calls)
    cpu = time.thread_time_ns() - cpu
    sender.flush()
    return {"loop_ns": wall_s * 1e9 / calls, "cpu_ns": cpu / calls}


def time_paced(opened: Opened, broker: Broker, rate: float, seconds: float) -> Values:
    """Time calls that are due at a steady rate, whatever the calls before took."""
    times: list[int] = []
    with opened(broker, {}) as sender:
        names = {**sender.names, "value": b"x" * SIZE, "clock": time.perf_counter_ns, "note": times.append}
        code = f"for _ in moments:\n begin = clock(); {sender.statement}; note(clock() - begin)"
        exact_timers()
        exec(code, {**names, "moments": pace(rate, seconds)})
        sender.flush()
    return percentiles(queued(times, 1e9 / rate))


def time_paced_busy(opened: Opened, broker: Broker, rate: float, seconds: float) -> Values:
    """Do that beside a thread that computes."""
    with busy_thread():
        return time_paced(opened, broker, rate, seconds)


def time_delivery(
    opened: Opened, broker: Broker, messages: int, *, size: int = SIZE, linger_ms: int = 0, threads: int = 1
) -> Values:
    """Count messages per second, from the first call until the last one is delivered."""
    with opened(broker, {"linger.ms": linger_ms}) as sender:
        timer = timeit.Timer(sender.statement, globals={**sender.names, "value": b"x" * size})

        def run() -> Values:
            begin = time.perf_counter()
            _at_once(threads, lambda: timer.timeit(messages // threads))
            called = time.perf_counter()
            sender.flush()
            sent = messages // threads * threads
            return {
                "messages_s": sent / (time.perf_counter() - begin),
                "megabytes_s": sent * size / (time.perf_counter() - begin) / 1e6,
                "loop_ns": (called - begin) * 1e9 / sent,
            }

        return with_cores(run)


def _at_once(threads: int, run: Callable[[], object]) -> None:
    if threads == 1:
        run()
        return
    runners = [threading.Thread(target=run) for _ in range(threads)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
