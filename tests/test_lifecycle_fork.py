"""What a forked child can do with the objects of its parent: nothing, at once and in silence; the parent goes on."""

from __future__ import annotations

import subprocess
from pathlib import Path

import forked
from shared_cluster import shared_cluster as shared_cluster
from support import NOBODY, read, reader, run_python

from kafka_async.testing import MockCluster

TESTS = {"PYTHONPATH": str(Path(__file__).parent)}


def run(code: str, *args: str, limit: float = 60.0) -> subprocess.CompletedProcess[str]:
    done = run_python(code, *args, env=TESTS, limit=limit)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done


def values(cluster: MockCluster, topic: str, count: int) -> list[bytes]:
    with reader(cluster.bootstrap_servers, topic) as consumer:
        return sorted(message.value or b"" for message in read(consumer, count))


def test_every_public_method_is_covered() -> None:
    assert forked.missing() == []


def test_child_is_refused_by_every_method(cluster: MockCluster, one: str) -> None:
    run(
        """
        import os, sys
        import forked
        from kafka_async import Consumer, ForkedError, Producer
        from kafka_async.testing import MockCluster
        producer = Producer(*sys.argv[1:3])
        transactional = Producer(*sys.argv[1:3], config={"transactional.id": "t"})
        consumer = Consumer(*sys.argv[1:3], group_id="g", on_revoke=print)
        mock = MockCluster()
        producer.send(b"parent")
        child = os.fork()
        if child == 0:
            bad = forked.accepted(producer, transactional, consumer, mock)
            for call in (
                lambda: producer.send_offsets_to_transaction(consumer),
                lambda: transactional.transaction().__enter__(),
                lambda: consumer.commit(offsets=[forked.AT], asynchronous=True),
                lambda: next(consumer),
            ):
                try:
                    call()
                    bad.append("another")
                except ForkedError:
                    pass
            with producer, transactional, consumer, mock:
                pass
            producer.stop()
            consumer.stop()
            mock.stop()
            print(*bad, file=sys.stderr, end="")
            sys.exit(len(bad))
        forked.wait(child)
        mock.create_topic("still")
        producer.send(b"still")
        producer.flush()
        producer.stop()
        consumer.stop(0)
        """,
        cluster.bootstrap_servers,
        one,
    )
    assert values(cluster, one, 2) == [b"parent", b"still"]


def test_child_is_refused_by_every_method_of_asyncio_and_warns_of_nothing(cluster: MockCluster, one: str) -> None:
    run(
        """
        import asyncio, os, sys, warnings
        import forked
        from kafka_async import aio
        warnings.simplefilter("always")
        async def main():
            async with aio.Producer(*sys.argv[1:3]) as producer, aio.Consumer(*sys.argv[1:3], group_id="g") as consumer:
                await producer.send(b"parent")
                child = os.fork()
                if child == 0:
                    asyncio.events._set_running_loop(None)
                    bad = forked.accepted(producer, consumer)
                    asyncio.run(producer.stop())
                    asyncio.run(consumer.stop())
                    del producer, consumer
                    print(*bad, file=sys.stderr, end="")
                    sys.exit(len(bad))
                forked.wait(child)
                await producer.send(b"still")
        asyncio.run(main())
        """,
        cluster.bootstrap_servers,
        one,
    )
    assert values(cluster, one, 2) == [b"parent", b"still"]


def test_child_that_leaves_the_parents_loop_open_ends_in_silence(cluster: MockCluster, one: str) -> None:
    run(
        """
        import asyncio, os, sys, warnings
        import forked
        from kafka_async import aio
        warnings.simplefilter("always")
        async def main():
            producer, consumer = aio.Producer(*sys.argv[1:3]), aio.Consumer(*sys.argv[1:3])
            producer.submit(b"parent")
            child = os.fork()
            if child == 0:
                return "child"
            forked.wait(child)
            await producer.send(b"still")
            await producer.stop()
            await consumer.stop()
        asyncio.run(main())
        """,
        cluster.bootstrap_servers,
        one,
    )
    assert values(cluster, one, 2) == [b"parent", b"still"]


