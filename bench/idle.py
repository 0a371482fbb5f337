"""Measures what the modes of `idle` cost and bring, at rest and at sparse traffic. See README.md.

A case runs in this process; the messages that a consumer waits for come from another one.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from table import Case, measure

import kafka_async
from kafka_async.bench.clients import TIMEOUT_S, Broker, temporary_topic
from kafka_async.bench.rounds import Result
from kafka_async.bench.timing import Values

SIZE = 100
SETTLE_S = 0.3  # after opening: connections, the first naps
TASKS = pathlib.Path("/proc/self/task")
POLLER = "bench-poller"  # the main thread's name
CONSUMER_THREADS = {"poller": POLLER, "worker": "ka-consumer"}

# Group -> {quantity: heading}.
COLUMNS = {
    "producer": {
        "worker": "worker, % of a core",
        "process": "process, % of a core",
        "send_p50": "send p50, us",
        "send_p99": "p99",
        "ack_p50": "acknowledged p50, us",
        "ack_p99": "p99",
    },
    "consumer": {
        "poller": "polling thread, % of a core",
        "worker": "worker, % of a core",
        "process": "process, % of a core",
        "p50": "send to poll p50, us",
        "p99": "p99",
    },
}


def main() -> int:
    """Run what the command line asks for."""
    arguments = _parse()
    if arguments.send:
        _send_stamps(Broker(arguments.bootstrap_servers, arguments.send, 1), arguments.rates[0], arguments.seconds)
        return 0
    pathlib.Path("/proc/self/comm").write_text(POLLER)
    with temporary_topic(arguments.bootstrap_servers, 1) as broker:
        results = measure(list(_cases(broker, arguments)), arguments.rounds)
    print(f"librdkafka {kafka_async.librdkafka_version}, {arguments.rounds} rounds of {arguments.seconds:g} s")
    for group, columns in COLUMNS.items():
        rows = [result for case, result in results if case.group == group]
        if rows:
            print("\n" + _markdown(rows, columns))
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap-servers", default="localhost:9092", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="every case runs once in each (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a case (default: %(default)s)")
    parser.add_argument("--rates", type=int, nargs="+", default=[0, 50, 500, 2000], help="messages/s")
    parser.add_argument("--modes", nargs="+", default=["warm", "park", "spin"], help="default: all")
    parser.add_argument("--cpu", type=int, help="bind the workers to this CPU")
    parser.add_argument("--only", choices=COLUMNS, nargs="+", default=list(COLUMNS), help="groups of cases")
    parser.add_argument("--send", metavar="TOPIC", help=argparse.SUPPRESS)  # this program's own other process
    return parser.parse_args()


def _cases(broker: Broker, arguments: argparse.Namespace) -> Iterator[Case]:
    kinds = {"producer": _run_producer, "consumer": _run_consumer}
    for group in arguments.only:
        for rate in arguments.rates:
            for mode in arguments.modes:
                yield Case(group, f"{rate:,}/s, {mode}", _bind(kinds[group], broker, mode, rate, arguments))


def _bind(
    run: Callable[..., Values], broker: Broker, mode: str, rate: int, arguments: argparse.Namespace
) -> Callable[[], Values]:
    return lambda: run(broker, rate, arguments.seconds, {"idle": mode, "cpu": arguments.cpu})


def _run_producer(broker: Broker, rate: int, seconds: float, options: dict[str, Any]) -> Values:
    with kafka_async.Producer(broker.servers, broker.topic, **options) as producer:
        producer.send(b"first")
        producer.flush(TIMEOUT_S)
        time.sleep(SETTLE_S)
        cpu = Cpu()
        _send_at(rate, seconds, lambda: producer.send(b"x" * SIZE))
        values = cpu.percent_until_now({"worker": "ka-producer"})
        producer.flush(TIMEOUT_S)
        metrics = producer.metrics()
    if rate:  # the message before the clock started is among these
        for name, latency in (("send", metrics.send_latency), ("ack", metrics.ack_latency)):
            values |= {f"{name}_p50": latency.p50 * 1e6, f"{name}_p99": latency.p99 * 1e6}
    return values


def _send_at(rate: int, seconds: float, send: Callable[[], None]) -> None:
    """Send by the clock, however long a send takes."""
    begin = time.perf_counter()
    for number in range(int(rate * seconds)):
        _sleep_until(begin + number / rate)
        send()
    _sleep_until(begin + seconds)


def _sleep_until(moment: float) -> None:
    while (left := moment - time.perf_counter()) > 0:
        time.sleep(left)


def _run_consumer(broker: Broker, rate: int, seconds: float, options: dict[str, Any]) -> Values:
    with kafka_async.Consumer(broker.servers, **options) as consumer:
        consumer.assign([kafka_async.TopicPartition(broker.topic, 0, "end")])
        _begin_reading(consumer, broker)
        if rate == 0:
            return _watch_idle(consumer, seconds)
        program = [sys.executable, __file__, "--bootstrap-servers", broker.servers, "--send", broker.topic]
        with subprocess.Popen([*program, "--rates", str(rate), "--seconds", str(seconds)]):
            return _poll_stamps(consumer, int(rate * seconds))


def _begin_reading(consumer: kafka_async.Consumer, broker: Broker) -> None:
    """Nobody tells when a consumer has found the end of its partition; so messages go there until one comes."""
    with kafka_async.Producer(broker.servers, broker.topic, idle="park") as producer:
        while True:
            producer.send(b"first")
            if consumer.poll_message(0.1) is not None:
                break
    while consumer.poll_message(SETTLE_S) is not None:
        pass


def _watch_idle(consumer: kafka_async.Consumer, seconds: float) -> Values:
    cpu = Cpu()
    if consumer.poll_message(seconds) is not None:
        raise RuntimeError("somebody else writes to the topic")
    return cpu.percent_until_now(CONSUMER_THREADS)


def _poll_stamps(consumer: kafka_async.Consumer, count: int) -> Values:
    clock, poll = time.monotonic_ns, consumer.poll_message
    latencies = []
    poll(TIMEOUT_S)
    cpu = Cpu()
    while len(latencies) < count:
        message = poll(TIMEOUT_S)
        if message is None or message.value is None:
            raise RuntimeError("messages are missing")
        latencies.append(clock() - int.from_bytes(message.value[:8], "little"))
    values = cpu.percent_until_now(CONSUMER_THREADS)
    p50, p99 = (statistics.quantiles(latencies, n=100, method="inclusive")[i] / 1000 for i in (49, 98))
    return {**values, "p50": p50, "p99": p99}


def _send_stamps(broker: Broker, rate: int, seconds: float) -> None:
    """Send the time of sending; parked, so that no nap of this side is in the latency."""
    with kafka_async.Producer(broker.servers, broker.topic, idle="park") as producer:
        producer.send(b"first")
        producer.flush(TIMEOUT_S)
        time.sleep(SETTLE_S)
        _send_at(rate, seconds, lambda: producer.send(time.monotonic_ns().to_bytes(8, "little").ljust(SIZE, b"x")))


class Cpu:
    """The CPU time of every thread, in seconds, with its name."""

    def __init__(self) -> None:
        self.moment = time.perf_counter()
        self.threads: dict[str, tuple[str, float]] = {}
        for task in TASKS.iterdir():
            with contextlib.suppress(OSError):  # it has ended
                name = (task / "comm").read_text().strip()
                self.threads[task.name] = name, int((task / "schedstat").read_text().split()[0]) / 1e9

    def percent_until_now(self, names: dict[str, str]) -> Values:
        """Tell what has been used since then, by the threads of these names and by all."""
        now = Cpu()
        percent = {
            number: (name, (seconds - self.threads.get(number, (name, 0.0))[1]) / (now.moment - self.moment) * 100)
            for number, (name, seconds) in now.threads.items()
        }
        values = {
            quantity: sum(used for thread, used in percent.values() if thread == name)
            for quantity, name in names.items()
        }
        return {**values, "process": sum(used for _, used in percent.values())}


def _markdown(rows: Iterable[Result], columns: dict[str, str]) -> str:
    lines = ["| |" + "".join(f" {heading} |" for heading in columns.values()), "|---|" + "---|" * len(columns)]
    for row in rows:
        lines.append(f"| {row.row} |" + "".join(f" {_cell(row.values.get(key))} |" for key in columns))
    return "\n".join(lines)


def _cell(values: list[float] | None) -> str:
    if not values:
        return ""
    least, median, most = (
        f"{value:.3g}" if value < 100 else f"{value:.0f}"
        for value in (min(values), statistics.median(values), max(values))
    )
    return f"{median} [{least} - {most}]"


if __name__ == "__main__":
    sys.exit(main())
