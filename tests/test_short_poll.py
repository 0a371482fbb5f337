"""Messages made in C, and the short cut of `poll_message`: the same method, whatever happens meanwhile."""

from __future__ import annotations

import array
import contextlib
import gc
import inspect
import sys
import threading
import weakref
from typing import Any

import pytest
from shared_cluster import shared_cluster  # noqa: F401 - the fixture `cluster`
from support import NOBODY, read, reader, send_all, wait_for

from kafka_async import ClosedError, Consumer, Message, aio
from kafka_async._fast import Poller, Rows, cut, fast_poll
from kafka_async.testing import MockCluster

COUNT = 300
PAYLOAD = b"valuekeyheaders"
# topic, partition, offset, timestamp, its type, value, key, headers: a column of one row each
ROW = [0, 3, 5, 77, 1, 0, 5, 5, 8, -1, -1]


@pytest.fixture
def full(cluster: MockCluster, one: str) -> Any:
    send_all(cluster.bootstrap_servers, one, [b"%d" % number for number in range(COUNT)])
    with reader(cluster.bootstrap_servers, one) as consumer:
        wait_for(lambda: consumer.metrics().prefetched == COUNT)
        yield consumer


def cells(*rows: list[int]) -> memoryview:
    return memoryview(array.array("q", [row[column] for column in range(11) for row in rows]))


def test_a_row_is_a_message() -> None:
    rows = Rows(cells(ROW), 1, 0, 1, PAYLOAD, ["t"])
    message = next(rows)
    assert type(message) is Message
    assert message == Message(b"value", b"key", "t", 3, 5, 77, "create", None)  # type: ignore[arg-type]
    assert list(rows) == []


def test_rows_are_those_that_were_asked_for() -> None:
    many = [[0, 0, number, 0, 0, 0, 5, -1, -1, -1, -1] for number in range(10)]
    assert [message.offset for message in Rows(cells(*many), 10, 3, 4, PAYLOAD, ["t"])] == [3, 4, 5, 6]
    assert list(Rows(cells(*many), 10, 10, 0, PAYLOAD, ["t"])) == []


