"""Members that poll seldom, and members that are stuck: who keeps partitions, who loses them, and when."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from groups import (
    LIMIT_S,
    Seen,
    filled,
    group_config,
    group_kafka,  # noqa: F401 - fixtures
    group_kind,  # noqa: F401
    group_server,  # noqa: F401
    owned,
    places,
    poll_until,
)
from support import create_topic, read, send_all, wait_for

from kafka_async import Consumer, ConsumerError, Message

pytestmark = [pytest.mark.broker, pytest.mark.timeout(90)]

MAX_POLL_S = 2.5
SESSION_S = 2.0


def live_config(kind: str, max_poll_s: float = MAX_POLL_S, **more: Any) -> dict[str, Any]:
    times = {"max_poll_interval_ms": int(max_poll_s * 1000), "session_timeout_ms": int(SESSION_S * 1000)}
    return group_config(kind, **{**times, **more})


@pytest.fixture
def two(kafka: str, topic: str) -> str:
    filled(kafka, topic, 2, 100)
    return topic


class Other:
    """A healthy member on a thread of its own: when it had which partitions, and what it was handed."""

    def __init__(self, servers: str, topic: str, kind: str) -> None:
        self._consumer = Consumer(servers, topic, group_id=topic, config=group_config(kind))
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(1)
        self.messages: list[Message] = []
        self.had_all: float | None = None
        self._job: Future[None] = self._threads.submit(self._run)

    def _run(self) -> None:
        while not self._stop.is_set():
            if (message := self._consumer.poll_message(0.02)) is not None:
                self.messages.append(message)
            if self.had_all is None and len(owned(self._consumer)) == 2:
                self.had_all = time.monotonic()

    def owned(self) -> set[int]:
        return owned(self._consumer)

    def __enter__(self) -> Other:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._job.result(LIMIT_S)
        self._consumer.stop()
        self._threads.shutdown()


def share(a: Consumer, b: Other) -> list[Message]:
    return poll_until(lambda: len(owned(a)) == len(b.owned()) == 1, a)


def loses_in_time(consumer: Consumer, stuck: float) -> None:
    """When others get what it lost is then up to them and the broker."""
    wait_for(lambda: not owned(consumer), LIMIT_S)
    took = time.monotonic() - stuck
    print(f"{took:.2f} s")
    assert MAX_POLL_S - 0.1 < took < MAX_POLL_S + 1


def comes_back(consumer: Consumer, seen: Seen) -> list[Message]:
    """Its next poll: on_lost, the error, then it joins again."""
    before = seen.count("on_lost")
    with pytest.raises(ConsumerError) as caught:
        consumer.poll_message(0)
    assert caught.value.name == "_MAX_POLL_EXCEEDED"
    assert "max.poll.interval.ms" in str(caught.value)
    assert seen.count("on_lost") == before + 1
    return poll_until(lambda: owned(consumer), consumer)


# ---------------------------------------------------------------- those that live


def test_member_that_polls_seldom_but_in_time_stays(kafka: str, two: str, kind: str) -> None:
    """Beside busy Python threads: heartbeats are native."""
    seen = Seen()
    done = threading.Event()

    def busy() -> None:
        while not done.is_set():
            sum(range(1000))

    config = live_config(kind)
    with ThreadPoolExecutor() as threads, Consumer(kafka, two, group_id=two, config=config, **seen.options()) as a:
        first = read(a, 1)
        jobs = [threads.submit(busy) for _ in range(2)]
        try:
            for _ in range(3):
                time.sleep(MAX_POLL_S * 0.75)  # more than a session's timeout
                first += read(a, 1)
        finally:
            done.set()
        for job in jobs:
            job.result(LIMIT_S)
        assert seen.names() == ["on_assign"]
        first += read(a, 196)
    assert len({*places(first)}) == len(first) == 200


def test_waiting_poll_on_an_idle_topic_counts(kafka: str, topic: str, kind: str) -> None:
    create_topic(kafka, topic, 1)
    seen = Seen()
    with Consumer(kafka, topic, group_id=topic, config=live_config(kind), **seen.options()) as a:
        poll_until(lambda: owned(a), a)
        assert a.poll_message(MAX_POLL_S + 1.5) is None
        assert a.poll_message(0) is None
        assert seen.names() == ["on_assign"]


def test_slow_iteration_over_what_is_prefetched_counts(kafka: str, topic: str, kind: str) -> None:
    """Rows of a block are handed out without a call."""
    filled(kafka, topic, 1, 100)
    seen = Seen()
    with Consumer(kafka, topic, group_id=topic, config=live_config(kind), **seen.options()) as a:
        read(a, 1)
        for message in a:
            if message.offset == 6:
                break
            time.sleep(MAX_POLL_S / 3)
        assert seen.names() == ["on_assign"]
        assert [message.offset for message in read(a, 93)] == list(range(7, 100))


# ---------------------------------------------------------------- those that are stuck


@pytest.mark.parametrize("ring", ["full", "empty"])
def test_stuck_member_loses_its_partitions_in_time_and_comes_back(kafka: str, two: str, kind: str, ring: str) -> None:
    seen = Seen()
    options: dict[str, Any] = {"prefetch_messages": 4} if ring == "full" else {}
    with Other(kafka, two, kind) as b:
        wait_for(lambda: b.had_all, LIMIT_S)
        with Consumer(kafka, two, group_id=two, config=live_config(kind), **options, **seen.options()) as a:
            mine = share(a, b)
            add(kafka, two, 100 if ring == "full" else 0)
            if ring == "empty":
                gather(mine, a, b, 200)
            else:
                mine += read(a, 3)
                # By polling: what the last poll took makes room at the next one.
                mine += poll_until(lambda: a.metrics().prefetched, a)
            b.had_all = None
            loses_in_time(a, time.monotonic())
            wait_for(lambda: b.had_all, LIMIT_S, "the others' getting them")
            assert owned(a) == set()
            mine += comes_back(a, seen)
            gather(mine, a, b, 400 if ring == "full" else 200)
            assert seen.count("on_lost") == 1


@pytest.mark.parametrize("callbacks", [("on_lost",), ("on_revoke",), ("on_revoke", "on_lost")])
def test_loss_that_no_poll_has_told_of_is_told_by_stop(
    kafka: str, two: str, kind: str, callbacks: tuple[str, ...]
) -> None:
    seen = Seen()
    with Other(kafka, two, kind) as b:
        wait_for(lambda: b.had_all, LIMIT_S)
        with Consumer(kafka, two, group_id=two, config=live_config(kind), **seen.options(*callbacks)) as a:
            share(a, b)
            (had,) = owned(a)
            del seen.events[:]
            wait_for(lambda: not owned(a), LIMIT_S)
        ((name, lost),) = seen.events
        assert (name, [item.partition for item in lost]) == (callbacks[-1], [had])


def add(servers: str, topic: str, each: int) -> None:
    for number in range(2):
        send_all(servers, topic, [b"more"] * each, partition=number)


def gather(mine: list[Message], consumer: Consumer, others: Other, count: int) -> None:
    """Go on polling until both of them have been handed so many different messages."""
    deadline = time.monotonic() + LIMIT_S
    while len({*places(mine + others.messages)}) < count:
        assert time.monotonic() < deadline, (consumer.assignment(), others.owned())
        if (message := consumer.poll_message(0.01)) is not None:
            mine.append(message)


@pytest.mark.parametrize("name", ["on_assign", "on_revoke"])
def test_member_stuck_in_a_callback_loses_its_partitions_and_comes_back(
    kafka: str, two: str, kind: str, name: str
) -> None:
    seen = Seen()
    go_on = threading.Event()

    def hang(*_: object) -> None:
        del seen.act[name]
        began.append(time.monotonic())
        assert go_on.wait(LIMIT_S)

    began: list[float] = []
    seen.act[name] = hang
    a = Consumer(kafka, two, group_id=two, config=live_config(kind), **seen.options())
    with ThreadPoolExecutor(1) as threads, a:
        job = threads.submit(poll_to_an_error, a)
        if name == "on_revoke":
            # There is something to commit, which takes its time.
            wait_for(lambda: a.metrics().handed_out == 200, LIMIT_S)
        else:
            wait_for(lambda: began, LIMIT_S)
        with Other(kafka, two, kind) as b:
            wait_for(lambda: began, LIMIT_S)
            loses_in_time(a, began[0])
            wait_for(lambda: b.had_all, LIMIT_S, "the others' getting them")
            go_on.set()
            mine, error = job.result(LIMIT_S)
            assert error.name == "_MAX_POLL_EXCEEDED"
            mine += poll_until(lambda: len(owned(a)) == len(b.owned()) == 1, a)
            gather(mine, a, b, 200)


def poll_to_an_error(consumer: Consumer) -> tuple[list[Message], ConsumerError]:
    messages = []
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        try:
            if (message := consumer.poll_message(0.1)) is not None:
                messages.append(message)
        except ConsumerError as error:
            return messages, error
    raise AssertionError(f"no error within {LIMIT_S} s")


def test_stuck_static_member_keeps_its_partitions_to_the_end_of_its_session(kafka: str, two: str, kind: str) -> None:
    """As in Java: heartbeats end, and it leaves no message of its leaving."""
    seen = Seen()
    config = live_config(kind, group_instance_id="static", session_timeout_ms=2500)
    with Other(kafka, two, kind) as b:
        wait_for(lambda: b.had_all, LIMIT_S)
        with Consumer(kafka, two, group_id=two, config=config, **seen.options()) as a:
            mine = share(a, b)
            b.had_all = None
            stuck = time.monotonic()
            loses_in_time(a, stuck)
            wait_for(lambda: b.had_all, LIMIT_S, "the others' getting them")
            assert (b.had_all or 0) - stuck > MAX_POLL_S + 1
            mine += comes_back(a, seen)
            gather(mine, a, b, 200)


def test_stuck_static_member_that_comes_back_in_its_session_moves_nothing(kafka: str, two: str, kind: str) -> None:
    seen = Seen()
    long_s = 2 * MAX_POLL_S
    config = live_config(kind, long_s, group_instance_id="static", session_timeout_ms=int(long_s * 1000))
    with Other(kafka, two, kind) as b:
        wait_for(lambda: b.had_all, LIMIT_S)
        with Consumer(kafka, two, group_id=two, config=config, **seen.options()) as a:
            mine = share(a, b)
            b.had_all = None
            time.sleep(long_s + 0.5)
            assert owned(a) == set()
            mine += comes_back(a, seen)
            gather(mine, a, b, 200)
            assert b.had_all is None


def test_stuck_member_without_callbacks_meets_the_error_too(kafka: str, two: str, kind: str) -> None:
    with Consumer(kafka, two, group_id=two, config=live_config(kind, auto_commit_interval_ms=100)) as a:
        first = read(a, 50)
        loses_in_time(a, time.monotonic())
        _, error = poll_to_an_error(a)
        assert error.name == "_MAX_POLL_EXCEEDED"
        again = poll_until(lambda: len(owned(a)) == 2, a)
        again += read(a, 200 - len({*places(first)}) + 1 - len(again))
    # The one in hand was not processed.
    assert {*places(first)} & {*places(again)} == {*places(first[-1:])}
    assert len({*places(first + again)}) == 200
