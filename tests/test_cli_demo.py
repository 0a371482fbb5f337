"""``python -m kafka_async demo``: it tells the truth, a bad one too."""

from __future__ import annotations

import functools
import re
import signal

import pytest
from cli_process import counts, read_line, run, start

from kafka_async import Producer
from kafka_async.cli import demo, main
from kafka_async.cli.exchange import Plan
from kafka_async.cli.verify import STAMP
from kafka_async.testing import MockCluster

SOUND = b"every message came back unchanged, once, and in its partition's order"


def test_demo_on_the_embedded_cluster_sends_and_receives_everything() -> None:
    done = run("demo", "--messages", "20,000")
    assert done.returncode == 0, done.stderr
    assert SOUND in done.stdout
    found = counts(done.stdout)
    assert found["sent"] == found["delivered"] == found["received"] == 20_000
    assert found["lost"] == found["duplicated"] == found["out of order"] == found["altered"] == 0
    assert found["messages/s"] > 0
    for row in ("send call", "acknowledgement", "end to end"):
        assert re.search(rf"^{row}( +[\d.]+ (µs|ms|s)){{5}}$", done.stdout.decode(), re.MULTILINE)
    assert done.stderr == b""


def test_demo_histogram_has_every_message() -> None:
    done = run("demo", "--messages", "5000")
    bars = re.findall(r"^< .*? ([\d,]+)$", done.stdout.decode(), re.MULTILINE)
    assert sum(int(bar.replace(",", "")) for bar in bars) == 5000


def test_demo_shows_where_the_time_goes() -> None:
    done = run("demo", "--messages", "5000")
    bars = re.findall(r"^(p\S+) +[█▓▒░]{48} +[\d.]+ (?:µs|ms|s)$", done.stdout.decode(), re.MULTILINE)
    assert bars == ["p50", "p90", "p99", "p99.9"] * 2


def test_demo_on_a_cluster_elsewhere(cluster: MockCluster) -> None:
    done = run(
        "demo", "--bootstrap-servers", cluster.bootstrap_servers, "--messages", "2000", "-X", "fetch.wait.max.ms=1"
    )
    assert done.returncode == 0, done.stderr
    assert SOUND in done.stdout
    assert cluster.bootstrap_servers.encode() in done.stdout


def test_demo_sends_more_than_the_embedded_cluster_keeps() -> None:
    done = run("demo", "--messages", "60", "--size", "500000", "--partitions", "1")
    assert done.returncode == 0, done.stdout
    assert counts(done.stdout)["received"] == 60


def test_demo_rate_is_a_steady_rate() -> None:
    done = run("demo", "--messages", "400", "--rate", "400", "--size", str(STAMP.size))
    assert done.returncode == 0, done.stderr
    assert counts(done.stdout)["messages/s"] <= 402  # the first is sent at once
    assert b"behind its schedule" in done.stdout


@pytest.mark.broker
def test_demo_on_a_real_kafka(broker: str) -> None:
    done = run("demo", "--bootstrap-servers", broker, "--messages", "20000")
    assert done.returncode == 0, done.stdout + done.stderr
    assert counts(done.stdout)["received"] == 20_000


def test_demo_ends_early_and_cleanly_on_sigint() -> None:
    with start("demo", "--messages", "10000000", "--rate", "500") as process:
        while b"on their way" not in read_line(process.stdout):
            pass
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=45)
        assert process.returncode == 130, errors
        assert b"Traceback" not in errors
        # Very early there is nothing to report yet.
        assert not output or (b"ended early" in output and SOUND not in output)


class Spoiling(Producer):
    """Does something to message 700, as a bad network or a bug might."""

    how: str
    kept: bytes | None = None

    def send(self, value: bytes, **options: object) -> None:  # type: ignore[override]
        number = STAMP.unpack_from(value)[1]
        again = functools.partial(super().send, **options)  # type: ignore[arg-type]
        if number == 700 and self.how == "altered":
            value = value[:-1] + b"!"
        if number == 700 and self.how == "out of order":
            self.kept = value
            return
        if number == 700 and self.how == "lost":
            return
        again(value)
        if number == 701 and self.kept:
            again(self.kept)
        if number == 700 and self.how == "duplicated":
            again(value)


@pytest.mark.parametrize("how", ["lost", "duplicated", "out of order", "altered"])
def test_demo_fails_when_one_message_is(
    how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Spoiling, "how", how, raising=False)
    monkeypatch.setattr(demo, "Producer", Spoiling)
    monkeypatch.setattr(demo, "Plan", functools.partial(Plan, patience_s=0.5))
    assert main(["demo", "--messages", "2000", "--partitions", "1"]) == 1
    output = capsys.readouterr().out
    assert f"1 {how}" in output
    assert SOUND.decode() not in output
    found = counts(output.encode())
    assert found[how] == 1
    assert found["received"] - found["duplicated"] + found["lost"] == found["sent"] == 2000
