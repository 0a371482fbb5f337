"""Measures the first message of a producer: cold, after `warm_up`, and the thousandth. See README.md."""

from __future__ import annotations

import argparse
import statistics

from table import Case, measure

import kafka_async
from kafka_async.bench.clients import TIMEOUT_S, Broker, temporary_topic
from kafka_async.bench.timing import Values


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap-servers", default="localhost:9092", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=40, help="producers of each kind (default: %(default)s)")
    parser.add_argument("--partitions", type=int, default=4, help="of the topic (default: %(default)s)")
    arguments = parser.parse_args()
    with temporary_topic(arguments.bootstrap_servers, arguments.partitions) as broker:
        cases = [
            Case("first", "cold", lambda: _first(broker, warm=False)),
            Case("first", "after warm_up()", lambda: _first(broker, warm=True)),
            Case("first", "the thousandth", lambda: _thousandth(broker)),
        ]
        results = measure(cases, arguments.rounds)
    print("| acknowledged, ms | min | p50 | p90 |\n|---|---|---|---|")
    for case, result in results:
        times = sorted(result.values["ms"])
        p90 = times[len(times) * 9 // 10]
        print(f"| {case.name} | {times[0]:.2f} | {statistics.median(times):.2f} | {p90:.2f} |")


def _acknowledged_ms(producer: kafka_async.Producer) -> float:
    """From acceptance to acknowledgement, by native clocks: the delivery thread's start is not in it."""
    reports: list[kafka_async.DeliveryReport] = []
    producer.send(b"x" * 100, on_delivery=reports.append)
    producer.flush(TIMEOUT_S)
    return reports[0].latency_s * 1e3


def _first(broker: Broker, *, warm: bool) -> Values:
    with kafka_async.Producer(broker.servers, broker.topic) as producer:
        if warm:
            producer.warm_up(timeout=TIMEOUT_S)
        return {"ms": _acknowledged_ms(producer)}


def _thousandth(broker: Broker) -> Values:
    with kafka_async.Producer(broker.servers, broker.topic) as producer:
        for _ in range(999):
            producer.submit(b"x" * 100).result(TIMEOUT_S)
        return {"ms": _acknowledged_ms(producer)}


if __name__ == "__main__":
    main()
