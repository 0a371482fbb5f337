"""Leaf calls keep the GIL, waiting calls release it.

No limit of time decides. Calls are made from a loop in C, where the interpreter has no chance to hand the
GIL over by itself, while another thread waits for it. A call that releases the GIL lets that thread run
as soon as it has asked for it; if none does, that thread makes no step at all. A control call that
releases it is made in the same loop, and a run in which that made no difference says nothing. Two
wrong builds show that these tests can fail: ``.ci/run wrong-gil``.
"""

from __future__ import annotations

import itertools
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from native_calls import record
from support import CONTRACT, read, reader, wait_for

import kafka_async._block
from kafka_async import Producer, _consumer, _log, _producer
from kafka_async._native import ffi, lib
from kafka_async.testing import MockCluster

INTERVAL_S = 0.001
CALLS = 6  # of each kind in a run
RUNS = 3  # that say something


def declared() -> list[str]:
    text = re.sub(r"/\*.*?\*/", "", CONTRACT.read_text(), flags=re.DOTALL)
    return re.findall(r"\b(ka_\w+)\(", text)


LEAVES = [name for name in declared() if not name.startswith("ka_wait_")]
WAITS = [name for name in declared() if name.startswith("ka_wait_")]


@contextmanager
def busy_thread(interval_s: float) -> Iterator[list[None]]:
    """A Python thread that never gives the GIL away by itself, and counts its steps in a list."""
    steps: list[None] = []
    done: list[None] = []
    running = threading.Event()

    def run() -> None:
        running.set()
        while not done:
            steps.append(None)
            if len(steps) > 1_000_000:
                steps.clear()

    before = sys.getswitchinterval()
    thread = threading.Thread(target=run)
    thread.start()
    running.wait(5)
    sys.setswitchinterval(interval_s)
    try:
        yield steps
    finally:
        sys.setswitchinterval(before)
        done.append(None)
        thread.join()


def steps_of(first: list[partial[Any]], second: list[partial[Any]]) -> tuple[int, int]:
    """How far another thread comes during the first calls and during the second; all of it in one C loop."""
    burn = partial(sum, bytes(1_000_000))  # some ms, without memory: time for the other thread to ask for the GIL
    with busy_thread(INTERVAL_S) as steps:
        count = partial(len, steps)
        program = [count, *(x for call in first for x in (burn, call)), count]
        program += [count, *(x for call in second for x in (burn, call)), count]
        results = list(map(partial.__call__, program))
    split = 2 * len(first) + 2
    return results[split - 1] - results[0], results[-1] - results[split]


