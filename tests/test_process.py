"""Exit, fork, signals, garbage collection: each in a process of its own."""

from __future__ import annotations

import subprocess

import pytest
from support import NOBODY, read, reader, run_python

from kafka_async.testing import MockCluster

NO_TRACE = ("Traceback", "Fatal", "Segmentation", "Aborted")


def check(done: subprocess.CompletedProcess[str], stdout: str = "") -> None:
    assert done.returncode == 0, done.stderr
    assert not any(word in done.stderr for word in NO_TRACE), done.stderr
    assert done.stdout == stdout


def values(cluster: MockCluster, count: int) -> list[bytes | None]:
    with reader(cluster.bootstrap_servers, "t") as consumer:
        return [message.value for message in read(consumer, count)]


@pytest.fixture
def t(cluster: MockCluster) -> MockCluster:
    cluster.create_topic("t", 1)
    return cluster


def test_messages_of_a_producer_nobody_stopped_are_delivered_at_exit(t: MockCluster) -> None:
    done = run_python(
        """
        import sys
        from kafka_async import Producer
        producer = Producer(sys.argv[1], "t", config={"linger.ms": 500})
        for number in range(5000):
            producer.send(b"%d" % number)
        """,
        t.bootstrap_servers,
    )
    check(done)
    assert done.stderr == ""
    assert len(values(t, 5000)) == 5000


def test_exit_says_how_many_messages_were_lost() -> None:
    done = run_python(
        """
        import sys
        from kafka_async import Producer
        producers = [Producer(sys.argv[1], "t") for _ in range(3)]
        for producer in producers:
            producer.send(b"v")
            producer.send(b"w")
        Producer(sys.argv[1], "t").send(b"forgotten")
        """,
        NOBODY,
    )
    check(done)
    assert "7 messages were lost" in done.stderr


def test_loss_that_stop_told_is_not_told_again() -> None:
    done = run_python(
        """
        import sys
        from kafka_async import FlushTimeout, Producer
        def main():
            producer = Producer(sys.argv[1], "t", queue_messages=300_000)
            for _ in range(300_000):
                producer.send(b"x" * 100)
            try:
                producer.stop(0)
            except FlushTimeout as error:
                print(error.outstanding)
        main()
        """,
        NOBODY,
    )
    check(done, "300000\n")
    assert done.stderr == ""


@pytest.mark.parametrize("forget", ["", "del producer"])
def test_failures_that_nobody_fetched_are_told_at_exit(forget: str) -> None:
    done = run_python(
        f"""
        import sys, time
        from kafka_async import Producer
        producer = Producer(sys.argv[1], "t", config={{"message.timeout.ms": 200}})
        producer.send(b"v")
        producer.send(b"w")
        while producer.metrics().failed < 2:
            time.sleep(0.01)
        {forget}
        """,
        NOBODY,
    )
    check(done)
    assert "2 messages were lost" in done.stderr


def test_loss_in_a_block_that_an_exception_ended_is_told_at_exit() -> None:
    done = run_python(
        """
        import sys
        from kafka_async import Producer
        with Producer(sys.argv[1], "t", config={"message.timeout.ms": 200}) as producer:
            producer.send(b"v")
            sys.exit(0)
        """,
        NOBODY,
    )
    check(done)
    assert "1 message was lost" in done.stderr


def test_producer_can_not_be_opened_when_nobody_would_close_it() -> None:
    done = run_python(
        """
        import atexit, sys
        def late():
            try:
                Producer(sys.argv[1], "t")
            except ClosedError as error:
                print(error, flush=True)
        atexit.register(late)  # before ours, so it runs after
        from kafka_async import ClosedError, Producer
        """,
        NOBODY,
    )
    check(done, "the interpreter is ending: nothing that is opened now would be flushed\n")


def test_interrupted_stop_can_be_waited_for_again() -> None:
    done = run_python(
        """
        import os, signal, sys, threading
        from kafka_async import FlushTimeout, Producer
        producer = Producer(sys.argv[1], "t")
        producer.send(b"v")
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            producer.stop(1)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        try:
            producer.stop()
        except FlushTimeout as error:
            print("lost", error.outstanding, flush=True)
        """,
        NOBODY,
    )
    check(done, "interrupted\nlost 1\n")
    assert done.stderr == ""


def test_interrupt_during_the_exit_tells_what_is_lost() -> None:
    done = run_python(
        """
        import os, signal, sys, threading
        from kafka_async import Producer
        producer = Producer(sys.argv[1], "t")
        for _ in range(3):
            producer.send(b"v")
        def interrupt():
            while producer._native and not closing.wait(0.01):
                pass
            os.kill(os.getpid(), signal.SIGINT)
        closing = threading.Event()
        begin = producer._begin_exit
        def begin_exit(timeout):
            begin(timeout)
            closing.set()
        producer._begin_exit = begin_exit
        threading.Thread(target=interrupt, daemon=True).start()
        """,
        NOBODY,
    )
    check(done)
    assert "3 messages were lost" in done.stderr


