"""A name server that never answers: librdkafka's threads sit in name resolution, and every call keeps to its time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

PROGRAM = Path(__file__).with_name("unresolved.py")
LIMIT_S = 40
EXIT_S = 7.0

HANGING_GETADDRINFO = """
#define _GNU_SOURCE /* RTLD_NEXT */
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdlib.h>
#include <unistd.h>

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **res)
{
    if (hints && hints->ai_flags & AI_NUMERICHOST)
        return ((__typeof__(&getaddrinfo))dlsym(RTLD_NEXT, "getaddrinfo"))(node, service, hints, res);
    close(open(getenv("HANGING"), O_CREAT | O_WRONLY, 0600));
    sleep(120);
    return EAI_AGAIN;
}
"""


class Names(NamedTuple):
    """How to start a process whose name resolution hangs."""

    command: list[str]
    env: dict[str, str]


def in_its_own_network(folder: Path) -> Names:
    """The C library's resolver asks a name server that swallows its queries, in namespaces of the process's own."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-mn", "true"], check=False).returncode:
        pytest.skip("needs root, for a resolv.conf and a network of its own")
    settings = folder / "resolv.conf"
    settings.write_text("nameserver 127.0.0.1\noptions timeout:30 attempts:4\n")
    bind = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'
    return Names(["unshare", "-mn", "sh", "-c", bind, "sh", str(settings)], {"LISTEN": "1"})


def preloaded(folder: Path) -> Names:
    """A getaddrinfo that sleeps stands in for the C library's."""
    compiler = shutil.which("cc")
    if not compiler or sys.platform != "linux":
        pytest.skip("needs a C compiler and LD_PRELOAD")
    source, library = folder / "hanging.c", folder / "hanging.so"
    source.write_text(HANGING_GETADDRINFO)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    before = os.environ.get("LD_PRELOAD", "")  # a sanitizer's, which has to come first
    return Names([], {"LD_PRELOAD": f"{before} {library}"})


class Run(NamedTuple):
    took: dict[str, Any]
    exit_s: float
    errors: str


def run(start: Callable[[Path], Names], what: str, folder: Path) -> Run:
    names = start(folder)
    hanging = folder / "hanging"
    process = subprocess.Popen(
        [*names.command, sys.executable, str(PROGRAM), what, str(hanging)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **names.env, "HANGING": str(hanging)},
        cwd=folder,
    )
    try:
        assert process.stdout
        line = process.stdout.readline()
        ending = time.monotonic()
        _, errors = process.communicate(timeout=LIMIT_S)
        exit_s = time.monotonic() - ending
    finally:
        process.kill()
    assert process.returncode == 0, errors
    print(f"\n{what}: exit after {exit_s:.2f} s")
    return Run(json.loads(line), exit_s, errors)


Runs = dict[tuple[str, str], "Future[Run]"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """All of them at once, since each waits for seconds."""
    with ThreadPoolExecutor(8) as threads:
        yield {
            (start.__name__, what): threads.submit(run, start, what, tmp_path_factory.mktemp("names"))
            for start in (in_its_own_network, preloaded)
            for what in ("stopped", "left open", "collected")
        }


@pytest.fixture(params=[in_its_own_network.__name__, preloaded.__name__])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_call_keeps_to_its_time(runs: Runs, how: str) -> None:
    done = runs[how, "stopped"].result()
    print()
    for name, (seconds, *outcome) in done.took.items():
        print(f"{name}: {seconds:.3f} s, {outcome}")
    seconds = {name: took for name, (took, *_) in done.took.items()}
    outcome = {name: outcome for name, (_, *outcome) in done.took.items()}
    assert 0.2 <= seconds["fork"] < 1.0  # it waits for who resolves, but not for a name server
    assert seconds["send"] < 0.2
    assert seconds["send again"] < 0.2
    assert seconds["metrics"] < 0.05
    assert outcome["metrics"] == ["", 101]
    assert 0.5 <= seconds["flush"] < 0.8
    assert outcome["flush"] == ["FlushTimeout", ["_TIMED_OUT", 101]]
    for call in ("partitions", "warm_up"):
        assert 0.4 <= seconds[call] < 1.0, call
        assert outcome[call] == ["KafkaError", ["_TIMED_OUT", None]], call
    assert seconds["init_transactions"] < 1.3
    assert outcome["init_transactions"][0] == "TransactionError"
    assert seconds["purge"] < 1.3
    assert outcome["purge"] == ["", 101]
    assert seconds["stop"] < 1.5
    assert outcome["stop"] == ["FlushTimeout", ["_TIMED_OUT", 100]]
    assert seconds["stop of the other"] < 1.5
    assert outcome["metrics at the end"] == ["", 0]
    assert outcome["accepted and purged"] == ["", [201, 201]]
    assert done.exit_s < EXIT_S
    assert done.errors == ""


@pytest.mark.parametrize("what", ["left open", "collected"])
def test_process_ends_in_time_and_tells_what_was_lost(runs: Runs, how: str, what: str) -> None:
    done = runs[how, what].result()
    assert done.exit_s < EXIT_S
    assert "1 message was lost" in done.errors
