"""Runs rows in rounds, each sample in a process of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from kafka_async.bench.catalog import Group, InC, Load, Row
from kafka_async.bench.clients import Broker, Properties, temporary_topic
from kafka_async.bench.consuming import fill
from kafka_async.bench.timing import Values

LIMIT_S = 600.0  # for one sample


class SampleError(Exception):
    """A sample ended otherwise than with its values."""


@dataclass
class Result:
    """What a row gave, a list over the rounds for each quantity."""

    row: str
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, values: Values) -> None:
        """Take the values of one more round."""
        for quantity, value in values.items():
            self.values.setdefault(quantity, []).append(value)


@dataclass(frozen=True)
class Bench:
    """All that samples have in common."""

    servers: str
    config: Properties
    partitions: int
    load: Load
    limit: pathlib.Path | None  # the program of bench/limit.c

    def measure(
        self, groups: Sequence[Group], clients: Collection[str], rounds: int, tell: Callable[[str], object]
    ) -> dict[str, list[Result]]:
        """Take a sample of every row in every round, so that what the machine does meanwhile falls on all alike.

        Parameters
        ----------
        groups : sequence of Group
            What to measure.
        clients : collection of str
            Whose rows, as `catalog.CLIENTS` names them.
        rounds : int
            How often.
        tell : callable
            Called with what comes next.

        Returns
        -------
        dict of str to list of Result
            By the keys of the groups. A client whose sample failed has no more of them, and `tell` says why.
        """
        results = {
            group.key: {row.name: Result(row.name) for row in group.rows if row.client in clients} for group in groups
        }
        with contextlib.ExitStack() as stack:
            topics = self._topics(groups, clients, stack, tell)
            for number in range(rounds):
                for group in groups:
                    # Every other round goes backwards: no row always follows the same one.
                    for row in group.rows[:: 1 if number % 2 == 0 else -1]:
                        if row.name in results[group.key]:
                            tell(f"round {number + 1}/{rounds}: {group.key}: {row.name}")
                            broker = topics[group.filled, row.partitions or self.partitions]
                            try:
                                results[group.key][row.name].add(self._sample(group, row, broker))
                            except SampleError as error:
                                tell(f"{group.key}: {row.name} is left out: {error}")
                                del results[group.key][row.name]
        return {key: list(rows.values()) for key, rows in results.items()}

    def _topics(
        self,
        groups: Sequence[Group],
        clients: Collection[str],
        stack: contextlib.ExitStack,
        tell: Callable[[str], object],
    ) -> dict[tuple[bool, int], Broker]:
        """Make a topic for each number of partitions, and one that is filled where a group reads it."""
        topics: dict[tuple[bool, int], Broker] = {}
        for group in groups:
            for row in group.rows:
                key = group.filled, row.partitions or self.partitions
                if row.client in clients and key not in topics:
                    topics[key] = stack.enter_context(temporary_topic(self.servers, key[1], self.config))
                    if group.filled:
                        tell(f"filling a topic of {key[1]:,} partition(s)")
                        fill(topics[key], self.load.messages)
        return topics

    def _sample(self, group: Group, row: Row, broker: Broker) -> Values:
        if isinstance(row.sample, InC):
            return _run(self._command_in_c(row.sample, broker), "")
        order = {
            "group": group.key,
            "row": row.name,
            "broker": dataclasses.asdict(broker),
            "load": dataclasses.asdict(self.load),
        }
        return _run([sys.executable, "-m", "kafka_async.bench.sample"], json.dumps(order))

    def _command_in_c(self, sample: InC, broker: Broker) -> list[str]:
        count = sample.count(self.load)
        numbers = [str(number) for number in (broker.partitions, count, sample.size, sample.rate)]
        settings = [f"{name}={_spelled(value)}" for name, value in broker.config.items()]
        return [str(self.limit), sample.command, broker.servers, broker.topic, *numbers, *settings]


def _run(command: list[str], order: str) -> Values:
    try:
        done = subprocess.run(command, input=order, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise SampleError(f"no end after {LIMIT_S:g} s") from None
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "without a word").splitlines()[-1]
        raise SampleError(f"it ended with {done.returncode}: {last}")
    try:
        values: Values = json.loads(done.stdout)
    except ValueError:
        raise SampleError("it printed no values") from None
    return values


def _spelled(value: str | int | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
