"""Cases, their results over the rounds, and how they are shown."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

Values = dict[str, float]


@dataclass(frozen=True)
class Case:
    """One library doing one thing, measured once by each call of `run`."""

    group: str
    name: str
    run: Callable[[], Values]


@dataclass
class Result:
    """What a case gave, a list over the rounds for each quantity."""

    group: str
    name: str
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, values: Values) -> None:
        """Take the values of one more round."""
        for quantity, value in values.items():
            self.values.setdefault(quantity, []).append(value)


def measure(cases: list[Case], rounds: int) -> list[Result]:
    """Run every case once a round, so that what the machine does meanwhile falls on all alike."""
    results = [Result(case.group, case.name) for case in cases]
    pairs = list(zip(cases, results, strict=True))
    for number in range(rounds):
        # Every other round goes backwards: no case always follows the same one.
        for case, result in pairs if number % 2 == 0 else reversed(pairs):
            print(f"round {number + 1}/{rounds}: {case.group}: {case.name}", file=sys.stderr)
            result.add(case.run())
    return results


# Group -> (title, {quantity: (heading, factor for showing, decimals)}).
TABLES: dict[str, list[tuple[str, dict[str, tuple[str, float, int]]]]] = {
    "send": [
        (
            "Time inside one call, clocked call by call (us; two clock readings are about 0.05 of it)",
            {f"p{p}_us": (f"p{p}", 1, 2) for p in ("50", "90", "99", "99.9")},
        ),
        (
            "Tight loop (ns a call)",
            {"loop_ns": ("passed", 1, 0), "loop_cpu_ns": ("CPU of the caller", 1, 0)},
        ),
    ],
    "producer": [
        ("Until all are delivered (thousand messages/s)", {"messages_s": ("k/s", 1e-3, 0)}),
    ],
    "consumer": [
        (
            "Whole path from the broker",
            {
                "first_ms": ("first message, ms after opening", 1, 0),
                "messages_s": ("then, thousand messages/s", 1e-3, 0),
            },
        ),
    ],
    **{
        f"awaited at {rate}/s": [
            (f"An awaited send, acknowledged, at {rate}/s (us)", {f"p{p}_us": (f"p{p}", 1, 0) for p in ("50", "99")})
        ]
        for rate in (200, 2000)
    },
    "gathered": [
        ("Awaited sends, a task for each, all begun at once (thousand messages/s)", {"messages_s": ("k/s", 1e-3, 1)}),
    ],
    "pipelined": [
        (
            "Sends from one task, their futures gathered, or flushed (thousand messages/s)",
            {"messages_s": ("k/s", 1e-3, 1)},
        ),
    ],
    "iterated": [
        ("Reading on an event loop, one at a time (thousand messages/s)", {"messages_s": ("k/s", 1e-3, 1)}),
    ],
    "prefetched": [
        (
            "Reading what is prefetched, two fields of each (ns a message)",
            {"wall_ns": ("passed", 1, 0), "cpu_ns": ("CPU of the caller", 1, 0)},
        ),
    ],
}


def show(results: Iterable[Result]) -> str:
    """Write all results as plain text, a cell being: median [least - most]."""
    lines = []
    for group, tables in TABLES.items():
        rows = [result for result in results if result.group == group]
        for title, columns in tables if rows else []:
            cells = [["", *(heading for heading, _, _ in columns.values())]]
            cells += [[row.name, *(_cell(row.values[key], *how[1:]) for key, how in columns.items())] for row in rows]
            lines += [title, *_aligned(cells), ""]
    return "\n".join(lines)


def _cell(values: list[float], factor: float, decimals: int) -> str:
    shown = [f"{value * factor:,.{decimals}f}" for value in (statistics.median(values), min(values), max(values))]
    return f"{shown[0]} [{shown[1]} - {shown[2]}]"


def _aligned(cells: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