class Objects:
    """Everything that a native function may be called with."""

    def __init__(self, cluster: MockCluster) -> None:
        self.producer = Producer(cluster.bootstrap_servers, "t", queue_messages=1_000_000)
        self.consumer = reader(cluster.bootstrap_servers, "t")
        self.error = ffi.new("ka_error *")
        self.name = ffi.new("char[]", b"t")
        self.where = ffi.new("ka_partition *")
        self.messages = ffi.new("ka_messages **")
        self.place = ffi.new("ka_partition *", {"topic": self.name, "offset": 1})
        self.cluster = cluster
        self.producer_options = ffi.new("ka_producer_options *", {"queue_messages": 10, "queue_bytes": 1000})
        self.consumer_options = ffi.new("ka_consumer_options *", (10, 1000, 0, 0, 0, 0))
        self.value, self.value_len = ffi.new("char[]", b"v"), ffi.new("int64_t *", 1)
        self.status = ffi.new("int32_t[]", 1)
        batch = {"count": 1, "data": self.value, "value_len": self.value_len, "status": self.status}
        self.batch = ffi.new("ka_batch *", batch)
        self.results = ffi.new("ka_result[]", 10)
        self.stopped = self.spare_producer()  # refuses commands at once
        lib.ka_producer_close(self.stopped, 0)
        lib.ka_wait_producer_closed(self.stopped, -1)
        self.stopped_consumer = self.spare_consumer()
        lib.ka_consumer_close(self.stopped_consumer, 0)
        self.group = lib.ka_consumer_group(self.stopped_consumer)
        self.names = (b"new-%d" % number for number in itertools.count())

    def arguments(self) -> dict[str, Callable[[], tuple[Any, ...]]]:
        p, c = self.producer._native, self.consumer._native
        none = ffi.NULL
        topics = ffi.new("const char *[]", [self.name])
        self.keep = topics
        buf = ffi.new("char[]", 1 << 20)
        codes = ffi.new("int32_t[]", [0])
        return {
            "ka_error_describe": lambda: (1, self.error),
            "ka_librdkafka_version": lambda: (),
            "ka_librdkafka_version_linked": lambda: (),
            "ka_librdkafka_version_compiled": lambda: (),
            "ka_conf_new": lambda: (),
            "ka_conf_set": lambda: (self.conf, b"client.id", b"x", self.error),
            "ka_conf_get": lambda: (self.conf, b"client.id", buf, 100),
            "ka_conf_properties": lambda: (buf, 1 << 20),
            "ka_conf_free": lambda: (lib.ka_conf_new(),),
            "ka_oauth_new": lambda: (),
            "ka_try_oauth": lambda: (self.oauth(),),
            "ka_oauth_hang": lambda: (self.oauth(), self.bell()),
            "ka_oauth_give": lambda: (self.oauth(), b"token", 1, b"", b"a\0b\0", 4),
            "ka_oauth_fail": lambda: (self.oauth(), b"reason"),
            "ka_oauth_release": lambda: (lib.ka_oauth_new(),),
            "ka_wait_oauth": lambda: (self.oauth(), 0),
            "ka_producer_topic": lambda: (p, b"t"),
            "ka_producer_send": lambda: (p, b"v", 1),
            "ka_producer_send_record": lambda: (p, 0, -1, -1, b"v", 1, b"k", 1, b"", 0, 0),
            "ka_producer_send_values": lambda: (p, 0, ffi.new("char *[1]"), ffi.new("int64_t[1]"), 1),
            "ka_producer_send_batch": lambda: (p, 0, self.batch),
            "ka_try_producer_room": lambda: (p, 1, 0),
            "ka_try_producer_flush": lambda: (p, 1),
            "ka_try_producer_closed": lambda: (self.stopped,),
            "ka_producer_hang": lambda: (self.spare_producer(), self.bell()),
            "ka_bell_new": lambda: (),
            "ka_bell_descriptor": lambda: (self.bell(),),
            "ka_bell_arm": lambda: (self.bell(),),
            "ka_bell_release": lambda: (lib.ka_bell_new(),),
            "ka_try_command": lambda: (self.command(), self.error),
            "ka_command_hang": lambda: (self.command(), self.bell()),
            "ka_try_consumer_ready": lambda: (c,),
            "ka_try_consumer_closed": lambda: (self.stopped_consumer,),
            "ka_consumer_hang": lambda: (self.spare_consumer(), self.bell()),
            "ka_producer_share": lambda: (p,),
            "ka_producer_unshare": lambda: (lib.ka_producer_share(p),),
            "ka_producer_results": lambda: (p, self.results, 10),
            "ka_producer_announced": lambda: (p,),
            "ka_producer_failed_results": lambda: (p,),
            "ka_producer_purge": lambda: (self.stopped, 0),
            "ka_producer_partitions": lambda: (self.stopped, 0, 0, 0),
            "ka_producer_partition_count": lambda: (p, 0),
            "ka_producer_transaction": lambda: (p,),
            "ka_producer_transact": lambda: (self.stopped, lib.KA_INIT, 0),
            "ka_producer_step_told": lambda: (p,),
            "ka_producer_send_offsets": lambda: (self.stopped, self.group, none, 0, 0),
            "ka_consumer_group": lambda: (self.stopped_consumer,),
            "ka_command_value": lambda: (self.command(),),
            "ka_producer_flush": lambda: (p,),
            "ka_producer_metrics": lambda: (p, ffi.new("ka_producer_stats *")),
            "ka_producer_trouble": lambda: (p, self.error),
            "ka_producer_unreported": lambda: (p, 0),
            "ka_producer_failure": lambda: (p,),
            "ka_failure_free": lambda: (none,),
            "ka_producer_close": lambda: (self.spare_producer(), 0),
            "ka_producer_release": lambda: (self.spare_producer(),),
            "ka_consumer_block": lambda: (c,),
            "ka_command_release": lambda: (lib.ka_consumer_subscribe(c, topics, 1),),
            "ka_consumer_subscribe": lambda: (c, topics, 1),
            "ka_consumer_assign": lambda: (self.stopped_consumer, 0, none, 0),
            "ka_consumer_pause": lambda: (self.stopped_consumer, 1, none, 0),
            "ka_consumer_seek": lambda: (self.stopped_consumer, self.place),
            "ka_consumer_commit": lambda: (self.stopped_consumer, none, 0, 0),
            "ka_consumer_store": lambda: (c, self.place),
            "ka_consumer_ask": lambda: (self.stopped_consumer, lib.KA_ASK_TIMES, none, 0, 0),
            "ka_consumer_lag": lambda: (self.stopped_consumer,),
            "ka_consumer_answer": lambda: (self.command(), none, 0),
            "ka_consumer_rebalance": lambda: (c, ffi.new("int32_t *"), none, 0),
            "ka_consumer_rebalanced": lambda: (c,),
            "ka_consumer_retire": lambda: (self.stopped_consumer, 0, 0),
            "ka_consumer_assignment": lambda: (c, none, 0),
            "ka_consumer_take": lambda: (c, self.error, self.where),
            "ka_consumer_take_messages": lambda: (c, 1, self.messages, self.error, self.place),
            "ka_messages_free": lambda: (self.messages,),
            "ka_consumer_put_back": lambda: (c,),
            "ka_consumer_keep": lambda: (c,),
            "ka_consumer_topic_name": lambda: (c, 0),
            "ka_consumer_trouble": lambda: (c, self.error),
            "ka_consumer_metrics": lambda: (c, ffi.new("ka_consumer_stats *")),
            "ka_consumer_close": lambda: (self.spare_consumer(), 0),
            "ka_consumer_release": lambda: (self.spare_consumer(),),
            "ka_log_next": lambda: (ffi.new("ka_log_line *"),),
            "ka_log_lost": lambda: (),
            "ka_log_close": lambda: (),
            "ka_log_open": lambda: (),
            "ka_thread_name": lambda: (b"pytest",),
            "ka_lost_messages": lambda: (),
            "ka_mock_bootstrap_servers": lambda: (self.cluster._mock,),
            "ka_mock_error": lambda: (300, self.error),
            "ka_mock_fail": lambda: (self.cluster._mock, 0, codes, 1),
            "ka_wait_producer_open": lambda: (lib.ka_conf_new(), self.producer_options, self.error),
            "ka_wait_producer_room": lambda: (p, 1, 0, 0),
            "ka_wait_producer_results": lambda: (p, 0),
            "ka_wait_producer_told": lambda: (p, 1, 0, 0),
            "ka_wait_producer_flush": lambda: (p, 1, 0),
            "ka_wait_producer_closed": lambda: (p, 0),
            "ka_wait_consumer_open": lambda: (self.group_conf(), self.consumer_options, self.error),
            "ka_wait_command": lambda: (self.command(), 0, self.error),
            "ka_wait_consumer_ready": lambda: (c, 0),
            "ka_wait_consumer_closed": lambda: (c, 0),
            "ka_wait_log": lambda: (0,),
            "ka_wait_workers": lambda: (0,),
            "ka_wait_mock_open": lambda: (1, self.error),
            "ka_wait_mock_create_topic": lambda: (self.cluster._mock, next(self.names), 1, self.error),
            "ka_wait_mock_broker": lambda: (self.cluster._mock, 1, 1),
            "ka_wait_mock_round_trip": lambda: (self.cluster._mock, 1, 0),
            "ka_wait_mock_close": lambda: (lib.ka_wait_mock_open(1, self.error),),
        }

    @property
    def conf(self) -> ffi.CData:
        return ffi.gc(lib.ka_conf_new(), lib.ka_conf_free)

    def group_conf(self) -> ffi.CData:
        conf = lib.ka_conf_new()
        lib.ka_conf_set(conf, b"group.id", b"g", self.error)
        return conf

    def spare_producer(self) -> ffi.CData:
        return lib.ka_wait_producer_open(lib.ka_conf_new(), self.producer_options, self.error)

    def spare_consumer(self) -> ffi.CData:
        return lib.ka_wait_consumer_open(self.group_conf(), self.consumer_options, self.error)

    def bell(self) -> ffi.CData:
        return ffi.gc(lib.ka_bell_new(), lib.ka_bell_release)

    def oauth(self) -> ffi.CData:
        return ffi.gc(lib.ka_oauth_new(), lib.ka_oauth_release)

    def command(self) -> ffi.CData:
        return ffi.gc(lib.ka_consumer_subscribe(self.consumer._native, ffi.NULL, 0), lib.ka_command_release)


