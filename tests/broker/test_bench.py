"""The bench as a whole, on small loads: every group of samples by every client."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cli_process import COMMAND
from support import wait_for

from kafka_async.bench.catalog import GROUPS
from kafka_async.cli import main

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]

LIMIT = Path(__file__).parents[2] / "bench" / "limit.c"
# Others are the same with other numbers.
CHOSEN = ["call", "call-paced-busy", "flushed-100", "read", "cross-500", "awaited-2000", "memory", "import"]
SMALL = ["--calls", "1000", "--messages", "5000", "--seconds", "1"]


@pytest.fixture
def limit(tmp_path: Path) -> Path:
    """The program in C."""
    if not (compiler := shutil.which("cc")) or not (config := shutil.which("pkg-config")):
        pytest.skip("needs a C compiler, and librdkafka's headers")
    flags = subprocess.run([config, "--cflags", "--libs", "rdkafka"], capture_output=True, text=True, check=True).stdout
    program = tmp_path / "limit"
    subprocess.run([compiler, "-std=gnu11", "-o", program, LIMIT, *flags.split(), "-pthread"], check=True, timeout=60)
    return program


def topics(servers: str) -> set[str]:
    from confluent_kafka.admin import AdminClient

    return {
        name for name in AdminClient({"bootstrap.servers": servers}).list_topics(timeout=10).topics if "bench" in name
    }


def test_every_row_has_a_value(broker: str, limit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = topics(broker)
    arguments = ["--bootstrap-servers", broker, "--limit", str(limit), "--output", str(tmp_path / "out")]
    assert main(["bench", *arguments, *SMALL, "--rounds", "1", "--only", *CHOSEN]) == 0
    printed = capsys.readouterr()
    assert "left out" not in printed.err
    report = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert list(report["results"]) == CHOSEN
    for key, rows in report["results"].items():
        assert [row["row"] for row in rows] == [row.name for row in GROUPS[key].rows]
        for row in rows:
            assert len(row["values"][GROUPS[key].main]) == 1
            assert min(row["values"][GROUPS[key].main]) > 0
    table = (tmp_path / "out" / "bench.md").read_text()
    assert table in printed.out
    assert "where the time goes, producer: cross-500, kafka_async" in printed.out
    for name in ("call", "flushed-100", "cross-500-hops", "awaited-2000"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert topics(broker) <= before


@pytest.mark.parametrize("everybody", [False, True])  # Ctrl-C goes to the sample, too
def test_signal_ends_it_soon_and_leaves_nothing_behind(broker: str, tmp_path: Path, everybody: bool) -> None:
    before = topics(broker)
    chosen = ["--only", "cross-500", "--rounds", "9", "--seconds", "2"]
    command = [*COMMAND, "bench", "--bootstrap-servers", broker, "--output", str(tmp_path / "out"), *chosen]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith("round 1/9"):
                    break
            wait_for(lambda: any("kafka_async.bench.sample" in other for other in others(process.pid)), what="a sample")
            (os.killpg if everybody else os.kill)(process.pid, signal.SIGINT)
            began = time.monotonic()
            assert process.wait(30) == 128 + signal.SIGINT
            assert time.monotonic() - began < 10
            assert "Traceback" not in process.stderr.read()
            wait_for(lambda: not others(process.pid), what="the end of what it started")
        finally:
            process.kill()
    assert topics(broker) <= before
    assert not list((tmp_path / "out").iterdir())


def others(session: int) -> list[str]:
    """The processes of a session but for its leader and what is dead."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, of = (folder / "stat").read_text().rpartition(") ")[2].split()[:4]
            if int(of) == session != int(folder.name) and state != "Z":
                found.append((folder / "cmdline").read_text())
    return found


def test_results_are_saved_though_nobody_reads_them(broker: str, tmp_path: Path) -> None:
    chosen = ["--only", "flushed-100", "--rounds", "1", *SMALL]
    command = [*COMMAND, "bench", "-q", "--bootstrap-servers", broker, "--output", str(tmp_path / "out"), *chosen]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(120) == 0
    assert json.loads((tmp_path / "out" / "bench.json").read_text())["results"]["flushed-100"]


def test_clients_are_chosen_and_who_can_not_take_part_is_named(
    broker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["--clients", "kafka_async", "aiokafka", "c", "--only", "gathered", "flushed-100", "--rounds", "2", *SMALL]
    arguments = ["--bootstrap-servers", broker, "-X", "client.id=bench", "--output", str(tmp_path)]
    assert main(["bench", *arguments, *chosen]) == 0
    printed = capsys.readouterr()
    assert "c is left out: name the program of bench/limit.c" in printed.err
    assert "aiokafka is left out: it does not know the properties" in printed.err
    report = json.loads((tmp_path / "bench.json").read_text())
    rows = [row for group in report["results"].values() for row in group]
    assert {row["row"] for row in rows} == {"kafka_async.aio", "kafka_async send"}
    assert {len(row["values"]["messages_s"]) for row in rows} == {2}