def test_exit_by_an_exception_delivers_too(t: MockCluster) -> None:
    done = run_python(
        """
        import sys
        from kafka_async import Consumer, Producer
        consumer = Consumer(sys.argv[1], "t")
        producer = Producer(sys.argv[1], "t")
        producer.send(b"v")
        raise SystemExit(3)
        """,
        t.bootstrap_servers,
    )
    assert done.returncode == 3
    assert done.stderr == ""
    assert values(t, 1) == [b"v"]


def test_forked_child_can_use_nothing_of_the_parent_and_harms_nothing(t: MockCluster) -> None:
    done = run_python(
        """
        import gc, os, sys, threading
        from kafka_async import Consumer, ForkedError, Producer, TopicPartition
        from kafka_async.testing import MockCluster
        producer = Producer(sys.argv[1], "t")
        consumer = Consumer(sys.argv[1], "t", config={"auto.offset.reset": "earliest"})
        cluster = MockCluster()
        producer.send(b"parent 1")
        producer.flush()
        message = consumer.poll_message(10)
        assert message.value == b"parent 1"
        at = TopicPartition("t", message.partition, 0)
        waiting = threading.Thread(target=lambda: list(consumer), daemon=True)
        waiting.start()
        try:
            while True:  # until that thread polls
                consumer.poll_message(0)
        except RuntimeError:
            pass
        child = os.fork()
        if child == 0:
            for call in (
                lambda: producer.send(b"x"),
                lambda: producer.send(b"x", b"key", topic="another"),
                producer.flush,
                producer.metrics,
                producer.failures,
                lambda: consumer.poll_message(0),
                lambda: consumer.poll_batch(1, 0),
                lambda: consumer.assign([]),
                lambda: consumer.incremental_assign([at]),
                lambda: consumer.pause([at]),
                lambda: consumer.seek(at),
                lambda: consumer.position([at]),
                lambda: consumer.watermarks("t", 0),
                lambda: consumer.offsets_for_times([at]),
                consumer.lag,
                consumer.unsubscribe,
                consumer.assignment,
                consumer.metrics,
            ):
                try:
                    call()
                except ForkedError:
                    continue
                os._exit(1)
            producer.stop()
            consumer.stop()
            with producer, consumer:
                pass
            new = Producer(sys.argv[1], "t")
            new.send(b"child")
            new.stop()
            del producer, consumer, cluster, new
            gc.collect()
            sys.exit(0)  # runs the hooks of an exit
        assert os.waitpid(child, 0)[1] == 0
        producer.send(b"parent 2")
        producer.stop()
        consumer.stop()
        """,
        t.bootstrap_servers,
    )
    check(done)
    assert sorted(values(t, 3)) == [b"child", b"parent 1", b"parent 2"]  # type: ignore[type-var]


def test_forked_child_is_handed_nothing_of_what_the_parent_prefetched(t: MockCluster) -> None:
    done = run_python(
        """
        import os, sys, time
        from kafka_async import Consumer, ForkedError, Producer
        with Producer(sys.argv[1], "t") as producer:
            for number in range(100):
                producer.send(b"%d" % number, partition=0)
        consumer = Consumer(sys.argv[1], "t", config={"auto.offset.reset": "earliest"})
        while consumer.metrics().prefetched < 100:
            time.sleep(0.01)
        for number in range(3):
            assert consumer.poll_message(10).value == b"%d" % number
            child = os.fork()
            if child == 0:
                polls = lambda: consumer.poll_message(0), lambda: consumer.poll_batch(1, 0), lambda: next(consumer)
                for poll in polls:
                    try:
                        poll()
                    except ForkedError:
                        continue
                    os._exit(1)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        """,
        t.bootstrap_servers,
    )
    check(done)


def test_child_of_multiprocessing_delivers_at_its_end(t: MockCluster) -> None:
    done = run_python(
        """
        import multiprocessing, sys
        from kafka_async import Producer
        def work(servers):
            producer = Producer(servers, "t", config={"linger.ms": 300})
            for number in range(100):
                producer.send(b"%d" % number)
        if __name__ == "__main__":
            child = multiprocessing.get_context("fork").Process(target=work, args=(sys.argv[1],))
            child.start()
            child.join()
            assert child.exitcode == 0
        """,
        t.bootstrap_servers,
    )
    check(done)
    assert len(values(t, 100)) == 100


