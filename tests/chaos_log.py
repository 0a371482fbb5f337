"""What producers were told of their messages, and whether the log agrees, as another client reads it."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from other_client import Row

from kafka_async import DeliveryError, DeliveryReport, ProducerMetrics, RecordMetadata

PARTITIONS = 3


@dataclass
class Account:
    """An application's own count of its messages, b"0", b"1" ..., of which number n goes to partition n % PARTITIONS.

    `ordered` and `once` are what its producer promises. Its fields may be read when the producer has stopped.
    """

    ordered: bool = True
    once: bool = False
    accepted: int = 0
    refused: int = 0
    #: By number; where it is, an offset of None is not known.
    delivered: dict[int, int | None] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    purged: set[int] = field(default_factory=set)
    #: Messages that must not be in the log: those of aborted transactions.
    banned: set[int] = field(default_factory=set)
    #: Messages of which all must be in the log, or none: of transactions whose end nobody could tell.
    whole: list[range] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def tell(self, report: DeliveryReport) -> None:
        """Take an outcome, from a callback or ``failures()``."""
        number = int(report.value or b"-1")
        with self._lock:
            if number in self.delivered or number in self.failed or number in self.purged:
                self.wrong.append(f"{number} has two outcomes")
            if report.error is None:
                self._place(number, report.partition, report.offset)
            elif report.error.name.startswith("_PURGE"):
                self.purged.add(number)
            else:
                self.failed[number] = report.error.name

    def end(self, number: int, outcome: RecordMetadata | BaseException | None) -> None:
        """Take the outcome in a future."""
        if isinstance(outcome, RecordMetadata):
            with self._lock:
                self._place(number, outcome.partition, outcome.offset)
        elif isinstance(outcome, DeliveryError) and outcome.report is not None:
            self.tell(outcome.report)
        else:
            self.wrong.append(f"{number} ended with {outcome!r}")

    def _place(self, number: int, partition: int | None, offset: int | None) -> None:
        if partition != number % PARTITIONS:
            self.wrong.append(f"{number} went to partition {partition}")
        self.delivered[number] = offset

    def deliver_rest(self) -> None:
        """Take for delivered what failed for nobody."""
        for number in range(self.accepted):
            if number not in self.failed:
                self.delivered.setdefault(number, None)

    def disagreements(self, *metrics: ProducerMetrics) -> list[str]:
        """Compare with the counts of a producer that has stopped, or of several, one after the other."""
        own = {
            "accepted": self.accepted,
            "delivered": len(self.delivered),
            "failed": len(self.failed),
            "purged": len(self.purged),
            "outstanding": 0,
        }
        theirs = {name: sum(getattr(each, name) for each in metrics) for name in own}
        found = [] if own == theirs else [f"counted {own}, told {theirs}"]
        if len(self.delivered) + len(self.failed) + len(self.purged) != self.accepted:
            found.append(f"not one outcome each: {own}")
        return found + self.wrong


def faults(log: Sequence[Row], account: Account) -> dict[str, list[str]]:
    """What is wrong with the log of one producer's topic."""
    times = Counter(row.value for row in log)
    places = {(row.partition, row.offset): row.value for row in log}
    found = {
        "missing": [str(number) for number in account.delivered if b"%d" % number not in times],
        "foreign": [str(row) for row in log if not _is_own(row, account)],
        "misplaced": [
            str(number)
            for number, offset in account.delivered.items()
            if offset is not None and places.get((number % PARTITIONS, offset)) != b"%d" % number
        ],
    }
    found["torn"] = [
        str(numbers)
        for numbers in account.whole
        if sum(b"%d" % number in times for number in numbers) not in (0, len(numbers))
    ]
    if account.once:
        found["doubled"] = [str(value) for value, count in times.items() if count > 1]
    if account.ordered:
        found["disordered"] = _disordered(log, account)
    return {name: which for name, which in found.items() if which}


def _is_own(row: Row, account: Account) -> bool:
    number = int(row.value or b"-1")
    in_place = number % PARTITIONS == row.partition
    return 0 <= number < account.accepted and in_place and number not in account.banned


def _disordered(log: Sequence[Row], account: Account) -> list[str]:
    """Messages whose first copy is behind one that was sent later. One that failed may be stored at any time."""
    found, last, seen = [], dict.fromkeys(range(PARTITIONS), -1), set()
    for row in log:
        number = int(row.value or b"-1")
        if number in seen or number not in account.delivered:
            continue
        seen.add(number)
        if number < last[row.partition]:
            found.append(f"{number} at {row.partition}/{row.offset} behind {last[row.partition]}")
        last[row.partition] = max(number, last[row.partition])
    return found


Places = Mapping[tuple[str, int], Sequence[int]]


def log_places(logs: Mapping[str, Iterable[Row]]) -> dict[tuple[str, int], list[int]]:
    """Topic and partition -> offsets, in order."""
    places: dict[tuple[str, int], list[int]] = defaultdict(list)
    for topic, rows in logs.items():
        for row in rows:
            places[topic, row.partition].append(row.offset)
    return dict(places)


def reading_faults(log: Places, read: Places, *, once: bool) -> dict[str, list[str]]:
    """What is wrong with what consumers read of a log: nothing may be skipped, and if `once` nothing come again."""
    found: dict[str, list[str]] = {"skipped": [], "again": [], "unknown": [], "disordered": []}
    for place in {**log, **read}:
        theirs, mine = log.get(place, []), read.get(place, [])
        found["skipped"] += [f"{place} {offset}" for offset in sorted(set(theirs) - set(mine))]
        found["unknown"] += [f"{place} {offset}" for offset in sorted(set(mine) - set(theirs))]
        if once:
            found["again"] += [f"{place} {offset}" for offset, count in Counter(mine).items() if count > 1]
            found["disordered"] += [str(place)] if list(mine) != sorted(mine) else []
    return {name: which for name, which in found.items() if which}
