"""Members of a group: what they are told of rebalances, on which thread, and what nobody loses or sees twice."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from groups import (
    CLASSIC,
    EVERY_KIND,
    LIMIT_S,
    Seen,
    committed,
    fence,
    filled,
    group_config,
    group_kafka,  # noqa: F401 - fixtures
    group_kind,  # noqa: F401
    group_server,  # noqa: F401
    members,
    owned,
    places,
    poll_until,
    version,
    wait_for_committed,
)
from support import NOBODY, read, send_all, wait_for

from kafka_async import ClosedError, ConfigError, Consumer, ConsumerError, Message, TopicPartition, _rebalance
from kafka_async._native import lib

pytestmark = [pytest.mark.broker, pytest.mark.timeout(120)]

BOTH = sorted((partition, offset) for partition in range(2) for offset in range(100))


@pytest.fixture
def two(kafka: str, topic: str) -> str:
    """A topic of two partitions that hold b"0" to b"99" each."""
    filled(kafka, topic, 2, 100)
    return topic


def next_of(*consumers: Consumer) -> list[Message]:
    """What the next of them that has something hands out."""
    found: list[Message] = []
    deadline = time.monotonic() + LIMIT_S
    while not found:
        assert time.monotonic() < deadline, [consumer.assignment() for consumer in consumers]
        found = [message for consumer in consumers if (message := consumer.poll_message(0.01)) is not None]
    return found


# ---------------------------------------------------------------- on_assign


def test_on_assign_comes_first_and_its_seek_and_pause_set_the_start(kafka: str, two: str, kind: str) -> None:
    seen = Seen()
    handed = []
    where = []

    def on_assign(consumer: Consumer, partitions: list[TopicPartition]) -> None:
        assert handed == []
        assert sorted(partitions) == sorted(item._replace(offset=None) for item in consumer.assignment())
        consumer.seek(TopicPartition(two, 0, 40))
        consumer.pause([TopicPartition(two, 1)])
        where.extend(consumer.position(partitions))

    seen.act["on_assign"] = on_assign
    with Consumer(kafka, two, group_id=two, config=group_config(kind), **seen.options("on_assign")) as consumer:
        early = poll_until(lambda: seen.events, consumer)
        assert sorted(seen.last("on_assign")) == [TopicPartition(two, 0), TopicPartition(two, 1)]
        assert sorted(where) == [TopicPartition(two, 0, 40), TopicPartition(two, 1)]
        assert [item.offset for item in consumer.position(seen.last("on_assign")) if item.partition == 1] == [None]
        handed = early + read(consumer, 60 - len(early))
        assert places(handed) == [(0, offset) for offset in range(40, 100)]
        assert consumer.poll_message(0.3) is None
        consumer.resume([TopicPartition(two, 1)])
        assert places(read(consumer, 100)) == [(1, offset) for offset in range(100)]


@pytest.mark.parametrize("kind", CLASSIC)
def test_position_that_on_assign_sought_stays(kafka: str, two: str, kind: str) -> None:
    """Also when nothing is read yet: a commit then keeps it."""
    seen = Seen()

    def on_assign(consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.pause(partitions)
        consumer.seek(TopicPartition(two, 0, 40))

    seen.act["on_assign"] = on_assign
    with Consumer(kafka, two, group_id=two, config=group_config(kind), **seen.options("on_assign")) as consumer:
        poll_until(lambda: seen.events, consumer)
        assert consumer.poll_message(0.3) is None
        assert consumer.position([TopicPartition(two, 0)]) == [TopicPartition(two, 0, 40)]
        assert consumer.commit() == [TopicPartition(two, 0, 40)]


# ---------------------------------------------------------------- on_revoke


@pytest.mark.parametrize("kind", EVERY_KIND, indirect=True)
@pytest.mark.parametrize("callbacks", [True, False], ids=["callbacks", "none"])
def test_handover_repeats_and_loses_nothing(kafka: str, two: str, kind: str, callbacks: bool) -> None:
    config = group_config(kind, auto_commit_interval_ms=600_000)
    seen = Seen()
    first = []

    def on_revoke(consumer: Consumer, partitions: list[TopicPartition]) -> None:
        assert partitions == consumer.position(partitions)
        assert {item[:2] for item in partitions} <= {item[:2] for item in consumer.assignment()}
        reached = Counter(message.partition for message in first)
        for item in partitions:
            assert item.offset == (reached[item.partition] or None)
        assert sorted(consumer.commit()) == sorted(item for item in consumer.assignment() if item.offset is not None)

    seen.act["on_revoke"] = on_revoke
    options = seen.options() if callbacks else {}
    with Consumer(kafka, two, group_id=two, config=config, **options) as a:
        first += read(a, 30)
        with Consumer(kafka, two, group_id=two, config=config) as b:
            others = []
            deadline = time.monotonic() + LIMIT_S
            while len({*places(first + others)}) < 200:
                assert time.monotonic() < deadline, (len(first), len(others))
                if not b.assignment():  # slowly, so that something is left for the other one
                    first += [message] if (message := a.poll_message(0)) is not None else []
                    others += [message] if (message := b.poll_message(0.05)) is not None else []
                    continue
                first += [message] if (message := a.poll_message(0.01)) is not None else []
                others += [message] if (message := b.poll_message(0.01)) is not None else []
            assert len({message.partition for message in others}) == 1
            assert len(owned(a)) == len(owned(b)) == 1
            assert a.poll_message(0.1) is b.poll_message(0.1) is None
            del seen.act["on_revoke"]  # the other one leaves, and a commit amid a cooperative rebalance may be refused
    times = Counter(places(first + others))
    assert sorted(times) == BOTH
    # Without callbacks partitions go at any time, and what is in hand then may not be processed.
    assert sum(times.values()) - len(times) <= (0 if callbacks else 1)
    if callbacks:
        assert "on_revoke" in seen.names()
        assert seen.count("on_lost") == 0
        assert set(seen.threads) == {threading.get_ident()}


def test_callback_runs_inside_poll_on_the_polling_thread(kafka: str, two: str, kind: str) -> None:
    seen = Seen()
    polls: list[tuple[str, bool]] = []
    polling = False

    def note(name: str) -> None:
        seen.act[name] = lambda *_: polls.append((name, polling))

    note("on_assign")
    note("on_revoke")
    config = group_config(kind)
    with Consumer(kafka, two, group_id=two, config=config, **seen.options()) as a:

        def poll() -> int:
            nonlocal polling
            while not seen.count("on_revoke"):
                polling = True
                a.poll_message(0.05)
                polling = False
            return threading.get_ident()

        with ThreadPoolExecutor() as threads:
            job = threads.submit(poll)
            wait_for(lambda: len(owned(a)) == 2, LIMIT_S)
            with Consumer(kafka, two, group_id=two, config=config) as b:
                poll_until(job.done, b)
                assert set(seen.threads) == {job.result()} != {threading.get_ident()}
                assert {"on_assign", "on_revoke"} == {name for name, _ in polls}
                assert all(inside for _, inside in polls)
                poll_until(lambda: owned(b), a, b)


# ---------------------------------------------------------------- exceptions


class OurError(Exception):
    """Raised by the application's code."""


