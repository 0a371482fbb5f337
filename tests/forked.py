"""What a forked child may not do with its parent's objects: every public method of theirs, in programs that fork."""

from __future__ import annotations

import asyncio
import inspect
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from kafka_async import Consumer, ForkedError, Message, Producer, Record, TopicPartition, aio
from kafka_async.testing import MockCluster

AT = TopicPartition("t", 0, 0)
MESSAGE = Message(b"v", None, "t", 0, 0, 1, 1, [])
LIMIT_S = 30.0

Call = Callable[[Any], Any]

# By the name of a method: the ways to call it that must raise ForkedError in a child.
PRODUCER: dict[str, list[Call]] = {
    "send": [
        lambda p: p.send(b"x"),
        lambda p: p.send(b"x", b"key", topic="another"),
        lambda p: p.send(b"x", on_delivery=print),
    ],
    "submit": [lambda p: p.submit(b"x")],
    "send_many": [lambda p: p.send_many([b"x", Record(b"y", b"key")])],
    "flush": [lambda p: p.flush()],
    "purge": [lambda p: p.purge(), lambda p: p.purge(in_flight=True)],
    "failures": [lambda p: p.failures()],
    "metrics": [lambda p: p.metrics()],
    "init_transactions": [lambda p: p.init_transactions(1)],
    "begin_transaction": [lambda p: p.begin_transaction()],
    "commit_transaction": [lambda p: p.commit_transaction(1)],
    "abort_transaction": [lambda p: p.abort_transaction(1)],
    "partitions": [lambda p: p.partitions("t", 1)],
    "warm_up": [lambda p: p.warm_up(timeout=1)],
}
CONSUMER: dict[str, list[Call]] = {
    "poll_message": [lambda c: c.poll_message(0), lambda c: c.poll_message(5)],
    "poll_batch": [lambda c: c.poll_batch(1, 0), lambda c: c.poll_batch(1, 5)],
    "subscribe": [lambda c: c.subscribe("t")],
    "unsubscribe": [lambda c: c.unsubscribe()],
    "assign": [lambda c: c.assign([]), lambda c: c.assign([AT])],
    "incremental_assign": [lambda c: c.incremental_assign([AT])],
    "incremental_unassign": [lambda c: c.incremental_unassign([AT])],
    "assignment": [lambda c: c.assignment()],
    "pause": [lambda c: c.pause([AT])],
    "resume": [lambda c: c.resume([AT])],
    "seek": [lambda c: c.seek(AT), lambda c: c.seek(AT._replace(offset="end"))],
    "store": [lambda c: c.store(MESSAGE)],
    "commit": [
        lambda c: c.commit(),
        lambda c: c.commit(MESSAGE),
        lambda c: c.commit(offsets=[AT]),
    ],
    "committed": [lambda c: c.committed([AT])],
    "position": [lambda c: c.position([AT])],
    "watermarks": [lambda c: c.watermarks("t", 0)],
    "offsets_for_times": [lambda c: c.offsets_for_times([AT])],
    "lag": [lambda c: c.lag(), lambda c: c.lag(1)],
    "metrics": [lambda c: c.metrics()],
}
CLUSTER: dict[str, list[Call]] = {
    "create_topic": [lambda m: m.create_topic("new")],
    "fail_next": [lambda m: m.fail_next("Produce", None)],
    "broker_down": [lambda m: m.broker_down(1)],
    "broker_up": [lambda m: m.broker_up(1)],
    "set_round_trip": [lambda m: m.set_round_trip(1, 0)],
}
# Do nothing in a child, ask only Python's own memory, or are made of the others.
HARMLESS = {"stop", "subscription", "bootstrap_servers", "transaction", "send_offsets_to_transaction"}
TABLES: list[tuple[type, dict[str, list[Call]]]] = [
    (Producer, PRODUCER),
    (Consumer, CONSUMER),
    (MockCluster, CLUSTER),
    (aio.Producer, PRODUCER | {"send_nowait": [lambda p: p.send_nowait(b"x")]}),
    (aio.Consumer, CONSUMER),
]


def missing() -> list[str]:
    """Name the public methods that no table has."""
    return [
        f"{kind.__module__}.{kind.__name__}.{name}"
        for kind, table in TABLES
        for name, _ in inspect.getmembers(kind)
        if not name.startswith("_") and name not in table and name not in HARMLESS
    ]


def _refuses(call: Call, thing: object) -> bool:
    try:
        if inspect.iscoroutine(outcome := call(thing)):
            asyncio.run(outcome)
    except ForkedError:
        return True
    except BaseException as error:
        print("instead of ForkedError:", repr(error), file=sys.stderr)
    return False


def accepted(*objects: object) -> list[str]:
    """Name the methods of these objects that did not raise ForkedError, in a forked child."""
    return [
        f"{name} {number}"
        for thing in objects
        for name, calls in next(table for kind, table in TABLES if type(thing) is kind).items()
        for number, call in enumerate(calls)
        if not _refuses(call, thing)
    ]


def wait(child: int, limit: float = LIMIT_S) -> None:
    """Wait for a child that must end well, and kill one that does not end."""
    descriptor = os.pidfd_open(child)
    try:
        ended, _, _ = select.select([descriptor], [], [], limit)
        if not ended:
            os.kill(child, 9)
        status = os.waitpid(child, 0)[1]
        assert ended, f"a child did not end within {limit} s"
        assert status == 0, f"a child ended with status {status:#x}"
    finally:
        os.close(descriptor)


def background(*calls: Callable[[], object]) -> threading.Event:
    """Repeat each call in a thread of its own until the event that is returned is set."""
    end = threading.Event()

    def repeat(call: Callable[[], object]) -> None:
        while not end.is_set():
            call()
            time.sleep(0.002)  # the cluster keeps 5 MB

    for call in calls:
        threading.Thread(target=repeat, args=[call], daemon=True).start()
    return end
