"""On a terminal there is progress; elsewhere, and without rich, the same lines are plain."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest
from cli_process import COMMAND, LIMIT_S, counts, read_line, run, start

WITHOUT_RICH = [
    sys.executable,
    "-c",
    "import sys; sys.modules['rich'] = None; from kafka_async.cli import main; sys.exit(main())",
]
DEMO = ["demo", "--messages", "3000", "--rate", "3000"]


def on_a_terminal(command: list[str], **environment: str) -> tuple[int, str]:
    """Run with stdout and stderr on a terminal of 100 columns; what appears there."""
    main, terminal = pty.openpty()
    os.set_blocking(main, True)
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40", **environment}
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal, env=env)
    os.close(terminal)
    shown = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # Linux's way to say that the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(main)
    return process.wait(LIMIT_S), shown.decode()


def test_demo_without_rich_tells_the_same() -> None:
    done = run(*DEMO, command=WITHOUT_RICH)
    assert done.returncode == 0, done.stderr
    assert counts(done.stdout)["received"] == 3000
    assert done.stderr == b""


@pytest.mark.parametrize("command", [COMMAND, WITHOUT_RICH], ids=["rich", "plain"])
def test_terminal_shows_progress(command: list[str]) -> None:
    status, shown = on_a_terminal([*command, *DEMO])
    assert status == 0
    assert "of 3,000 messages" in shown
    assert "every message came back" in shown


@pytest.mark.parametrize("command", [COMMAND, WITHOUT_RICH], ids=["rich", "plain"])
def test_no_color_is_honoured(command: list[str]) -> None:
    _, shown = on_a_terminal([*command, *DEMO], NO_COLOR="1")
    for colour in range(30, 38):
        assert f"\x1b[{colour}m" not in shown
        assert f";{colour}m" not in shown


def test_ascii_terminal_gets_ascii() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [*COMMAND, "demo", "--messages", "1000"], capture_output=True, timeout=LIMIT_S, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert b" us" in done.stdout
    assert b"####" in done.stdout


def test_reader_of_the_results_may_go_away() -> None:
    with start("demo", "--messages", "1000") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        read_line(process.stdout)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(LIMIT_S) == 0
