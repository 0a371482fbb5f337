"""Compares kafka_async with other clients on one broker, in one run. See README.md."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import sys

import aiokafka
import confluent_kafka
from awaited import awaited_cases, iterated_cases
from clients import Broker, temporary_topic
from consume import consumer_cases, fill, prefetched_cases
from produce import PAYLOAD, send_cases, throughput_cases
from table import TABLES, Case, measure, show

import kafka_async


def main() -> int:
    """Run the comparison that the command line asks for."""
    arguments = _parse()
    with contextlib.ExitStack() as stack:
        results = measure(_cases(arguments, stack), arguments.rounds)
    environment = _environment(arguments)
    print("\n".join(f"{name}: {value}" for name, value in environment.items()), end="\n\n")
    print(show(results))
    if arguments.json:
        report = {"environment": environment, "results": [dataclasses.asdict(result) for result in results]}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap-servers", default="localhost:9092", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="every case runs once in each (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=50_000, help="timed calls of a send case (default: %(default)s)")
    parser.add_argument("--messages", type=int, default=300_000, help="of the other cases (default: %(default)s)")
    parser.add_argument("--partitions", type=int, default=1, help="of the topics (default: %(default)s)")
    parser.add_argument("--only", choices=TABLES, nargs="+", default=list(TABLES), help="groups of cases")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write every round's values there")
    return parser.parse_args()


def _cases(arguments: argparse.Namespace, stack: contextlib.ExitStack) -> list[Case]:
    def topic() -> Broker:
        return stack.enter_context(temporary_topic(arguments.bootstrap_servers, arguments.partitions))

    cases = []
    if {"send", "producer"} & set(arguments.only):
        target = topic()
        cases += send_cases(target, arguments.calls) + throughput_cases(target, arguments.messages)
    if {"awaited at 200/s", "awaited at 2000/s", "gathered", "pipelined"} & set(arguments.only):
        cases += awaited_cases(topic(), arguments.calls)
    if {"consumer", "prefetched", "iterated"} & set(arguments.only):
        source = topic()
        fill(source, arguments.messages)
        cases += consumer_cases(source, arguments.messages) + prefetched_cases(source, arguments.messages)
        cases += iterated_cases(source, arguments.messages)
    return [case for case in cases if case.group in arguments.only]


def _environment(arguments: argparse.Namespace) -> dict[str, str]:
    return {
        "kafka_async": f"librdkafka {kafka_async.librdkafka_version}",
        "confluent-kafka": f"{confluent_kafka.version()}, librdkafka {confluent_kafka.libversion()[0]}",
        "aiokafka": aiokafka.__version__,
        "Python": f"{platform.python_version()} on {os.cpu_count()} CPUs",
        "rounds": f"{arguments.rounds}, of {arguments.calls:,} calls and {arguments.messages:,} messages",
        "topics": f"{arguments.partitions} partition(s), acks=all, no compression, messages of {len(PAYLOAD)} bytes",
    }


if __name__ == "__main__":
    sys.exit(main())