@pytest.mark.parametrize("call", ["flush(None)", "stop(None)", "send(b'w')"])
def test_keyboard_interrupt_ends_a_producers_wait_at_once(call: str) -> None:
    done = run_python(
        f"""
        import os, signal, sys, threading, time
        from kafka_async import Producer
        producer = Producer(sys.argv[1], "t", queue_messages=1, on_full="block")
        producer.send(b"v")
        sent = []
        def interrupt():
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)
        threading.Timer(0.3, interrupt).start()
        try:
            producer.{call}
        except KeyboardInterrupt:
            late = time.monotonic() - sent[0]
            assert late < 0.5, late
            print("interrupted", flush=True)
        os._exit(0)
        """,
        NOBODY,
    )
    check(done, "interrupted\n")


def test_signal_handler_that_returns_resumes_the_wait() -> None:
    done = run_python(
        """
        import signal, sys, time
        from kafka_async import Consumer
        seen = []
        signal.signal(signal.SIGALRM, lambda *_: seen.append(time.monotonic()))
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        consumer = Consumer(sys.argv[1], "t")
        began = time.monotonic()
        assert consumer.poll_message(0.6) is None
        assert 0.6 <= time.monotonic() - began < 2
        assert len(seen) >= 5, seen
        signal.setitimer(signal.ITIMER_REAL, 0)  # the interpreter's end gives the signal back
        consumer.stop()
        """,
        NOBODY,
    )
    check(done)


def test_no_signal_is_slept_through() -> None:
    """Signals at random moments, also just before a wait begins: each is handled soon."""
    done = run_python(
        """
        import random, signal, sys, time
        from kafka_async import Consumer
        consumer = Consumer(sys.argv[1], "t")
        class Alarm(Exception):
            pass
        def handle(*_):
            raise Alarm
        signal.signal(signal.SIGALRM, handle)
        late = []
        for _ in range(500):
            delay = random.uniform(0.0001, 0.002)
            due = time.monotonic() + delay
            try:
                signal.setitimer(signal.ITIMER_REAL, delay)
                while True:
                    consumer.poll_message(1)
            except Alarm:
                late.append(time.monotonic() - due)
        late.sort()
        # A wait that slept through its signal would be 1 s late.
        assert late[-1] < 0.8, late[-5:]
        consumer.stop()
        """,
        NOBODY,
    )
    check(done)


def test_native_threads_block_signals_and_have_names() -> None:
    done = run_python(
        """
        import contextlib, os, signal, sys
        from pathlib import Path
        from kafka_async import Consumer, Producer
        producer, consumer = Producer(sys.argv[1], "t"), Consumer(sys.argv[1], "t")
        names = {}
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):  # it has just ended
                fields = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
                names[fields["Name"].strip()] = int(fields["SigBlk"].strip(), 16)
        for name in ("ka-producer", "ka-consumer"):
            assert names[name] & 1 << signal.SIGINT - 1, names
        producer.stop()
        consumer.stop()
        """,
        NOBODY,
    )
    check(done)


def test_stopped_objects_leave_no_thread_behind(t: MockCluster) -> None:
    done = run_python(
        """
        import os, sys, time
        from kafka_async import Consumer, Producer
        before = len(os.listdir("/proc/self/task"))
        for _ in range(5):
            with Producer(sys.argv[1], "t", log=False) as producer, Consumer(sys.argv[1], "t", log=False):
                producer.send(b"v")
        deadline = time.monotonic() + 15
        while len(os.listdir("/proc/self/task")) > before:
            assert time.monotonic() < deadline, os.listdir("/proc/self/task")
            time.sleep(0.01)
        """,
        t.bootstrap_servers,
    )
    check(done)


def test_subinterpreter_is_refused_and_the_main_one_works() -> None:
    done = run_python(
        """
        import kafka_async
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        from kafka_async.testing import MockCluster
        attempt = '''
        try:
            import kafka_async
        except ImportError as error:
            print("main interpreter" in str(error), flush=True)
        '''
        interpreters.run_string(interpreters.create(), attempt)
        with MockCluster(topics={"t": 1}) as cluster, kafka_async.Producer(cluster.bootstrap_servers, "t") as producer:
            producer.send(b"v")
        print(producer.metrics().delivered)
        """
    )
    check(done, "True\n1\n")


def test_import_refuses_a_librdkafka_that_is_too_old() -> None:
    done = run_python(
        """
        from kafka_async import _native
        class Old:
            ka_librdkafka_version = _native.lib.ka_librdkafka_version
            ka_librdkafka_version_linked = staticmethod(lambda: 0x010900FF)
            ka_librdkafka_version_compiled = staticmethod(lambda: 0x020002FF)
        from kafka_async import _version
        _version.lib = Old
        try:
            _version.check_librdkafka()
        except ImportError as error:
            assert "2.0.2" in str(error) and "pip install" in str(error)
            print("refused")
        """
    )
    check(done, "refused\n")
