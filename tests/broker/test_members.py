"""Processes join, leave and are killed while messages flow: nothing is lost, nothing comes after its revoke."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from groups import (
    group_config,
    group_kafka,  # noqa: F401 - fixtures
    group_server,  # noqa: F401
    version,
)
from support import create_topic, wait_for

from kafka_async import Producer

pytestmark = [pytest.mark.broker, pytest.mark.timeout(150)]

PROGRAM = Path(__file__).with_name("member.py")
PARTITIONS = 6
MESSAGES = 50_000  # at least
PER_SECOND = 5_000
LIMIT_S = 60


class Line(NamedTuple):
    """Of a member's file."""

    at: int
    what: str
    numbers: tuple[int, ...]


class Member:
    """A process, and what it wrote."""

    def __init__(self, servers: str, topic: str, kind: str, path: Path) -> None:
        config = group_config(kind, session_timeout_ms=3000, auto_commit_interval_ms=200)
        self._path = path
        self._read = 0
        self._lines: list[Line] = []
        self.killed = False
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), json.dumps([servers, topic, config, str(path)])]
        )

    def lines(self) -> list[Line]:
        """All that are complete."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._read)
                whole = file.read().rpartition(b"\n")[0]
            for line in whole.decode().splitlines():
                at, what, *numbers = line.split()
                self._lines.append(Line(int(at), what, tuple(map(int, numbers))))
            self._read += len(whole) + 1 if whole else 0
        return self._lines

    def holds_something(self) -> bool:
        return any(line.what == "handed" for line in self.lines())

    def kill(self) -> None:
        self.killed = True
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(LIMIT_S) in (0, -signal.SIGKILL if self.killed else 0)


def faults(members: Sequence[tuple[Sequence[Line], bool]], values: int) -> dict[str, list[object]]:
    """What is wrong with members' lines; the second item of each: it was killed."""
    found: dict[str, list[object]] = defaultdict(list)
    hands: dict[tuple[int, int], list[tuple[int, bool]]] = defaultdict(list)
    handed_values = set()
    spans: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for lines, killed in members:
        held: dict[int, int] = {}
        last: dict[int, int] = {}
        for line in lines:
            if line.what == "assigned":
                held |= dict.fromkeys(line.numbers, line.at)
            elif line.what in ("revoked", "lost"):
                for number in line.numbers:
                    begun = held.pop(number, line.at)
                    if line.what == "revoked":  # one that was lost ended before the member knew
                        spans[number].append((begun, line.at))
                    last.pop(number, None)
            elif line.what == "handed":
                partition, offset, value = line.numbers
                if partition not in held:
                    found["after its revoke"].append(line)
                if offset != last.get(partition, offset - 1) + 1:
                    found["out of order"].append(line)
                last[partition] = offset
                hands[partition, offset].append((line.at, killed))
                handed_values.add(value)
        if not killed:
            found["kept"] += held
    found["lost"] += sorted({*range(values)} - handed_values)
    for place, times in hands.items():
        if not all(killed for _, killed in sorted(times)[:-1]):
            found["twice"].append(place)
    for number, held_spans in spans.items():
        ordered = sorted(held_spans)
        found["shared"] += [number for one, other in pairwise(ordered) if one[1] > other[0]]
    return {name: what for name, what in found.items() if what}


def produce(servers: str, topic: str, enough: threading.Event) -> int:
    """A steady flow that goes on until then. How many there were."""
    number = 0
    with Producer(servers, topic, on_full="block") as producer:
        began = time.monotonic()
        while number < MESSAGES or not enough.is_set():
            producer.send(b"%d" % number, partition=number % PARTITIONS)
            number += 1
            if number % 100 == 0:
                time.sleep(max(0.0, began + number / PER_SECOND - time.monotonic()))
    return number


@pytest.mark.parametrize("kind", ["range", "cooperative-sticky", "consumer"])
def test_churn_loses_nothing_and_repeats_only_what_was_killed(
    kafka: str, topic: str, kind: str, tmp_path: Path
) -> None:
    if kind == "consumer" and version() < (2, 12):
        pytest.skip("group.protocol=consumer needs librdkafka 2.12")
    create_topic(kafka, topic, PARTITIONS)
    members: list[Member] = []

    def join() -> Member:
        members.append(Member(kafka, topic, kind, tmp_path / f"{len(members)}"))
        return members[-1]

    enough = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        source = threads.submit(produce, kafka, topic, enough)
        try:
            running = []
            for _ in range(3):
                running.append(join())
                if kind == "consumer":  # librdkafka's members that join at once may share partitions for a moment
                    wait_for(running[-1].holds_something, LIMIT_S)
            for way in (Member.stop, Member.kill, Member.stop, Member.kill):
                for member in running:
                    wait_for(member.holds_something, LIMIT_S)
                way(running.pop(0))
                running.append(join())
            for member in running:
                wait_for(member.holds_something, LIMIT_S)
            enough.set()
            count = source.result(LIMIT_S)

            def all_seen() -> bool:
                lines = (line for member in members for line in member.lines())
                return len({line.numbers[2] for line in lines if line.what == "handed"}) == count

            wait_for(all_seen, LIMIT_S)
            for member in running:
                member.stop()
        finally:
            enough.set()
            for member in members:
                member.kill() if member not in running else member._process.kill()
    found = [(member.lines(), member.killed) for member in members]
    doubled = sum(line.what == "handed" for lines, _ in found for line in lines) - count
    print(f"{count} messages, repeated after a kill: {doubled}")
    assert faults(found, count) == {}


A = [Line(1, "assigned", (0,)), Line(2, "handed", (0, 0, 0)), Line(3, "handed", (0, 1, 1))]
B = [Line(7, "assigned", (0,)), Line(8, "handed", (0, 2, 2)), Line(9, "revoked", (0,))]
REVOKED = Line(5, "revoked", (0,))


@pytest.mark.parametrize(
    ("members", "names"),
    [
        ([([*A, REVOKED], False), (B, False)], set()),
        ([(A, True), (B, False)], set()),
        ([(A, False), (B, False)], {"kept"}),
        ([([*A, REVOKED, Line(6, "handed", (0, 2, 2))], False), (B, False)], {"after its revoke", "twice"}),
        ([([*A, REVOKED], False), ([*B[:1], *B[2:]], False)], {"lost"}),
        ([([*A, Line(8, "revoked", (0,))], False), (B, False)], {"shared"}),
        ([([*A, REVOKED], False), ([*B[:1], A[1], A[2], *B[1:]], False)], {"twice"}),
        ([([A[0], A[2], REVOKED], False), ([Line(6, "assigned", (0,)), A[1], *B], False)], {"out of order"}),
    ],
    ids=["right", "killed", "kept", "after its revoke", "lost", "shared", "twice", "out of order"],
)
def test_checker_finds_what_is_wrong(members: list[tuple[list[Line], bool]], names: set[str]) -> None:
    assert {*faults(members, 3)} == names
