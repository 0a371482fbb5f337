"""Run the command line in a process of its own, as a person does."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence

LIMIT_S = 45
COMMAND = [sys.executable, "-m", "kafka_async"]

# A fetch that waits in the embedded cluster does not notice new data.
QUICK = ["-X", "fetch.wait.max.ms=1"]


def run(*args: str, stdin: bytes = b"", command: Sequence[str] = COMMAND) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*command, *args], input=stdin, capture_output=True, timeout=LIMIT_S, check=False)


@contextlib.contextmanager
def start(*args: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start it with unbuffered pipes for all streams; kill it at the end if it still runs."""
    pipe = subprocess.PIPE
    with subprocess.Popen([*COMMAND, *args], stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0) as process:
        try:
            yield process
        finally:
            process.kill()


def interrupt(process: subprocess.Popen[bytes], number: int = signal.SIGINT) -> tuple[bytes, bytes]:
    """Send a signal and collect the output. The standard input stays open until it ended."""
    process.send_signal(number)
    process.wait(LIMIT_S)
    return process.communicate()


def read_line(stream: object) -> bytes:
    """Read a line from an unbuffered pipe, as it comes."""
    line = stream.readline()  # type: ignore[attr-defined]
    assert line.endswith(b"\n"), "the process ended"
    return bytes(line)


def counts(output: bytes) -> dict[str, int]:
    """Read the demo's table: name -> number."""
    return {
        name.strip(): int(number.replace(",", ""))
        for name, number in re.findall(r"^([a-z/ ]+?) +([\d,]+)(?:$|   )", output.decode(), re.MULTILINE)
    }
