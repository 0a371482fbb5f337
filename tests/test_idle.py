"""How workers and polls wait for work: the arguments `idle` and `cpu`, and the names of threads."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import NOBODY, read, reader, run_python, wait_for

from kafka_async import Consumer, Producer, _idle
from kafka_async._consumer import _POLLING
from kafka_async._native import lib
from kafka_async.errors import ClosedError
from kafka_async.testing import MockCluster

MODES = ["warm", "park", "spin"]
TASKS = Path("/proc/self/task")

linux = pytest.mark.skipif(not TASKS.exists(), reason="threads are watched through /proc, which Linux has")


def threads(name: str) -> list[int]:
    """The threads of this process that have a native name."""
    found = []
    for task in TASKS.iterdir():
        try:
            if (task / "comm").read_text().strip() == name:
                found.append(int(task.name))
        except OSError:  # it has just ended
            continue
    return found


def new_thread(name: str, before: list[int]) -> int:
    """Wait for the one that has come; a thread that it starts has its name too until it sets its own."""
    new: list[int] = []

    def is_alone() -> bool:
        new[:] = [thread for thread in threads(name) if thread not in before]
        return len(new) == 1

    wait_for(is_alone)
    return new[0]


def cpu_seconds(thread: int) -> float:
    fields = (TASKS / str(thread) / "stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def usable_cpus() -> list[int]:
    return _idle._allowed_cpus() if hasattr(os, "sched_setaffinity") else []


# Opened on nobody: it has nothing to do.
OPEN: dict[str, Callable[..., Any]] = {
    "producer": lambda **options: Producer(NOBODY, "t", log=False, **options),
    "consumer": lambda **options: Consumer(NOBODY, "t", log=False, **options),
}


@pytest.mark.parametrize("kind", OPEN)
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"idle": "hot"}, ValueError, "idle must be 'warm', 'park' or 'spin', not 'hot'"),
        ({"idle": 0}, ValueError, "idle must be"),
        ({"idle": ["warm"]}, ValueError, "idle must be"),
        ({"cpu": "0"}, TypeError, "cpu must be int or None, not str"),
        ({"cpu": True}, TypeError, "cpu must be int or None, not bool"),
        ({"cpu": 1.0}, TypeError, "cpu must be int or None, not float"),
    ],
)
def test_wrong_values_are_refused(kind: str, options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=re.escape(text)):
        OPEN[kind](**options)


@linux
@pytest.mark.parametrize("kind", OPEN)
@pytest.mark.parametrize("cpu", [-1, 5000, 2**40])
def test_cpu_that_is_not_there_is_refused_before_anything_is_started(kind: str, cpu: int) -> None:
    before = set(TASKS.iterdir())
    with pytest.raises(ValueError, match=rf"^cpu must be one that this process may use \(.*\d\) or None, not {cpu}$"):
        OPEN[kind](cpu=cpu)
    wait_for(lambda: set(TASKS.iterdir()) <= before)  # nothing but the thread that asked, and it is gone


def test_ranges_of_cpus_are_short() -> None:
    assert _idle._ranges([3]) == "3"
    assert _idle._ranges([0, 1, 2, 3, 8, 10, 11]) == "0-3, 8, 10-11"


def test_system_that_can_not_bind_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pytest.raises(ValueError, match="this system can't bind a thread to a CPU"):
        Producer(NOBODY, cpu=0)


@linux
@pytest.mark.parametrize("kind", OPEN)
@pytest.mark.parametrize("idle", MODES)
def test_worker_is_bound_to_its_cpu_and_nothing_else_is(kind: str, idle: str) -> None:
    name = f"ka-{kind}"
    own = os.sched_getaffinity(0)
    for cpu in usable_cpus():
        before = threads(name)
        with OPEN[kind](idle=idle, cpu=cpu):
            assert os.sched_getaffinity(new_thread(name, before)) == {cpu}
            assert os.sched_getaffinity(0) == own
            for thread in threads("rdk:main"):
                with contextlib.suppress(ProcessLookupError):  # of one that was closed before
                    assert os.sched_getaffinity(thread) == own


@linux
@pytest.mark.parametrize("kind", OPEN)
def test_worker_is_left_to_the_system_without_cpu(kind: str) -> None:
    before = threads(f"ka-{kind}")
    with OPEN[kind]():
        assert os.sched_getaffinity(new_thread(f"ka-{kind}", before)) == os.sched_getaffinity(0)


@linux
@pytest.mark.skipif(len(usable_cpus()) < 2, reason="needs two CPUs")
def test_worker_may_have_a_cpu_that_its_opener_is_not_bound_to() -> None:
    """As where the application's own thread is bound, and the worker shall run beside it."""
    done = run_python(
        """
        import os, sys
        from kafka_async import Producer
        first, last = int(sys.argv[2]), int(sys.argv[3])
        os.sched_setaffinity(0, {first})
        with Producer(sys.argv[1], "t", cpu=last):
            pass
        assert os.sched_getaffinity(0) == {first}
        """,
        NOBODY,
        str(usable_cpus()[0]),
        str(usable_cpus()[-1]),
    )
    assert (done.returncode, done.stderr) == (0, "")


