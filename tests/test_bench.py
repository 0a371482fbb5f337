"""The parts of the bench that need no broker: what becomes of many times, and how results are shown."""

from __future__ import annotations

import itertools
import pathlib
import socket
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import NOBODY

from kafka_async.bench import clients, hops, report, rounds, timing
from kafka_async.bench.catalog import GROUPS, InC, Load
from kafka_async.bench.rounds import Bench, Result, SampleError
from kafka_async.cli import main
from kafka_async.metrics import LatencySummary, ProducerHops

LIMIT = pathlib.Path(__file__).parents[1] / "bench" / "limit.c"


def result(row: str, **values: list[float]) -> Result:
    return Result(row, {name.replace("_9", ".9"): numbers for name, numbers in values.items()})


def test_percentiles_are_times_that_were_measured() -> None:
    values = timing.percentiles([number * 1000 for number in range(1000, 0, -1)])
    assert values["p50"] == 500
    assert values["p99"] == 990
    assert values["p99.9"] == 999
    assert values["p99.99"] == values["p100"] == 1000
    assert timing.percentiles([7000]) == dict.fromkeys(values, 7.0)


def test_call_that_overruns_delays_those_that_are_due_meanwhile() -> None:
    assert timing.queued([1, 1, 25, 1, 1, 1, 1], 10) == [1, 1, 25, 16, 7, 1, 1]


@given(st.lists(st.integers(0, 50)), st.integers(1, 100))
def test_open_loop_is_never_faster_than_the_calls(times: list[int], period: int) -> None:
    begin = end = 0.0
    for took, latency in zip(times, timing.queued(times, period), strict=True):
        end = max(begin, end) + took  # a caller that begins as soon as it can
        assert latency == end - begin >= took
        begin += period


def test_pace_gives_moments_that_were_due() -> None:
    moments = list(timing.pace(1000, 0.02))
    assert len(moments) == 20
    assert {after - before for before, after in itertools.pairwise(moments)} == {1_000_000}


def test_hops_come_through_numbers_unchanged() -> None:
    summary = LatencySummary(3, 0.5, 0.1, 0.2, 0.3, 0.4, 0.6)
    measured = ProducerHops(*[summary] * 4, LatencySummary(0, 0, 0, 0, 0, 0, 0))
    assert hops.from_values("producer", hops.hops("producer", measured)) == measured
    assert hops.from_values("consumer", {}) is None


def test_table_has_medians_and_ratios_of_the_same_round() -> None:
    rows = [
        result("kafka_async", p50=[1000, 2000, 9000], p99=[1000] * 3, p99_9=[1000] * 3),
        result("confluent, tuned", p50=[2000, 4000, 9000], p99=[1000] * 3, p99_9=[1000] * 3),
    ]
    text = report.markdown({"rounds": "3"}, {"cross-500": rows})
    assert "- rounds: 3" in text
    assert "## End to end at 500/s" in text
    assert "| p50 x confluent, tuned |" in text
    assert "| kafka_async | 2.00 [1.00 - 9.00] | 1.00 [1.00 - 1.00] | 1.00 [1.00 - 1.00] | 0.50 [0.50 - 1.00] |" in text
    assert "| confluent, tuned | 4.00 [2.00 - 9.00] | 1.00 [1.00 - 1.00] | 1.00 [1.00 - 1.00] |  |" in text


def test_what_is_compared_is_there() -> None:
    for group in GROUPS.values():
        names = [row.name for row in group.rows]
        assert len(set(names)) == len(names)
        assert set(group.against) <= set(names)
        assert group.main in group.columns


def test_program_in_c_knows_every_sample_that_it_has_to_take() -> None:
    commands = {row.sample.command for group in GROUPS.values() for row in group.rows if isinstance(row.sample, InC)}
    text = LIMIT.read_text()
    assert commands
    assert [command for command in commands if f'!strcmp(command, "{command}")' not in text] == []


def test_row_whose_sample_fails_is_left_out_and_said_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def sample(_self: Bench, _group: Any, row: Any, _broker: Any) -> dict[str, float]:
        if row.client == "aiokafka":
            raise SampleError("no end after 600 s")
        return {"import_ms": 1.0}

    told: list[str] = []
    monkeypatch.setattr(Bench, "_sample", sample)
    monkeypatch.setattr(Bench, "_topics", lambda *_: dict.fromkeys([(False, 1)]))
    bench = Bench(NOBODY, {}, 1, Load(), None)
    results = bench.measure([GROUPS["import"]], ["kafka_async", "aiokafka"], 2, told.append)
    assert results == {"import": [Result("kafka_async", {"import_ms": [1.0, 1.0]})]}
    assert "import: aiokafka is left out: no end after 600 s" in told


def test_broker_that_is_not_there_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--bootstrap-servers", NOBODY]) == 1
    assert "no broker can be reached" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--limit", "/nosuch"], "--limit /nosuch: no program that can be run"),
        (["--limit", "/"], "--limit /: no program that can be run"),
        (["-X", "nosuch=1"], "nosuch"),
        (["-X", "acks=zzz"], "acks"),
        (["--clients", "aiokafka", "--only", "call"], "nothing to measure"),
    ],
)
def test_what_can_not_be_measured_is_refused_at_once(
    capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert main(["bench", "--bootstrap-servers", NOBODY, *arguments]) == 2
    assert told in capsys.readouterr().err


def test_partitions_that_no_topic_has_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "--partitions", "100001"])
    assert "must be 100,000 or less" in capsys.readouterr().err


def test_port_that_is_no_brokers_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setattr(clients, "CREATE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        servers = f"127.0.0.1:{silent.getsockname()[1]}"
        assert main(["bench", "--bootstrap-servers", servers, "--output", str(tmp_path)]) == 1
    assert f"no topic can be made on {servers}" in capsys.readouterr().err


def test_program_that_prints_no_values_is_left_out_and_said_why() -> None:
    with pytest.raises(SampleError, match="no values"):
        rounds._run(["true"], "")


def test_without_confluent_kafka_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "confluent_kafka" else object())
    assert main(["bench", "--bootstrap-servers", NOBODY]) == 2
    assert "pip install 'kafka_async[bench]'" in capsys.readouterr().err