@pytest.fixture
def objects() -> Iterator[Objects]:
    with MockCluster(topics={"t": 1}) as cluster:
        objects = Objects(cluster)
        objects.producer.send(b"first")
        objects.producer.flush()
        read(objects.consumer, 1)
        yield objects
        objects.consumer.stop()
        objects.producer.stop(30)
    _log.stop()  # ka_log_close() has ended its thread


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", LEAVES)
def test_leaf_keeps_the_gil(objects: Objects, name: str) -> None:
    make = objects.arguments()[name]
    control = [partial(lib.ka_wait_producer_room, objects.producer._native, 1, 0, 0)] * CALLS  # nothing to wait for
    said = 0
    while said < RUNS:  # limited by the timeout
        leaf, released = steps_of([partial(getattr(lib, name), *make()) for _ in range(CALLS)], control)
        assert leaf == 0
        said += released != 0


@pytest.mark.timeout(180)
def test_common_send_keeps_the_gil(objects: Objects) -> None:
    """It crosses by no call of cffi's, and has no frame of Python's either."""
    control = [partial(lib.ka_wait_producer_room, objects.producer._native, 1, 0, 0)] * CALLS
    said = 0
    while said < RUNS:
        sends, released = steps_of([partial(objects.producer.send, b"v") for _ in range(CALLS)], control)
        assert sends == 0
        said += released != 0


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", WAITS)
def test_waiting_call_releases_the_gil(objects: Objects, name: str) -> None:
    make = objects.arguments()[name]
    control = [partial(lib.ka_librdkafka_version)] * CALLS
    for _ in range(20):
        waiting, kept = steps_of([partial(getattr(lib, name), *make()) for _ in range(CALLS)], control)
        assert kept == 0
        if waiting:
            return
    pytest.fail(f"{name} never let another thread run")


def test_every_native_function_is_called_here(objects: Objects) -> None:
    assert sorted(objects.arguments()) == sorted(LEAVES + WAITS)


def test_facade_crosses_by_leaves_alone(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    producer, consumer = objects.producer, objects.consumer
    for _ in range(1000):
        producer.send(b"v")
    wait_for(lambda: consumer.metrics().prefetched > 500)
    called = record(monkeypatch, kafka_async.producer, _producer, _consumer, kafka_async._block)
    producer.send(b"value")
    producer.send("v", "k", topic="t", partition=0, timestamp_ms=1, headers={"a": "b"})
    producer.metrics()
    producer.failures()
    for _ in range(500):
        assert consumer.poll_message() is not None
    consumer.metrics()
    consumer.assignment()
    assert {"ka_producer_send_record", "ka_consumer_take"} <= set(called) <= set(LEAVES)
    while consumer.poll_message(0.01) is not None:
        pass
    assert "ka_wait_consumer_ready" in called
