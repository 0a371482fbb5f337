"""The parts of the command line that need no cluster."""

from __future__ import annotations

import random
import struct

import pytest

from kafka_async.cli.anatomy import draw
from kafka_async.cli.connect import reach
from kafka_async.cli.histogram import Latencies
from kafka_async.cli.terminal import duration
from kafka_async.cli.verify import CLOSING, STAMP, Verifier, filler
from kafka_async.message import Message
from kafka_async.metrics import LatencySummary

RUN = b"this run"
REST = filler(100)


def message(number: int, partition: int = 0, run: bytes = RUN, rest: bytes = REST) -> Message:
    return Message(STAMP.pack(run, number, 5) + rest, None, "t", partition, 0, 0, "create", None)


@pytest.fixture
def verifier() -> Verifier:
    return Verifier(RUN, 10, REST)


def test_filler_and_stamp_make_the_size() -> None:
    assert [STAMP.size + len(filler(size)) for size in (24, 25, 1000)] == [24, 25, 1000]


def test_verifier_accepts_partitions_in_any_interleaving(verifier: Verifier) -> None:
    for number in (1, 3, 5, 7, 9):
        assert verifier.check(message(number, partition=1)) == 5
    for number in (0, 2, 4, 6, 8):
        assert verifier.check(message(number, partition=0)) == 5
    assert verifier.received == verifier.distinct == 10
    assert verifier.duplicated == verifier.out_of_order == verifier.altered == 0


def test_verifier_tells_late_from_repeated(verifier: Verifier) -> None:
    for number in (0, 2, 1, 2):
        verifier.check(message(number))
    assert (verifier.received, verifier.distinct) == (4, 3)
    assert (verifier.out_of_order, verifier.duplicated) == (1, 1)


@pytest.mark.parametrize("bad", [message(3, rest=REST[:-1] + b"?"), message(3, rest=REST + b"?"), message(10)])
def test_verifier_notices_an_altered_message(verifier: Verifier, bad: Message) -> None:
    verifier.check(bad)
    assert (verifier.received, verifier.altered) == (1, 1)


def test_verifier_notices_a_number_that_never_was(verifier: Verifier) -> None:
    verifier.check(message(10))
    assert verifier.distinct == 0


@pytest.mark.parametrize("value", [None, b"", b"short", STAMP.pack(b"another!", 1, 1) + REST])
def test_verifier_skips_what_is_not_of_its_run(verifier: Verifier, value: bytes | None) -> None:
    assert verifier.check(message(0)._replace(value=value)) is None
    assert verifier.received == 0


def test_verifier_keeps_marks_apart(verifier: Verifier) -> None:
    verifier.check(message(CLOSING, partition=2))
    assert verifier.received == 0
    assert verifier.marks[CLOSING] == {2}


def test_percentiles_are_within_a_bucket_of_the_truth() -> None:
    generator = random.Random(1)
    times = sorted(int(generator.lognormvariate(12, 2)) for _ in range(20_000))
    latencies = Latencies()
    for time in times:
        latencies.add(time)
    for percent in (1, 50, 90, 99, 99.9):
        truth = times[int(len(times) * percent / 100)]
        assert latencies.percentile(percent) * 1e9 == pytest.approx(truth, rel=0.035)
    assert latencies.max_ns == times[-1]
    assert sum(count for _, count in latencies.rows()) == len(times)


@pytest.mark.parametrize("ns", [0, 1, 63, 64, 2**40, 2**63 - 1])
def test_any_time_has_a_bucket(ns: int) -> None:
    latencies = Latencies()
    latencies.add(ns)
    assert latencies.percentile(50) * 1e9 == pytest.approx(ns, rel=0.035, abs=1)
    assert len(latencies.draw()) == 1


def test_no_times_are_no_rows() -> None:
    assert Latencies().draw() == []
    assert Latencies().percentile(99) == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 µs"),
        (1.5e-6, "1.50 µs"),
        (9.996e-6, "10.0 µs"),
        (999.6e-6, "1.00 ms"),
        (0.25, "250 ms"),
        (12, "12.0 s"),
    ],
)
def test_durations_have_three_digits(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "servers", ["", ",", "localhost:no", "[::1]:0", "localhost:1", "PLAINTEXT://localhost:1,[::1]:1"]
)
def test_servers_that_do_not_answer_are_named_with_a_reason(servers: str) -> None:
    with pytest.raises(ConnectionError, match=r"no broker can be reached: .+"):
        reach(servers)


def test_stamp_is_as_small_as_promised() -> None:
    assert STAMP.size == struct.calcsize("8sqq") == 24


def summary(seconds: float) -> LatencySummary:
    return LatencySummary(1, seconds, seconds, seconds, seconds, seconds, seconds)


def test_bars_show_each_part_by_its_share_and_the_sum() -> None:
    lines = draw([("a", summary(0.75e-3)), ("b", summary(0.25e-3)), ("c", summary(0.0))])
    assert lines[0] == f"p50   {'█' * 36}{'▓' * 12}   1.00 ms"
    assert len({line[6:] for line in lines[:4]}) == 1
    assert lines[4].split() == ["█", "a", "▓", "b", "▒", "c"]


@pytest.mark.parametrize("times", [(1.0, 1.0, 1.0), (1e-9, 1.0, 1e-9), (0.0, 0.0, 0.0, 1.0), (1 / 97, 5 / 97, 91 / 97)])
def test_bars_are_full_whatever_is_rounded(times: tuple[float, ...]) -> None:
    for line in draw([("part", summary(time)) for time in times])[:4]:
        assert len(line[6:].split()[0]) == 48


def test_nothing_measured_is_no_bar() -> None:
    assert draw([("a", LatencySummary(0, 0, 0, 0, 0, 0, 0))]) == []