@linux
def test_control_thread_does_not_share_the_workers_cpu(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 1)
    before = threads("ka-control")
    cpu = usable_cpus()[-1]
    with Producer(cluster.bootstrap_servers, topic, config={"linger.ms": 500}, cpu=cpu) as producer:
        producer.send(b"v")
        producer.flush()
        control = new_thread("ka-control", before)
        wait_for(lambda: os.sched_getaffinity(control) == os.sched_getaffinity(0))


@pytest.mark.parametrize("idle", MODES)
def test_every_mode_produces_and_consumes(cluster: MockCluster, topic: str, idle: str) -> None:
    cluster.create_topic(topic, 2)
    values = {b"%d" % number for number in range(2000)}
    with (
        Producer(cluster.bootstrap_servers, topic, idle=idle) as producer,  # type: ignore[arg-type]
        reader(cluster.bootstrap_servers, topic, idle=idle) as consumer,
    ):
        for value in values:
            producer.send(value)
        producer.flush()
        assert {message.value for message in read(consumer, len(values))} == values
        producer.send(b"one more, to a poll that waits")
        assert [message.value for message in read(consumer, 1)] == [b"one more, to a poll that waits"]
        assert producer.metrics().delivered == len(values) + 1


@pytest.mark.parametrize("idle", MODES)
def test_poll_keeps_to_its_timeout(idle: str) -> None:
    with OPEN["consumer"](idle=idle) as consumer:
        for timeout in (0, 0.001, 0.05):
            begin = time.monotonic()
            assert consumer.poll_message(timeout) is None
            assert timeout <= time.monotonic() - begin < timeout + 1


@pytest.mark.parametrize("idle", MODES)
def test_stop_ends_a_poll_that_waits(idle: str) -> None:
    consumer = OPEN["consumer"](idle=idle)
    ended: list[float] = []

    def poll() -> None:
        with pytest.raises(ClosedError):
            consumer.poll_message(None)
        ended.append(time.monotonic())

    thread = threading.Thread(target=poll)
    thread.start()
    wait_for(lambda: consumer._rows is _POLLING)
    begin = time.monotonic()
    consumer.stop()
    thread.join(10)
    assert ended[0] - begin < 1


def test_signal_ends_a_poll_that_spins() -> None:
    done = run_python(
        """
        import signal, sys, time
        from kafka_async import Consumer
        late = []
        def handle(*_):
            late.append(time.monotonic() - due)
            raise TimeoutError
        signal.signal(signal.SIGALRM, handle)
        with Consumer(sys.argv[1], "t", idle="spin", log=False) as consumer:
            for _ in range(20):
                due = time.monotonic() + 0.02
                signal.setitimer(signal.ITIMER_REAL, 0.02)
                try:
                    consumer.poll_message(None)
                except TimeoutError:
                    pass
        assert len(late) == 20 and sorted(late)[10] < 0.1, late
        """,
        NOBODY,
    )
    assert (done.returncode, done.stderr) == (0, "")


@linux
@pytest.mark.parametrize("idle", ["warm", "park"])
def test_worker_at_rest_takes_no_cpu(idle: str) -> None:
    before = threads("ka-producer")
    with OPEN["producer"](idle=idle):
        worker = new_thread("ka-producer", before)
        begin, spent = time.monotonic(), cpu_seconds(worker)
        wait_for(lambda: time.monotonic() - begin > 1.0)
        assert cpu_seconds(worker) - spent <= 0.1  # a clock tick is 0.01


@linux
def test_spinning_worker_works_all_the_time_and_ends_at_stop() -> None:
    before = threads("ka-producer")
    with OPEN["producer"](idle="spin") as producer:
        worker = new_thread("ka-producer", before)
        wait_for(lambda: cpu_seconds(worker) > 0.3)
        begin = time.monotonic()
        producer.stop()
        assert time.monotonic() - begin < 1
    wait_for(lambda: worker not in threads("ka-producer"))


@linux
def test_consumers_worker_sleeps_in_every_mode() -> None:
    before = threads("ka-consumer")
    with OPEN["consumer"](idle="spin") as consumer:
        worker = new_thread("ka-consumer", before)
        spent = cpu_seconds(worker)
        consumer.poll_message(1.0)
        assert cpu_seconds(worker) - spent <= 0.1


@linux
def test_every_thread_of_ours_has_a_native_name(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 1)
    before = {int(task.name) for task in TASKS.iterdir()}
    with (
        Producer(cluster.bootstrap_servers, topic, config={"linger.ms": 500}) as producer,
        reader(cluster.bootstrap_servers, topic),
    ):
        producer.send(b"v")
        producer.flush()  # overriding linger takes a control thread
        for name in ("ka-producer", "ka-consumer", "ka-control", "ka-log"):
            wait_for(lambda name=name: threads(name), what=name)  # type: ignore[misc]

        def strangers() -> set[str]:
            names = set()
            for task in TASKS.iterdir():
                if int(task.name) not in before:
                    try:
                        names.add((task / "comm").read_text().strip())
                    except OSError:
                        continue
            return {name for name in names if not name.startswith(("ka-", "rdk:"))}

        wait_for(lambda: not strangers(), what="names for all but librdkafka's")


def test_name_of_a_thread_has_a_bound() -> None:
    names = []

    def run() -> None:
        names.append(lib.ka_thread_name(b"x" * 15))
        names.append(lib.ka_thread_name(b"x" * 16))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert names == [lib.KA_OK, lib.KA_INVALID]
