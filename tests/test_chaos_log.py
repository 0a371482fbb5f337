"""The judge of the chaos tests finds what is wrong, whatever it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from chaos_log import Account, faults, reading_faults
from other_client import Row

from kafka_async import DeliveryReport, KafkaError, RecordMetadata


def rows(*numbers: int) -> list[Row]:
    """Messages of partition 0 in the order of its log."""
    return [Row(0, offset, None, b"%d" % number, [], 1) for offset, number in enumerate(numbers)]


def account(*delivered: int, **options: bool) -> Account:
    told = Account(accepted=12, **options)
    told.delivered = dict.fromkeys(delivered)
    return told


@pytest.mark.parametrize(
    ("log", "told", "found"),
    [
        (rows(0, 3, 6), account(0, 3), set()),
        (rows(0, 6), account(0, 3), {"missing"}),
        (rows(0, 3, 0), account(0, 3), set()),
        (rows(0, 3, 0), account(0, 3, once=True), {"doubled"}),
        (rows(3, 0), account(0, 3), {"disordered"}),
        (rows(3, 0), account(0, 3, ordered=False), set()),
        (rows(3, 0), account(3), set()),  # what failed may be stored late
        (rows(0, 12), account(0), {"foreign"}),
        (rows(1), account(), {"foreign"}),  # its partition is 1
    ],
    ids=["right", "missing", "again", "doubled", "disordered", "unordered", "late", "unsent", "elsewhere"],
)
def test_log_is_judged(log: list[Row], told: Account, found: set[str]) -> None:
    assert faults(log, told).keys() == found


def test_place_that_was_told_must_hold_the_message() -> None:
    told = account()
    told.end(3, RecordMetadata("t", 0, 1, None))
    assert faults(rows(0, 3), told) == {}
    assert faults(rows(3, 0), told) == {"misplaced": ["3"]}


def test_aborted_messages_may_not_be_seen() -> None:
    told = account(0)
    told.banned = {3}
    assert faults(rows(0, 3), told).keys() == {"foreign"}


def test_transaction_may_not_be_torn() -> None:
    told = account(ordered=False)
    told.whole = [range(0, 6, 3)]
    assert faults([], told) == faults(rows(0, 3), told) == {}
    assert faults(rows(0), told).keys() == {"torn"}


def report(number: int, error: str | None) -> DeliveryReport:
    return DeliveryReport("t", number % 3, None, None, b"%d" % number, [], error and KafkaError(name=error), 0.0)  # type: ignore[arg-type]


def metrics(accepted: int, delivered: int, failed: int, purged: int) -> Any:
    outstanding = accepted - delivered - failed - purged
    return SimpleNamespace(
        accepted=accepted, delivered=delivered, failed=failed, purged=purged, outstanding=outstanding
    )


def test_counts_are_compared() -> None:
    told = Account(accepted=3)
    for number, error in enumerate((None, "_MSG_TIMED_OUT", "_PURGE_QUEUE")):
        told.tell(report(number, error))
    assert told.disagreements(metrics(3, 1, 1, 1)) == []
    for wrong in (metrics(3, 1, 1, 0), metrics(3, 2, 0, 1), metrics(4, 1, 1, 1)):
        assert told.disagreements(wrong)
    assert told.disagreements(metrics(1, 1, 0, 0), metrics(2, 0, 1, 1)) == []
    told.tell(report(2, None))
    assert any("two outcomes" in line for line in told.disagreements(metrics(3, 1, 1, 1)))


PLACE = ("t", 0)


@pytest.mark.parametrize(
    ("read", "once", "found"),
    [
        ([0, 1, 3], True, set()),
        ([0, 3], False, {"skipped"}),
        ([0, 1, 0, 1, 3], False, set()),
        ([0, 1, 1, 3], True, {"again"}),
        ([0, 3, 1], True, {"disordered"}),
        ([0, 1, 2, 3], False, {"unknown"}),
    ],
)
def test_reading_is_judged(read: list[int], once: bool, found: set[str]) -> None:
    assert reading_faults({PLACE: [0, 1, 3]}, {PLACE: read}, once=once).keys() == found