def fails_once(seen: Seen, name: str) -> None:
    def fail(*_: object) -> None:
        del seen.act[name]
        raise OurError(name)

    seen.act[name] = fail


@pytest.mark.parametrize("name", ["on_assign", "on_revoke"])
def test_exception_surfaces_from_poll_and_the_rebalance_completes(kafka: str, two: str, kind: str, name: str) -> None:
    config = group_config(kind)
    seen = Seen()
    fails_once(seen, name)
    with Consumer(kafka, two, group_id=two, config=config, **seen.options()) as a:
        if name == "on_assign":
            with pytest.raises(OurError):
                poll_until(lambda: False, a)
        first = read(a, 10)
        with Consumer(kafka, two, group_id=two, config=config) as b:
            if name == "on_revoke":
                with pytest.raises(OurError):
                    poll_until(lambda: False, a, b)
            poll_until(lambda: len(owned(a)) == len(owned(b)) == 1, a, b)
        first += poll_until(lambda: len(owned(a)) == 2, a)
        send_all(kafka, two, [b"last"], partition=0)
        send_all(kafka, two, [b"last"], partition=1)
        last: set[int] = set()
        deadline = time.monotonic() + LIMIT_S
        while len(last) < 2:
            assert time.monotonic() < deadline
            if (message := a.poll_message(0.1)) is not None and message.value == b"last":
                last.add(message.partition)


