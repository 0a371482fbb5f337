"""The short cut of `send(value)`: it is the same method, whatever the call's form and the object's fate."""

from __future__ import annotations

import gc
import inspect
import sys
from contextlib import suppress
from typing import Any

import pytest
from support import NOBODY, end, run_python

from kafka_async import ClosedError, FlushTimeout, Producer, aio
from kafka_async._fast import Sender, fast


@pytest.fixture
def producer() -> Any:
    producer = Producer(NOBODY, "t")
    yield producer
    with suppress(FlushTimeout):
        producer.stop(0)


class Bytes(bytes):
    """No plain bytes: what it is made of is asked for."""


def test_every_form_of_the_call_is_accepted(producer: Producer) -> None:
    producer.send(b"value")
    producer.send(value=b"value")
    producer.send(b"value", b"key")
    producer.send(b"value", key="key", partition=0)
    producer.send(Bytes(b"value"))
    producer.send("value")
    producer.send(bytearray(b"value"))
    producer.send(None)
    producer.send(b"")
    Producer.send(producer, b"value")
    bound = producer.send
    bound(b"value")
    metrics = producer.metrics()
    assert metrics.accepted == 11
    assert metrics.outstanding_bytes == 5 * 9 + 2 * 3


@pytest.mark.parametrize("method", [Producer.send, aio.Producer.send_nowait])
def test_it_documents_itself_as_the_method_that_it_is(method: Any) -> None:
    assert method.__name__ in ("send", "send_nowait")
    assert "Accept a message and return" in method.__doc__
    assert list(inspect.signature(method).parameters) == ["self", "value", "key", "options"]


def test_bound_it_has_no_self(producer: Producer) -> None:
    assert list(inspect.signature(producer.send).parameters) == ["value", "key", "options"]


def test_wrong_calls_say_so(producer: Producer) -> None:
    send: Any = producer.send
    for arguments, names in [((), {}), ((b"v", b"k", b"?"), {}), ((b"v",), {"nothing": 1}), ((b"v",), {"value": b"v"})]:
        with pytest.raises(TypeError, match="argument"):
            send(*arguments, **names)
    assert producer.metrics().accepted == 0


def test_a_subclass_may_have_its_own() -> None:
    class Loud(Producer):
        def send(self, value: Any, key: Any = None, **options: Any) -> None:
            super().send(value + b"!", key, **options)

    producer = Loud(NOBODY, "t")
    producer.send(b"value")
    assert producer.metrics().outstanding_bytes == 6
    end(producer)


def test_after_stop_it_is_refused() -> None:
    producer = Producer(NOBODY, "t")
    producer.stop(0)
    with pytest.raises(ClosedError):
        producer.send(b"value")


@pytest.mark.parametrize("other", [object(), Sender()])
def test_on_anything_else_it_fails_as_a_method_would(other: object) -> None:
    method: Any = Producer.send
    with pytest.raises(AttributeError):
        method(other, b"value")


def test_without_a_constructor_it_fails_and_does_not_crash() -> None:
    with pytest.raises(AttributeError):
        Producer.__new__(Producer).send(b"value")


def test_it_keeps_no_reference_to_what_it_sent(producer: Producer) -> None:
    value = b"value" * 100
    before = sys.getrefcount(value), sys.getrefcount(None)
    for _ in range(1000):
        producer.send(value)
    assert sys.getrefcount(value) == before[0]
    assert abs(sys.getrefcount(None) - before[1]) < 100  # other threads have some, too


def test_finalizers_of_the_cycle_that_it_is_collected_in_can_use_it() -> None:
    """AddressSanitizer sees what they would use of what is freed: step sanitized of the gate."""
    done = run_python(
        """
        import gc
        from kafka_async import Consumer, Producer
        from kafka_async.testing import MockCluster

        class Last:
            def __init__(self, *calls):
                self.calls = calls
            def __del__(self):
                for call in self.calls:
                    call()
                used.append(self)

        used = []
        for _ in range(10):
            cluster = MockCluster()
            producer = Producer(cluster.bootstrap_servers, "t", log=False)
            consumer = Consumer(cluster.bootstrap_servers, log=False)
            last = Last(
                lambda send=producer.send: send(b"last"), producer.metrics, consumer.metrics, consumer.assignment,
                lambda broker_up=cluster.broker_up: broker_up(1),
            )
            for one in (cluster, producer, consumer):
                one.cycle = [one, last]
            del cluster, producer, consumer, last, one
            gc.collect()
        print(len(used))
        """
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "10\n")


def test_decorated_functions_are_collected() -> None:
    def function() -> None: ...

    method: Any = fast(function)
    method.cycle = method
    function.method = method  # type: ignore[attr-defined]
    del method, function
    before = len(gc.get_objects())
    gc.collect()
    assert len(gc.get_objects()) < before
