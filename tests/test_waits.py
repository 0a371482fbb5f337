"""Every call that may wait ends at once by `stop`, and runs signal handlers while it waits."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from support import NOBODY, run_python, wait_for

import kafka_async._wait
from kafka_async import ClosedError, FlushTimeout, KafkaError, Producer, TransactionError
from kafka_async.testing import MockCluster

pytestmark = pytest.mark.timeout(60)

SOON_S = 0.5  # 5 ms is promised; the rest is for a machine that is busy with other things


def full() -> Producer:
    producer = Producer(NOBODY, "t", queue_messages=1, on_full="block", log=False)
    producer.send(b"v")
    return producer


def plain() -> Producer:
    return Producer(NOBODY, "t", log=False)


def transactional() -> Producer:
    return Producer(NOBODY, "t", config={"transactional.id": "x"}, log=False)


def flush_for_callback() -> tuple[Producer, Callable[[], object], Callable[[], None]]:
    """A flush that waits for nothing but a callback."""
    producer, release = plain(), threading.Event()
    producer.send(b"v", on_delivery=lambda _: release.wait(30))
    producer.purge()
    return producer, lambda: producer.flush(None), release.set


WAITS: dict[str, tuple[Callable[[], Producer], Callable[[Producer], object]]] = {
    "flush": (full, lambda p: p.flush(None)),
    "send": (full, lambda p: p.send(b"w")),
    "submit": (full, lambda p: p.submit(b"w")),
    "send_many": (full, lambda p: p.send_many([b"w"] * 3)),
    "partitions": (plain, lambda p: p.partitions("t", timeout=None)),
    "warm_up": (plain, lambda p: p.warm_up(timeout=None)),
    "init_transactions": (transactional, lambda p: p.init_transactions(None)),
}


def is_waiting(thread: threading.Thread) -> bool:
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if frame.f_code is kafka_async._wait.wait.__code__:
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def waiting(call: Callable[[], object]) -> Iterator[dict[str, object]]:
    """Run a call in another thread; when the block ends, so must the call."""
    result: dict[str, object] = {}

    def run() -> None:
        try:
            result["value"] = call()
        except BaseException as error:
            result["error"] = error
        result["ended"] = time.monotonic()

    thread = threading.Thread(target=run)
    thread.start()
    wait_for(lambda: is_waiting(thread))
    yield result
    thread.join(10)
    assert not thread.is_alive()


def stop_now(producer: Producer) -> None:
    with contextlib.suppress(FlushTimeout, TransactionError):
        producer.stop(0)


@pytest.mark.parametrize("name", WAITS)
def test_stop_ends_it(name: str) -> None:
    make, call = WAITS[name]
    producer = make()
    with waiting(lambda: call(producer)) as result:
        began = time.monotonic()
        stop_now(producer)
    assert isinstance(result["error"], ClosedError)
    assert result["ended"] - began < SOON_S  # type: ignore[operator]


def test_stop_ends_a_flush_that_waits_for_a_callback() -> None:
    producer, flush, release = flush_for_callback()
    with waiting(flush) as result:
        began = time.monotonic()
        stopper = threading.Thread(target=stop_now, args=[producer])  # it waits for the callback, too
        stopper.start()
        wait_for(lambda: "ended" in result)
        release()
        stopper.join(10)
    assert isinstance(result["error"], ClosedError)
    assert result["ended"] - began < SOON_S  # type: ignore[operator]


@pytest.mark.parametrize("name", ["commit_transaction", "abort_transaction"])
def test_stop_ends_the_end_of_a_transaction(name: str, topic: str) -> None:
    with MockCluster(topics={"t": 1}) as cluster:
        producer = Producer(cluster.bootstrap_servers, "t", config={"transactional.id": topic}, log=False)
        producer.init_transactions()
        producer.begin_transaction()
        producer.send(b"v")
        producer.flush()
        cluster.broker_down(1)
        with waiting(lambda: getattr(producer, name)(None)) as result:
            began = time.monotonic()
            stopper = threading.Thread(target=stop_now, args=[producer])
            stopper.start()
            wait_for(lambda: "ended" in result)
            stopper.join(10)
        assert isinstance(result["error"], ClosedError)
        assert result["ended"] - began < SOON_S  # type: ignore[operator]


def test_bar_of_a_commit_ends_a_blocked_send(topic: str) -> None:
    with MockCluster(topics={"t": 1}) as cluster:
        config = {"transactional.id": topic}
        producer = Producer(cluster.bootstrap_servers, "t", config=config, queue_messages=1, on_full="block", log=False)
        producer.init_transactions()
        producer.begin_transaction()
        cluster.broker_down(1)
        producer.send(b"v")
        with waiting(lambda: producer.send(b"w")) as result:
            with pytest.raises(TransactionError) as caught:
                producer.commit_transaction(0.1)
            assert caught.value.retriable
        assert isinstance(result["error"], TransactionError)
        stop_now(producer)


@pytest.mark.parametrize("name", WAITS)
def test_signal_handlers_run_while_it_waits(name: str) -> None:
    """A handler that returns resumes the wait, one that raises ends it."""
    done = run_python(
        f"""
        import signal, sys, time
        sys.path.insert(0, {str(__file__).rpartition("/")[0]!r})
        from test_waits import WAITS, stop_now
        make, call = WAITS[{name!r}]
        producer = make()
        due, late = [], []

        def handle(*_):
            late.append(time.monotonic() - due[0])
            if len(late) == 20:
                raise KeyboardInterrupt
            again()

        def again():
            due[:] = [time.monotonic() + 0.01]
            signal.setitimer(signal.ITIMER_REAL, 0.01)

        signal.signal(signal.SIGALRM, handle)
        again()
        try:
            call(producer)
        except KeyboardInterrupt:
            print(len(late), sorted(late)[len(late) // 2])
        stop_now(producer)
        """
    )
    assert done.returncode == 0, done.stderr
    count, median_s = done.stdout.split()
    assert count == "20"
    assert float(median_s) < 0.05  # 5 ms, and the machine's noise


def test_timeout_is_kept_with_nobody_there() -> None:
    producer = plain()
    for call in (lambda: producer.partitions("t", timeout=0.2), lambda: producer.warm_up(timeout=0.2)):
        began = time.monotonic()
        with pytest.raises(KafkaError) as caught:
            call()
        assert caught.value.retriable
        assert 0.2 <= time.monotonic() - began < 1.5
    stop_now(producer)
