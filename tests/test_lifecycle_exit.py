"""The interpreter's end, whichever way it comes: what is queued is delivered within 5 s, or told to be lost."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from typing import NamedTuple

import pytest
from support import NOBODY, read, reader, run_python

from kafka_async.testing import MockCluster

TIME_S = 5.0
LIMIT_S = 15.0  # with one more to purge what is left, the interpreter's own end, and a machine that is busy

pytestmark = pytest.mark.timeout(120)

MAKE = {
    "blocking": """
        producer = Producer(SERVERS, TOPIC, config={"linger.ms": 60_000})
        producer.send_many([b"v"] * 10)
        """,
    "asyncio": """
        producer = None
        async def main(after=None):
            global producer
            producer = aio.Producer(SERVERS, TOPIC, config={"linger.ms": 60_000})
            producer.submit(b"v")
            for _ in range(9):
                producer.send_nowait(b"v")
            if after:
                after()
        """,
}
# By what ends the program: with which status, and what it does.
BLOCKING = {
    "the end": (0, ""),
    "sys.exit": (3, "sys.exit(3)"),
    "an exception": (1, "raise KeyError"),
    "sys.exit in a with block": (3, "with producer:\n    sys.exit(3)"),
    "the end beside daemon threads": (0, "daemon(lambda: time.sleep(60))\ndaemon(flush)"),
    "a forgotten object": (0, "del producer"),
    "a cycle": (0, "producer.cycle = producer\ngc.disable()\ndel producer"),
    "an object that modules keep": (0, "sys.kept = producer"),
    "SIGTERM as sys.exit": (4, "signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))\nos.kill(os.getpid(), 15)"),
}
ASYNCIO = {
    "the end": (0, "asyncio.run(main())"),
    "sys.exit in the loop": (3, "asyncio.run(main(lambda: sys.exit(3)))"),
    "an exception in the loop": (1, "asyncio.run(main(lambda: {}['key']))"),
    "a loop that was left open": (0, "loop = asyncio.new_event_loop()\nloop.run_until_complete(main())"),
    "a loop of another thread that runs on": (
        0,
        "loop = asyncio.new_event_loop()\ndaemon(loop.run_forever)\n"
        "asyncio.run_coroutine_threadsafe(main(), loop).result(20)",
    ),
    "a forgotten object": (0, "asyncio.run(main())\ndel producer"),
}
WAYS = [
    (kind, way, there)
    for kind, ways in (("blocking", BLOCKING), ("asyncio", ASYNCIO))
    for way in ways
    for there in (True, False)
]


class Run(NamedTuple):
    code: int
    errors: str
    ending_s: float


def run(servers: str, topic: str, kind: str, way: str) -> Run:
    code = f"""
import asyncio, contextlib, gc, os, signal, sys, threading, time
from kafka_async import ClosedError, Producer, aio
SERVERS, TOPIC = sys.argv[1:]
def daemon(call):
    threading.Thread(target=call, daemon=True).start()
{textwrap.dedent(MAKE[kind])}
def flush():
    with contextlib.suppress(ClosedError):
        producer.flush(60)
print(time.monotonic(), flush=True)
{(BLOCKING if kind == "blocking" else ASYNCIO)[way][1]}
"""
    done = run_python(code, servers, topic, limit=60)
    return Run(done.returncode, done.stderr, monotonic() - float(done.stdout))


def topic_of(kind: str, way: str) -> str:
    return f"{kind}-{way}".replace(" ", "-")


@pytest.fixture(scope="module")
def cluster() -> Iterator[MockCluster]:
    topics = {topic_of(kind, way): 1 for kind, way, there in WAYS if there}
    with MockCluster(topics=topics) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def runs(cluster: MockCluster) -> Iterator[dict[tuple[str, str, bool], Future[Run]]]:
    """Many at once, since those without a broker wait for seconds."""
    with ThreadPoolExecutor(8) as threads:
        yield {
            (kind, way, there): threads.submit(
                run, cluster.bootstrap_servers if there else NOBODY, topic_of(kind, way), kind, way
            )
            for kind, way, there in sorted(WAYS, key=lambda each: each[2])  # the slow ones first
        }


def own_errors(done: Run, way: str) -> str:
    """What the program said beside the traceback that it asked for."""
    if way.startswith("an exception"):
        assert done.errors.count("KeyError") == 1
        return re.sub(r"(?s)Traceback.*KeyError[^\n]*\n", "", done.errors)
    return done.errors


@pytest.mark.parametrize(("kind", "way"), [(kind, way) for kind, way, there in WAYS if there])
def test_what_is_queued_is_delivered(
    cluster: MockCluster, runs: dict[tuple[str, str, bool], Future[Run]], kind: str, way: str
) -> None:
    done = runs[kind, way, True].result()
    assert done.code == (BLOCKING if kind == "blocking" else ASYNCIO)[way][0], done.errors
    assert own_errors(done, way) == ""
    assert done.ending_s < LIMIT_S
    with reader(cluster.bootstrap_servers, topic_of(kind, way)) as consumer:
        assert [message.value for message in read(consumer, 10)] == [b"v"] * 10
        assert consumer.poll_message(0.1) is None


@pytest.mark.parametrize(("kind", "way"), [(kind, way) for kind, way, there in WAYS if not there])
def test_what_could_not_be_delivered_is_told_in_time(
    runs: dict[tuple[str, str, bool], Future[Run]], kind: str, way: str
) -> None:
    done = runs[kind, way, False].result()
    assert done.code == (BLOCKING if kind == "blocking" else ASYNCIO)[way][0], done.errors
    lines = own_errors(done, way).splitlines()
    assert len(lines) == 1, done.errors
    assert lines[0].startswith("kafka_async: 10 messages were lost")
    assert TIME_S <= done.ending_s < LIMIT_S
