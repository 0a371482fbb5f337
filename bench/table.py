"""Cases in turn, and what they gave."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from kafka_async.bench.rounds import Result
from kafka_async.bench.timing import Values


@dataclass(frozen=True)
class Case:
    """One thing, measured once by each call of `run`."""

    group: str
    name: str
    run: Callable[[], Values]


def measure(cases: list[Case], rounds: int) -> list[tuple[Case, Result]]:
    """Run every case once a round, so that what the machine does meanwhile falls on all alike."""
    results = [(case, Result(case.name)) for case in cases]
    for number in range(rounds):
        # Every other round goes backwards: no case always follows the same one.
        for case, result in results[:: 1 if number % 2 == 0 else -1]:
            print(f"round {number + 1}/{rounds}: {case.group}: {case.name}", file=sys.stderr)
            result.add(case.run())
    return results