def test_exception_in_on_lost_surfaces_and_the_member_joins_again(kafka: str, two: str, kind: str) -> None:
    seen = Seen()
    fails_once(seen, "on_lost")
    with Consumer(kafka, two, group_id=two, config=group_config(kind), **seen.options()) as consumer:
        read(consumer, 10)
        fence(kafka, two, kind)
        with pytest.raises(OurError):
            poll_until(lambda: False, consumer)
        poll_until(lambda: len(owned(consumer)) == 2, consumer)
        assert seen.names() == ["on_assign", "on_lost", "on_assign"]


# ---------------------------------------------------------------- on_lost


@pytest.mark.parametrize("name", ["on_lost", "on_revoke"])
def test_member_that_was_fenced_is_told_and_reads_on(kafka: str, two: str, kind: str, name: str) -> None:
    """Without on_lost, on_revoke is called; commits fail in both."""
    config = group_config(kind, auto_commit_interval_ms=600_000)
    seen = Seen()
    refused = []
    handed = []

    def lose(consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if "on_assign" in seen.names()[-1:]:
            return
        for arguments in ({}, {"message": handed[-1]}, {"offsets": dict.fromkeys(partitions, 99)}):
            with pytest.raises(ConsumerError) as caught:
                consumer.commit(**arguments)  # type: ignore[arg-type]
            refused.append(caught.value.name)

    seen.act[name] = lose
    options = seen.options("on_assign", "on_revoke", *{name} - {"on_revoke"})
    with Consumer(kafka, two, group_id=two, config=config, **options) as consumer:
        handed = read(consumer, 10)
        consumer.commit()
        handed += read(consumer, 10)
        fence(kafka, two, kind)
        handed += poll_until(lambda: refused, consumer)
        assert seen.names()[:2] == ["on_assign", name]
        assert {item.partition for item in seen.last(name)} == {0, 1}
        assert refused == ["_ASSIGNMENT_LOST"] * 3
        del seen.act[name]
        again = poll_until(lambda: seen.count("on_assign") == 2, consumer)
        again += read(consumer, 190 - len(again))
    # What was committed stays, what was not comes again.
    assert len(places(handed[:10] + again)) == 200
    assert sorted(places(handed[:10] + again)) == BOTH


@pytest.mark.parametrize("kind", CLASSIC)
def test_commit_in_on_lost_fails_though_the_member_has_joined_again(kafka: str, two: str, kind: str) -> None:
    """Without on_assign nothing holds the new assignment back while on_lost runs."""
    seen = Seen()
    refused = []
    handed = []

    def on_lost(consumer: Consumer, _: list[TopicPartition]) -> None:
        wait_for(lambda: len(owned(consumer)) == 2, LIMIT_S)
        with pytest.raises(ConsumerError) as caught:
            consumer.commit(handed[-1])
        refused.append(caught.value.name)

    seen.act["on_lost"] = on_lost
    with Consumer(kafka, two, group_id=two, config=group_config(kind), **seen.options("on_lost")) as consumer:
        handed = read(consumer, 10)
        fence(kafka, two, kind)
        poll_until(lambda: refused, consumer)
        assert refused == ["_ASSIGNMENT_LOST"]
        consumer.commit()  # and now it works again


def test_fenced_while_on_assign_runs_reads_nothing_of_others(kafka: str, two: str, kind: str) -> None:
    """librdkafka says so after on_assign; what is read by then is read again by whose it is."""
    config = group_config(kind)
    seen = Seen()
    b = Consumer(kafka, group_id=two, config=config, **Seen().options())
    others = []

    def on_assign(*_: object) -> None:
        del seen.act["on_assign"]
        fence(kafka, two, kind)
        b.subscribe(two)
        others.extend(poll_until(lambda: len(owned(b)) == 2, b))

    seen.act["on_assign"] = on_assign
    with b, Consumer(kafka, two, group_id=two, config=config, **seen.options()) as a:
        poll_until(lambda: seen.count("on_lost"), a)
        assert seen.names() == ["on_assign", "on_lost"]
        mine = []
        # The other one gives up nothing before it polls.
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            assert a.poll_message(0.1) is None
        while len(mine) + len(others) < 200:
            mine += next_of(a, b)
        assert len(owned(a)) == len(owned(b)) == 1
    assert sorted(places(mine + others)) == BOTH


def test_fenced_while_on_revoke_runs_joins_again(kafka: str, two: str, kind: str) -> None:
    seen = Seen()

    def on_revoke(*_: object) -> None:
        del seen.act["on_revoke"]
        fence(kafka, two, kind, "a")
        time.sleep(0.5)  # some heartbeats, of which one is refused

    seen.act["on_revoke"] = on_revoke
    config = group_config(kind, client_id="a")
    with Consumer(kafka, two, group_id=two, config=config, **seen.options()) as a:
        messages = read(a, 10)
        with Consumer(kafka, two, group_id=two, config=group_config(kind), **Seen().options()) as b:
            messages += poll_until(lambda: seen.count("on_revoke") and len(owned(a)) == len(owned(b)) == 1, a, b)
        messages += poll_until(lambda: len(owned(a)) == 2, a)
        while len({*places(messages)}) < 200:
            messages += next_of(a)


# ---------------------------------------------------------------- stop


def test_stop_by_the_polling_thread_runs_on_revoke_there(kafka: str, two: str, kind: str) -> None:
    seen = Seen()
    config = group_config(kind, auto_commit_interval_ms=600_000)
    done = []
    seen.act["on_revoke"] = lambda consumer, _: done.extend(consumer.commit())
    with Consumer(kafka, two, group_id=two, config=config, **seen.options()) as consumer:
        handed = read(consumer, 10)
        expected = sorted(item for item in consumer.assignment() if item.offset is not None)
    consumer.stop()  # the second one calls nothing
    assert seen.names() == ["on_assign", "on_revoke"]
    assert set(seen.threads) == {threading.get_ident()}
    assert sorted(done) == expected
    reached = Counter(message.partition for message in handed)
    wait_for_committed(kafka, two, two, {number: reached[number] or None for number in range(2)})  # type: ignore[misc]


def test_stop_by_another_thread_while_a_poll_waits_runs_on_revoke_there(kafka: str, two: str, kind: str) -> None:
    seen = Seen()
    config = group_config(kind)
    consumer = Consumer(kafka, two, group_id=two, config=config, **seen.options())
    handed = read(consumer, 200)
    with ThreadPoolExecutor() as threads:
        job = threads.submit(consumer.poll_message, None)
        wait_for(lambda: consumer.position([TopicPartition(two, 0)]))
        stopper = threading.Thread(target=consumer.stop)
        stopper.start()
        with pytest.raises(ClosedError):
            job.result(LIMIT_S)
        stopper.join(LIMIT_S)
    assert seen.names() == ["on_assign", "on_revoke"]
    assert seen.threads[1] == stopper.ident
    assert {item.partition for item in seen.last("on_revoke")} == {0, 1}
    assert len(handed) == 200


class _SlowToReport:
    """The native calls; between on_revoke's return and what the worker is told of it, much time passes."""

    def __init__(self, until: Callable[[], object]) -> None:
        self._until = until

    def __getattr__(self, name: str) -> object:
        return getattr(lib, name)

    def ka_consumer_rebalanced(self, consumer: object) -> None:
        deadline = time.monotonic() + 0.5
        while not self._until() and time.monotonic() < deadline:
            time.sleep(0.01)
        lib.ka_consumer_rebalanced(consumer)


def test_stop_beside_a_poll_in_on_revoke_calls_it_once_for_each_partition(
    kafka: str, two: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen()
    running, go_on = threading.Event(), threading.Event()

    def on_revoke(*_: object) -> None:
        running.set()
        assert go_on.wait(LIMIT_S)

    seen.act["on_revoke"] = on_revoke
    config = group_config(kind)
    a = Consumer(kafka, two, group_id=two, config=config, **seen.options())
    read(a, 10)
    with Consumer(kafka, two, group_id=two, config=config) as b, ThreadPoolExecutor() as threads:
        job = threads.submit(lambda: [*a])
        poll_until(running.is_set, b)
        stopped = threads.submit(a.stop, LIMIT_S)
        monkeypatch.setattr(_rebalance, "lib", _SlowToReport(stopped.done))
        wait_for(lambda: lib.ka_consumer_retire(a._native, 0, 1) == lib.KA_CLOSED, LIMIT_S, "stop() has begun")
        go_on.set()
        poll_until(lambda: stopped.done() and job.done(), b)
        stopped.result()
        job.result()
        told = Counter(item.partition for name, items in seen.events if name == "on_revoke" for item in items)
        assert told == {0: 1, 1: 1}
        poll_until(lambda: len(owned(b)) == 2, b)


def test_stop_amid_a_rebalance_that_nobody_polled_for_lets_others_go_on(kafka: str, two: str, kind: str) -> None:
    seen = Seen()
    config = group_config(kind)
    a = Consumer(kafka, two, group_id=two, config=config, **seen.options())
    read(a, 10)
    with Consumer(kafka, two, group_id=two, config=config) as b:
        wait_for(lambda: len(members(kafka, two)) == 2, LIMIT_S)
        began = time.monotonic()
        a.stop()
        assert time.monotonic() - began < 3
        poll_until(lambda: len(owned(b)) == 2, b)
    assert seen.names() == ["on_assign", "on_revoke"]
    assert {item.partition for item in seen.last("on_revoke")} == {0, 1}


# ---------------------------------------------------------------- inside a callback


@pytest.mark.parametrize("name", ["on_assign", "on_revoke"])
def test_poll_stop_and_unsubscribe_are_refused_inside_a_callback(kafka: str, two: str, name: str) -> None:
    seen = Seen()
    refused = []

    def act(consumer: Consumer, _: list[TopicPartition]) -> None:
        for call in (consumer.poll_message, consumer.stop, consumer.unsubscribe, lambda: next(consumer)):
            with pytest.raises(RuntimeError, match="within a rebalance callback"):
                call()
            refused.append(name)

    seen.act[name] = act
    with Consumer(kafka, two, group_id=two, config=group_config("range"), **seen.options()) as consumer:
        read(consumer, 10)
        consumer.unsubscribe()
    assert len(refused) == 4


# ---------------------------------------------------------------- subscriptions


def test_unsubscribe_runs_on_revoke_and_subscribing_again_goes_on(kafka: str, two: str, kind: str) -> None:
    seen = Seen()
    with Consumer(kafka, two, group_id=two, config=group_config(kind), **seen.options()) as consumer:
        first = read(consumer, 10)
        consumer.unsubscribe()
        assert seen.names() == ["on_assign", "on_revoke"]
        assert consumer.subscription() == consumer.assignment() == []
        assert consumer.poll_message(0.2) is None
        wait_for(lambda: members(kafka, two) == [], LIMIT_S)
        consumer.subscribe(two)
        first += read(consumer, 190)
        assert seen.names() == ["on_assign", "on_revoke", "on_assign"]
    assert sorted(places(first)) == BOTH


def test_unsubscribed_in_the_midst_of_a_rebalance_it_joins_again(kafka: str, two: str, kind: str) -> None:
    config = group_config(kind)
    with Consumer(kafka, two, group_id=two, config=config, **Seen().options()) as a:
        read(a, 200)  # there is something to commit, which takes its time
        with Consumer(kafka, two, group_id=two, config=config, **Seen().options()) as b:
            time.sleep(1)  # a is to give one up, and does not look
            a.unsubscribe()
            poll_until(lambda: len(owned(b)) == 2, b)
            a.subscribe(two)
            poll_until(lambda: len(owned(a)) == len(owned(b)) == 1, a, b)


def test_assign_ends_a_subscription(kafka: str, two: str, kind: str) -> None:
    seen = Seen()
    with Consumer(kafka, two, group_id=two, config=group_config(kind), **seen.options()) as consumer:
        read(consumer, 10)
        consumer.assign([TopicPartition(two, 1, 50)])
        assert seen.names() == ["on_assign", "on_revoke"]
        assert consumer.subscription() == []
        assert places(read(consumer, 50)) == [(1, offset) for offset in range(50, 100)]
        wait_for(lambda: members(kafka, two) == [], LIMIT_S)
    assert seen.names() == ["on_assign", "on_revoke"]


def test_other_topics_can_be_subscribed_to_at_once(kafka: str, two: str, kind: str) -> None:
    other = f"{two}-other"
    filled(kafka, other, 1, 10)
    seen = Seen()  # what is in hand counts as processed when a poll is what gives its partition up
    with Consumer(kafka, two, group_id=two, config=group_config(kind), **seen.options()) as consumer:
        first = read(consumer, 10)
        consumer.subscribe(other)
        messages = poll_until(lambda: consumer.assignment()[:1] == [TopicPartition(other, 0, 10)], consumer)
        assert [message.offset for message in messages if message.topic == other] == list(range(10))
        consumer.subscribe([two, other])
        first += [message for message in messages if message.topic == two]
        send_all(kafka, two, [b"last"], partition=0)
        send_all(kafka, two, [b"last"], partition=1)
        while set(places(first)) != {*BOTH, (0, 100), (1, 100)}:
            first += read(consumer, 1)
    assert len(first) == 202
    assert seen.count("on_lost") == 0


@pytest.mark.parametrize("prefix", ["", "^"], ids=["name", "pattern"])
def test_one_of_two_members_subscribes_to_another_topic(kafka: str, two: str, kind: str, prefix: str) -> None:
    """The one that does not lead the group, too."""
    other = f"{two}-other"
    filled(kafka, other, 1, 10)
    seen = Seen()
    config = group_config(kind)
    with (
        Consumer(kafka, two, group_id=two, config=config, **Seen().options()) as a,
        Consumer(kafka, group_id=two, config=config, **seen.options()) as b,
    ):
        first = read(a, 200)
        a.commit()
        b.subscribe(two)
        first += poll_until(lambda: len(owned(a)) == len(owned(b)) == 1, a, b)
        b.subscribe(prefix + other)
        first += poll_until(lambda: b.assignment() == [TopicPartition(other, 0, 10)] and len(owned(a)) == 2, a, b)
        assert len(first) == 210
        assert seen.count("on_lost") == 0


def test_regular_expression_finds_a_topic_that_appears_later(kafka: str, topic: str, kind: str) -> None:
    filled(kafka, f"{topic}-1", 1, 10)
    config = group_config(kind, topic_metadata_refresh_interval_ms=200)
    with Consumer(kafka, f"^{topic}-.*", group_id=topic, config=config) as consumer:
        assert {message.topic for message in read(consumer, 10, LIMIT_S)} == {f"{topic}-1"}
        filled(kafka, f"{topic}-2", 2, 10)
        filled(kafka, f"not-{topic}-2", 1, 10)
        assert {message.topic for message in read(consumer, 20, LIMIT_S)} == {f"{topic}-2"}
        assert len(consumer.assignment()) == 3


# ---------------------------------------------------------------- at least once


@pytest.mark.parametrize(
    ("way", "again"), [("raises", True), ("ends", False), ("other thread", True), ("unsubscribes", False)]
)
def test_message_in_hand_comes_again_unless_it_ended_well(kafka: str, two: str, way: str, again: bool) -> None:
    config = group_config("range", auto_commit_interval_ms=600_000)
    if way == "raises":
        with pytest.raises(OurError), Consumer(kafka, two, group_id=two, config=config) as consumer:
            handled = read(consumer, 31)
            raise OurError
    elif way == "other thread":
        consumer = Consumer(kafka, two, group_id=two, config=config)
        handled = read(consumer, 31)
        thread = threading.Thread(target=consumer.stop)
        thread.start()
        thread.join(LIMIT_S)
    else:
        with Consumer(kafka, two, group_id=two, config=config) as consumer:
            handled = read(consumer, 31)
            if way == "unsubscribes":
                consumer.unsubscribe()
    with Consumer(kafka, two, group_id=two, config=config) as consumer:
        rest = read(consumer, 169 + again)
        assert consumer.poll_message(0.2) is None
    twice = [place for place, times in Counter(places(handled + rest)).items() if times > 1]
    assert twice == (places(handled[-1:]) if again else [])
    assert sorted({*places(handled + rest)}) == BOTH


HANDLES = """
import json, sys, time
from kafka_async import Consumer
servers, topic, count, config = json.loads(sys.argv[1])
with Consumer(servers, topic, group_id=topic, config=config) as consumer:
    for number, message in enumerate(consumer):
        print(message.offset, flush=True)
        if number == count:
            time.sleep(600)
"""


def test_process_killed_while_it_handles_a_message_sees_that_again(kafka: str, topic: str, kind: str) -> None:
    filled(kafka, topic, 1, 100)
    config = group_config(kind, auto_commit_interval_ms=100)
    if kind != "consumer":  # of the new protocol a static member must have left before another takes its place
        config["group.instance.id"] = "handler"
    argument = json.dumps([kafka, topic, 40, config])
    process = subprocess.Popen([sys.executable, "-c", HANDLES, argument], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        assert [int(process.stdout.readline()) for _ in range(41)] == list(range(41))
        wait_for_committed(kafka, topic, topic, {0: 40})
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    with Consumer(kafka, topic, group_id=topic, config=config) as consumer:
        assert [message.offset for message in read(consumer, 60)] == list(range(40, 100))


def test_without_auto_commit_nothing_is_committed_by_itself(kafka: str, two: str, kind: str) -> None:
    config = group_config(kind, enable_auto_commit=False, auto_commit_interval_ms=10)
    with Consumer(kafka, two, group_id=two, config=config) as consumer:
        read(consumer, 50)
        consumer.unsubscribe()
        consumer.subscribe(two)
        read(consumer, 200)
    assert committed(kafka, two, two, [0, 1]) == {0: None, 1: None}


# ---------------------------------------------------------------- static members, protocols


def test_static_member_that_comes_back_moves_nothing(kafka: str, two: str, kind: str) -> None:
    seen = Seen()
    static = group_config(kind, group_instance_id="static")
    with Consumer(kafka, two, group_id=two, config=group_config(kind), **seen.options()) as other:
        first = Consumer(kafka, two, group_id=two, config=static)
        poll_until(lambda: len(owned(first)) == len(owned(other)) == 1, first, other)
        before, had = list(seen.names()), owned(first)
        first.stop()
        with Consumer(kafka, two, group_id=two, config=static) as again:
            poll_until(lambda: owned(again), again, other)
            assert owned(again) == had
            assert seen.names() == before


@pytest.mark.skipif(version() >= (2, 12), reason="this librdkafka has the protocol")
def test_new_protocol_is_refused_where_librdkafka_lacks_it() -> None:
    with pytest.raises(ConfigError, match=re.escape("group.protocol")):
        Consumer(NOBODY, "t", group_id="g", config={"group.protocol": "consumer"})