@pytest.mark.parametrize(
    ("stride", "start", "count"), [(1, 0, 2), (1, 1, 1), (1, -1, 1), (1, 0, -1), (2, 0, 1), (-1, 0, 0)]
)
def test_rows_that_are_not_there_are_refused(stride: int, start: int, count: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        Rows(cells(ROW), stride, start, count, PAYLOAD, ["t"])


@pytest.mark.parametrize(
    ("column", "value"),
    [(0, 1), (0, -1), (4, 3), (4, -1), (5, 6), (6, 16), (6, 2**62), (8, 16), (7, 9), (9, 0), (10, -(2**63))],
)
def test_row_that_leads_outside_of_its_memory_is_an_error(column: int, value: int) -> None:
    row = list(ROW)
    row[column] = value
    if column in (9, 10):
        row[9:11] = [0, value] if column == 10 else [value, -1]
    with pytest.raises(SystemError):
        next(Rows(cells(row), 1, 0, 1, PAYLOAD, ["t"]))


def test_cut_gives_pieces_and_refuses_what_is_outside() -> None:
    at = lambda *numbers: memoryview(array.array("q", numbers))  # noqa: E731
    assert cut(at(0, -1, 15, 5), at(5, -1, 15, 8), PAYLOAD) == [b"value", None, b"", b"key"]
    assert cut(at(), at(), PAYLOAD) == []
    with pytest.raises(SystemError):
        cut(at(0), at(16), PAYLOAD)
    with pytest.raises(ValueError, match="as many"):
        cut(at(0, 1), at(1), PAYLOAD)


def test_every_form_of_the_call_returns_the_next_message(full: Consumer) -> None:
    bound = full.poll_message
    messages = [
        full.poll_message(),
        full.poll_message(1),
        full.poll_message(timeout=1),
        bound(),
        Consumer.poll_message(full),
        next(full),
        full.poll_message(None),
        full.poll_message("looked at when it has to wait"),  # type: ignore[arg-type]
        *full.poll_batch(2),
    ]
    assert [message.offset for message in messages if message] == list(range(10))
    assert full.metrics().handed_out == 10


@pytest.mark.parametrize("method", [Consumer.poll_message, Consumer.__next__])
def test_it_documents_itself_as_the_method_that_it_is(method: Any) -> None:
    assert method.__doc__
    assert method.__name__ in ("poll_message", "__next__")
    assert list(inspect.signature(method).parameters) in (["self", "timeout"], ["self"])


def test_wrong_calls_say_so(full: Consumer) -> None:
    poll: Any = full.poll_message
    for arguments, names in [((1, 2), {}), ((), {"nothing": 1}), ((1,), {"timeout": 1})]:
        with pytest.raises(TypeError, match="argument"):
            poll(*arguments, **names)
    assert full.metrics().handed_out == 0


def test_stopped_with_messages_in_hand_it_says_so(cluster: MockCluster, one: str) -> None:
    send_all(cluster.bootstrap_servers, one, [b"v"] * COUNT)
    consumer = reader(cluster.bootstrap_servers, one)
    read(consumer, 5)
    consumer.stop(20)
    with pytest.raises(ClosedError):
        consumer.poll_message(1)


def test_on_anything_else_it_fails_as_a_method_would() -> None:
    method: Any = Consumer.poll_message
    for other in (object(), Poller(), Consumer.__new__(Consumer), aio.Consumer.__new__(aio.Consumer)):
        with pytest.raises(AttributeError):
            method(other)


def test_two_threads_that_poll_at_once_get_each_message_once_or_are_refused(full: Consumer) -> None:
    got: list[int] = []

    def run() -> None:
        while len(got) < COUNT:
            with contextlib.suppress(RuntimeError):  # another thread is polling
                if message := full.poll_message(0):
                    got.append(message.offset)

    before, threads = sys.getswitchinterval(), [threading.Thread(target=run) for _ in range(3)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    finally:
        sys.setswitchinterval(before)
    assert sorted(got) == list(range(COUNT))


def messages_alive() -> int:
    gc.collect()
    return sum(isinstance(each, Message) for each in gc.get_objects())


def test_it_keeps_nothing_of_what_it_handed_out(full: Consumer) -> None:
    before, none = messages_alive(), sys.getrefcount(None)
    for _ in range(COUNT):
        full.poll_message()
    assert messages_alive() <= before
    assert abs(sys.getrefcount(None) - none) < 100  # other threads have some, too


def test_rows_keep_what_they_read_as_long_as_they_are() -> None:
    payload, topics = b"x" * 50, ["t"]
    before = sys.getrefcount(payload), sys.getrefcount(topics)
    rows = Rows(cells([*ROW[:5], 0, 50, -1, -1, -1, -1]), 1, 0, 1, payload, topics)
    assert (sys.getrefcount(payload), sys.getrefcount(topics)) == (before[0] + 1, before[1] + 1)
    assert next(rows).value == payload
    del rows
    assert (sys.getrefcount(payload), sys.getrefcount(topics)) == before


def test_a_consumer_in_a_cycle_is_collected(cluster: MockCluster) -> None:
    consumer: Any = Consumer(cluster.bootstrap_servers, log=False)
    consumer._poller = consumer
    consumer.cycle = consumer.poll_message
    dead = weakref.ref(consumer)
    del consumer
    gc.collect()
    assert dead() is None


def test_decorated_functions_are_called_for_all_else() -> None:
    class Other(Poller):
        @fast_poll
        def poll(self, timeout: float = 1) -> object:
            return self, timeout

    other = Other()
    assert other.poll() == (other, 1)
    assert other.poll(2) == (other, 2)
    assert Consumer(NOBODY, log=False).poll_message(0) is None
