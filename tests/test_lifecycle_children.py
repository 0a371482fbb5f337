"""Children that work: objects made after a fork deliver, and are flushed at its end; the parent never notices.

Children of multiprocessing, of gunicorn, and of programs that fork while all their threads are busy.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from shared_cluster import shared_cluster as shared_cluster
from support import NOBODY, read, reader, run_python, wait_for

from kafka_async.testing import MockCluster

TESTS = {"PYTHONPATH": str(Path(__file__).parent)}
STARTS = ["fork", "forkserver", "spawn"]


def values(cluster: MockCluster, topic: str, count: int) -> Counter[bytes]:
    with reader(cluster.bootstrap_servers, topic) as consumer:
        return Counter(message.value or b"" for message in read(consumer, count))


def run_file(folder: Path, code: str, *args: str) -> subprocess.CompletedProcess[str]:
    """As a file, which children that do not fork import anew."""
    program = folder / "program.py"
    program.write_text(textwrap.dedent(code))
    return subprocess.run(
        [sys.executable, str(program), *args], capture_output=True, text=True, timeout=60, check=False, cwd=folder
    )


@pytest.mark.parametrize("start", STARTS)
def test_children_of_multiprocessing_deliver_at_their_end(
    cluster: MockCluster, one: str, start: str, tmp_path: Path
) -> None:
    done = run_file(
        tmp_path,
        """
        import asyncio, multiprocessing, sys
        from kafka_async import ForkedError, Producer, aio
        producer = None

        async def asynchronous(servers, topic):
            global left
            left = aio.Producer(servers, topic)
            left.send_nowait(b"asyncio")

        def work(start, servers, topic):
            global kept
            if start == "fork":
                try:
                    producer.send(b"of the parent")
                    sys.exit("no ForkedError")
                except ForkedError:
                    pass
            kept = Producer(servers, topic, config={"linger.ms": 300})
            for number in range(100):
                kept.send(b"child")
            asyncio.run(asynchronous(servers, topic))

        if __name__ == "__main__":
            producer = Producer(*sys.argv[2:])
            context = multiprocessing.get_context(sys.argv[1])
            children = [context.Process(target=work, args=sys.argv[1:]) for _ in range(2)]
            for child in children:
                producer.send(b"parent")
                child.start()
            for child in children:
                child.join()
            print([child.exitcode for child in children])
            producer.send(b"parent")
            producer.stop()
        """,
        start,
        cluster.bootstrap_servers,
        one,
    )
    assert (done.stdout, done.stderr) == ("[0, 0]\n", "")
    assert values(cluster, one, 205) == {b"child": 200, b"asyncio": 2, b"parent": 3}


@pytest.mark.parametrize("start", STARTS)
def test_children_of_multiprocessing_tell_once_what_was_lost(start: str, tmp_path: Path) -> None:
    done = run_file(
        tmp_path,
        """
        import multiprocessing, sys, time
        from kafka_async import Producer
        def work(servers):
            global kept
            kept = Producer(servers, "t", config={"message.timeout.ms": 100})
            kept.send_many([b"v"] * 3)
        if __name__ == "__main__":
            child = multiprocessing.get_context(sys.argv[1]).Process(target=work, args=sys.argv[2:])
            began = time.monotonic()
            child.start()
            child.join()
            print(child.exitcode, time.monotonic() - began < 15)
        """,
        start,
        NOBODY,
    )
    assert done.stdout == "0 True\n"
    assert re.findall(r"(\d+) messages? w", done.stderr) == ["3"], done.stderr


def test_pool_of_a_process_whose_threads_are_busy(cluster: MockCluster, one: str, tmp_path: Path) -> None:
    done = run_file(
        tmp_path,
        """
        import multiprocessing, sys
        from kafka_async import Producer
        def work(number):
            global kept
            if number == 0:
                kept = Producer(*sys.argv[1:])
            return number
        if __name__ == "__main__":
            with Producer(*sys.argv[1:]) as producer:
                futures = [producer.submit(b"parent") for _ in range(500)]
                with multiprocessing.get_context("fork").Pool(2) as pool:
                    assert pool.map(work, range(1000)) == list(range(1000))
                assert {future.result(20).topic for future in futures} == {sys.argv[2]}
        """,
        cluster.bootstrap_servers,
        one,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert values(cluster, one, 500) == {b"parent": 500}


@pytest.mark.timeout(150)
def test_forks_while_all_threads_are_busy(cluster: MockCluster, topic: str) -> None:
    """Each child is refused, makes a producer of its own, and ends as programs do; the parent's books agree."""
    cluster.create_topic(topic, 2)
    done = run_python(
        """
        import itertools, os, sys, threading
        import forked
        from kafka_async import Consumer, ForkedError, Producer, TopicPartition
        servers, topic = sys.argv[1:]
        children = 30
        producer = Producer(servers, topic, queue_messages=1000, on_full="block")
        consumer = Consumer(servers, config={"auto.offset.reset": "earliest"}, group_id="g")
        consumer.assign([TopicPartition(topic, 1, "beginning")])
        sent, told, polled = itertools.count(), itertools.count(), itertools.count()
        def poll():
            if consumer.poll_message(0.01) is not None:
                next(polled)
        def send():
            producer.send(b"parent", partition=1)
            next(sent)
        def submit():
            producer.submit(b"parent", partition=1, on_delivery=lambda report: next(told)).result(20)
            next(sent)
        def many():
            for _ in range(producer.send_many([b"parent"] * 10)):
                next(sent)
        end = forked.background(poll, send, submit, lambda: producer.flush(20), producer.metrics, consumer.lag,
                                lambda: consumer.commit(asynchronous=True).result(20))
        for number in range(children):
            child = os.fork()
            if child == 0:
                for call in (lambda: producer.send(b"x"), lambda: consumer.poll_message(1), lambda: producer.flush(),
                             lambda: producer.submit(b"x"), lambda: consumer.commit(asynchronous=True)):
                    try:
                        call()
                        os._exit(3)
                    except ForkedError:
                        pass
                new = Producer(servers, topic)
                heard = threading.Event()
                new.send(b"child", partition=0, on_delivery=lambda report: heard.set())
                if number % 2:
                    new.flush(20)
                    assert heard.is_set()
                sys.exit(0)
            forked.wait(child)
        end.set()
        producer.flush(20)
        while any(thread.name.startswith("Thread-") for thread in threading.enumerate()):
            pass
        producer.flush(20)
        metrics = producer.metrics()
        assert (metrics.delivered, metrics.failed) == (next(sent), 0), metrics
        while next(polled) < metrics.delivered:
            assert consumer.poll_message(20) is not None
        producer.stop()
        consumer.stop()
        print(metrics.delivered)
        """,
        cluster.bootstrap_servers,
        topic,
        env=TESTS,
        limit=120,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert values(cluster, topic, int(done.stdout) + 30) == {b"parent": int(done.stdout), b"child": 30}


APPLICATION = """
import os, sys
from kafka_async import ForkedError, Producer
servers, topic = os.environ["SERVERS"], os.environ["TOPIC"]
loaded = Producer(servers, topic)
loaded.send(b"master")
loaded.flush(20)  # no thread is in name resolution while it forks: glibc's lock would stay taken in the child
own = None

def app(environ, start_response):
    global own
    try:
        loaded.send(b"wrong")
        text = b"no ForkedError"
    except ForkedError:
        own = own or Producer(servers, topic, config={"linger.ms": 60_000})
        own.send(b"worker %d" % os.getpid())  # which is delivered when the worker ends
        text = b"%d" % os.getpid()
    start_response("200 OK", [("Content-Length", str(len(text)))])
    return [text]
"""


@pytest.mark.parametrize("kind", ["sync", "gthread"])
def test_workers_of_gunicorn_that_are_forked_from_a_loaded_application(
    cluster: MockCluster, one: str, tmp_path: Path, kind: str
) -> None:
    pytest.importorskip("gunicorn")
    (tmp_path / "application.py").write_text(APPLICATION)
    log = tmp_path / "log"
    server = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "--preload", "--workers=2", f"--worker-class={kind}", "--bind=127.0.0.1:0",
         f"--log-file={log}", "application:app"],
        cwd=tmp_path, env={**os.environ, "SERVERS": cluster.bootstrap_servers, "TOPIC": one},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_for(lambda: log.exists() and log.read_text().count("Booting worker") == 2, 30)
        (address,) = re.findall(r"Listening at: (\S+)", log.read_text())
        workers = Counter(urllib.request.urlopen(address, timeout=20).read() for _ in range(20))
        server.terminate()
        _, errors = server.communicate(timeout=30)
    finally:
        server.kill()
    assert (server.returncode, errors) == (0, "")
    assert "Error" not in log.read_text()
    expected = {b"worker %s" % worker: count for worker, count in workers.items()}
    assert values(cluster, one, 21) == expected | {b"master": 1}
