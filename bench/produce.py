"""Measures the sending side: the time inside one call, and messages per second.

A case is a statement, compiled into the loop as timeit does it, so that no wrapper's cost is added to
one library's calls and not to the other's.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
import timeit
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from clients import TIMEOUT_S, Broker, Properties, opened_confluent_producer, opened_producer
from table import Case, Values

from kafka_async import DeliveryReport

PAYLOAD = b"x" * 100
BATCH = 1000


class Outcomes:
    """Counts delivery reports of confluent-kafka; the least that an application does with them."""

    def __init__(self) -> None:
        self.delivered = self.failed = 0

    def __call__(self, error: object, _message: object) -> None:
        """Take a report."""
        if error is None:
            self.delivered += 1
        else:
            self.failed += 1


class Reports:
    """Counts delivery reports of ours; the least that an application does with them."""

    def __init__(self) -> None:
        self.delivered = 0

    def __call__(self, report: DeliveryReport) -> None:
        """Take a report."""
        self.delivered += report.error is None


def send_cases(broker: Broker, calls: int) -> list[Case]:
    """List what measures the time inside a call, alone and beside a busy Python thread."""
    cases = []
    for name, run in _rivals(broker, {"linger.ms": 0}).items():
        cases.append(Case("send", name, partial(run, _time_calls, calls)))
        cases.append(Case("send", f"{name}, busy thread", partial(run, _time_calls_busy, calls)))
    cases.append(Case("send", f"kafka_async send_many of {BATCH}, per message", partial(_time_batches, broker, calls)))
    return cases


def throughput_cases(broker: Broker, messages: int) -> list[Case]:
    """List what measures messages per second until all of them are delivered."""
    return [
        Case("producer", f"{name}, linger.ms={linger_ms}", partial(run, _time_delivery, messages))
        for linger_ms in (0, 5)
        for name, run in _rivals(broker, {"linger.ms": linger_ms}).items()
    ]


Measure = Callable[[str, dict[str, Any], Callable[[], None], int], Values]
Run = Callable[[Measure, int], Values]


def _rivals(broker: Broker, config: Properties) -> dict[str, Run]:
    def ours(measure: Measure, count: int, statement: str = "send(value)") -> Values:
        outcomes = Reports()
        with opened_producer(broker, config) as producer:
            names = {"send": producer.send, "submit": producer.submit, "outcomes": outcomes}
            values = measure(statement, names, lambda: producer.flush(TIMEOUT_S), count)
            metrics = producer.metrics()
        if metrics.delivered != metrics.accepted:
            raise RuntimeError(f"not everything was delivered: {metrics}")
        return values

    def theirs(measure: Measure, count: int, statement: str) -> Values:
        outcomes = Outcomes()
        with opened_confluent_producer(broker, config) as producer:
            names = {"produce": producer.produce, "poll": producer.poll, "topic": broker.topic, "outcomes": outcomes}
            values = measure(statement, names, lambda: _flush(producer), count)
        if outcomes.failed:
            raise RuntimeError(f"{outcomes.failed} messages failed")
        return values

    def bare(measure: Measure, count: int) -> Values:
        return theirs(measure, count, "produce(topic, value)")

    def with_outcome(measure: Measure, count: int) -> Values:
        return theirs(measure, count, "produce(topic, value, on_delivery=outcomes); poll(0)")

    def with_callback(measure: Measure, count: int) -> Values:
        return ours(measure, count, "send(value, on_delivery=outcomes)")

    def with_future(measure: Measure, count: int) -> Values:
        return ours(measure, count, "submit(value)")

    return {
        "kafka_async send": ours,
        "kafka_async send(on_delivery)": with_callback,
        "kafka_async submit": with_future,
        "confluent produce, outcome unknown": bare,
        "confluent produce(on_delivery) + poll(0)": with_outcome,
    }


def _flush(producer: Any) -> None:
    if left := producer.flush(TIMEOUT_S):
        raise RuntimeError(f"{left} messages were not delivered")


def _time_calls(statement: str, names: dict[str, Any], flush: Callable[[], None], calls: int) -> Values:
    """Time each call by itself, then as many in a loop without clocks in it."""
    times: list[int] = []
    names = {**names, "value": PAYLOAD, "clock": time.perf_counter_ns, "times": times}
    timeit.Timer(f"begin = clock(); {statement}; times.append(clock() - begin)", globals=names).timeit(calls)
    flush()
    times.sort()
    values = {f"p{percent:g}_us": times[math.ceil(calls * percent / 100) - 1] / 1000 for percent in (50, 90, 99, 99.9)}
    # The CPU time of this thread says what the call costs where the machine has something else to do.
    cpu = time.thread_time_ns()
    wall_s = timeit.Timer(statement, globals=names).timeit(calls)
    cpu = time.thread_time_ns() - cpu
    flush()
    return {**values, "loop_ns": wall_s * 1e9 / calls, "loop_cpu_ns": cpu / calls}


def _time_calls_busy(statement: str, names: dict[str, Any], flush: Callable[[], None], calls: int) -> Values:
    with _busy_thread():
        return _time_calls(statement, names, flush, calls)


def _time_delivery(statement: str, names: dict[str, Any], flush: Callable[[], None], messages: int) -> Values:
    begin = time.perf_counter()
    timeit.Timer(statement, globals={**names, "value": PAYLOAD}).timeit(messages)
    flush()
    return {"messages_s": messages / (time.perf_counter() - begin)}


def _time_batches(broker: Broker, messages: int) -> Values:
    values = [PAYLOAD] * BATCH
    with opened_producer(broker, {"linger.ms": 0}) as producer:
        cpu = time.thread_time_ns()
        wall_s = timeit.Timer("send_many(values)", globals={"send_many": producer.send_many, "values": values}).timeit(
            messages // BATCH
        )
        cpu = time.thread_time_ns() - cpu
        producer.flush(TIMEOUT_S)
    sent = messages // BATCH * BATCH
    return {"loop_ns": wall_s * 1e9 / sent, "loop_cpu_ns": cpu / sent}


@contextlib.contextmanager
def _busy_thread() -> Iterator[None]:
    """Keep a second Python thread computing, so that whoever releases the GIL waits for it."""
    ended = threading.Event()

    def compute() -> None:
        while not ended.is_set():
            sum(range(100))

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