def test_child_of_a_fork_in_a_callback_is_refused_at_once(cluster: MockCluster, one: str) -> None:
    """A rebalance callback holds a lock; so does a thread of the parent that runs one while another one forks."""
    run(
        """
        import os, sys, threading, time
        import forked
        from kafka_async import Consumer
        began = threading.Event()
        release = threading.Event()
        def check():
            started = time.monotonic()
            bad = forked.accepted(consumer)
            consumer.stop()
            if time.monotonic() - started > 10:
                bad.append("late")
            os._exit(len(bad))
        def on_assign(consumer, partitions):
            child = os.fork()
            if child == 0:
                check()
            forked.wait(child)
            began.set()
            release.wait(30)
        consumer = Consumer(*sys.argv[1:3], group_id="callback", on_assign=on_assign, on_revoke=lambda *_: None)
        polling = threading.Thread(target=lambda: list(consumer))
        polling.start()
        assert began.wait(20)
        child = os.fork()
        if child == 0:
            check()
        forked.wait(child)
        release.set()
        consumer.stop()
        polling.join(20)
        assert not polling.is_alive()
        """,
        cluster.bootstrap_servers,
        one,
    )


def test_future_in_a_child_does_not_wait_for_a_lock_that_nobody_holds_there() -> None:
    done = run(
        """
        import concurrent.futures, os, sys, threading
        import forked
        from kafka_async import Consumer, DeliveryError, FlushTimeout, ForkedError, Producer
        producer = Producer(sys.argv[1], "t")
        consumer = Consumer(sys.argv[1], "t", group_id="g")
        purged = producer.submit(b"purged")
        producer.purge()
        assert isinstance(purged.exception(10), DeliveryError)
        pending = [producer.submit(b"v"), consumer.commit(offsets=[forked.AT], asynchronous=True, timeout=None)]
        held, over = threading.Barrier(4), threading.Event()
        def hold(future):
            with future._condition:
                held.wait()
                over.wait()
        for future in (purged, *pending):
            threading.Thread(target=hold, args=[future], daemon=True).start()
        held.wait()
        child = os.fork()
        if child == 0:
            for future in pending:
                for call in (
                    future.result,
                    future.exception,
                    lambda: future.add_done_callback(print),
                    lambda: concurrent.futures.wait([future]),
                    lambda: list(concurrent.futures.as_completed([future])),
                ):
                    try:
                        call()
                        os._exit(1)
                    except ForkedError:
                        pass
                assert not future.done()
                repr(future)
            assert isinstance(purged.exception(), DeliveryError)
            purged.add_done_callback(lambda future: print("told", flush=True))
            assert concurrent.futures.wait([purged]).done == {purged}
            os._exit(0)
        forked.wait(child)
        over.set()
        try:
            producer.stop(0)
        except FlushTimeout as error:
            assert error.outstanding == 1
        assert isinstance(pending[0].exception(0), DeliveryError)
        consumer.stop(0)
        """,
        NOBODY,
    )
    assert done.stdout == "told\n"


def test_failure_that_nobody_looked_at_is_the_parents_to_tell() -> None:
    done = run_python(
        """
        import os, sys, time
        import forked
        from kafka_async import Producer
        producer = Producer(sys.argv[1], "t", config={"message.timeout.ms": 100})
        future = producer.submit(b"v")
        while not future.done():
            time.sleep(0.01)
        producer._stopped = producer._unread.stopped = True  # as if it had been stopped before
        child = os.fork()
        del future
        if child:
            forked.wait(child)
        print("child" if child == 0 else "parent", flush=True)
        """,
        NOBODY,
        env=TESTS,
    )
    assert (done.returncode, done.stdout) == (0, "child\nparent\n"), done.stderr
    assert done.stderr.count("1 message was lost") == 1


def test_program_that_a_child_executes_has_nothing_to_do_with_it(cluster: MockCluster, one: str) -> None:
    run(
        """
        import os, signal, subprocess, sys
        import forked
        from kafka_async import Producer
        code = "import signal, sys; from kafka_async import Producer; assert not signal.pthread_sigmask(0, []); " + (
            "p = Producer(*sys.argv[1:3]); p.send(b'executed'); print('executed', flush=True)"
        )
        producer = Producer(*sys.argv[1:3])
        command = [sys.executable, "-c", code, *sys.argv[1:3]]
        for number in range(2):
            producer.send(b"parent", on_delivery=lambda report: None)
            if (child := os.fork()) == 0:
                os.execv(command[0], command)
            assert subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout == b"executed\\n"
            forked.wait(child)
        producer.flush()
        producer.stop()
        """,
        cluster.bootstrap_servers,
        one,
    )
    assert values(cluster, one, 6) == [b"executed"] * 4 + [b"parent"] * 2
