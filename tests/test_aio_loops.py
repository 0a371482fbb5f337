"""Event loops: several, none, foreign ones, ones that end too early."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loops import fails, run, until
from native_calls import record
from shared_cluster import shared_cluster as shared_cluster
from support import NOBODY, read, reader, run_python, wait_for

from kafka_async import _consumer, _delivery, _producer, _rebalance, _requests, _wait, aio
from kafka_async.testing import MockCluster

CORE = (_producer, _consumer, _wait, _delivery, _requests, _rebalance, aio._loop, aio._producer, aio._consumer)
MAKE: dict[str, Callable[..., Any]] = {"producer": aio.Producer, "consumer": aio.Consumer}


@pytest.mark.parametrize("name", MAKE)
def test_without_a_running_loop_it_says_what_to_do(name: str) -> None:
    with pytest.raises(RuntimeError, match=f"no event loop is running: make a {name}"):
        MAKE[name](NOBODY, "t")


@pytest.mark.parametrize("name", MAKE)
def test_loop_that_can_watch_no_descriptor_gets_a_clear_error(name: str) -> None:
    class Loop(asyncio.SelectorEventLoop):
        def add_reader(self, *_: Any) -> Any:
            raise NotImplementedError

    async def main() -> None:
        with pytest.raises(RuntimeError, match="Loop can't watch a file descriptor"):
            MAKE[name](NOBODY, "t")

    loop = Loop()
    loop.run_until_complete(main())
    loop.close()


def test_use_from_another_loop_is_refused(cluster: MockCluster, one: str) -> None:
    async def make() -> tuple[aio.Producer, aio.Consumer]:
        return aio.Producer(cluster.bootstrap_servers, one), aio.Consumer(cluster.bootstrap_servers, one)

    loop = asyncio.new_event_loop()
    producer, consumer = loop.run_until_complete(make())

    async def use() -> None:
        for call in (producer.send(b"v"), producer.flush(), consumer.poll_message(0), consumer.lag(1)):
            error = await fails(call, RuntimeError)
            assert "belongs to the event loop that it was made on" in str(error)
        with pytest.raises(RuntimeError, match="belongs to the event loop"):
            producer.submit(b"v")

    producer.send_nowait(b"v")
    with pytest.raises(RuntimeError, match="belongs to the event loop"):
        producer.submit(b"v")  # no loop runs here
    run(use())
    loop.run_until_complete(producer.stop())
    loop.run_until_complete(consumer.stop())
    loop.close()


def test_loops_of_several_threads_go_side_by_side(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 4)
    failed: list[BaseException] = []

    def work(partition: int) -> None:
        async def main() -> None:
            servers = cluster.bootstrap_servers
            async with (
                aio.Producer(servers, topic) as producer,
                aio.Consumer(servers, topic, config={"auto.offset.reset": "earliest"}) as consumer,
            ):
                sends = (producer.send(b"%d" % number, partition=partition) for number in range(500))
                found = await asyncio.gather(*sends)
                assert [metadata.offset for metadata in found] == list(range(500))
                mine = 0
                async for message in consumer:
                    mine += message.partition == partition
                    if mine == 500:
                        break

        try:
            run(main())
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(partition,)) for partition in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []


def test_uvloop(cluster: MockCluster, one: str) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        servers = cluster.bootstrap_servers
        async with (
            aio.Producer(servers, one) as producer,
            aio.Consumer(servers, one, config={"auto.offset.reset": "earliest"}) as consumer,
        ):
            found = await asyncio.gather(*(producer.send(b"%d" % number) for number in range(1000)))
            assert [metadata.offset for metadata in found] == list(range(1000))
            numbers = []
            async for message in consumer:
                numbers.append(message.offset)
                if len(numbers) == 1000:
                    break
            assert numbers == list(range(1000))

    loop = uvloop.new_event_loop()
    loop.run_until_complete(asyncio.wait_for(main(), 30))
    loop.close()


@pytest.mark.parametrize("name", MAKE)
def test_one_that_is_not_stopped_warns_and_harms_nothing(cluster: MockCluster, one: str, name: str) -> None:
    async def main() -> None:
        made = MAKE[name](cluster.bootstrap_servers, one)
        if isinstance(made, aio.Producer):
            made.send_nowait(b"v")
            made.submit(b"w")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(main())
        gc.collect()
    assert [warning.category for warning in caught] == [ResourceWarning]
    assert f"a {name} was not stopped" in str(caught[0].message)
    if name == "producer":
        with reader(cluster.bootstrap_servers, one) as consumer:
            assert [message.value for message in read(consumer, 2)] == [b"v", b"w"]


def test_what_is_awaited_never_gives_the_gil_away(
    cluster: MockCluster, one: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        servers, config = cluster.bootstrap_servers, {"auto.offset.reset": "earliest"}
        producer = aio.Producer(servers, one, queue_messages=5, on_full="block")
        consumer = aio.Consumer(servers, one, group_id=one, config=config)
        called = record(monkeypatch, *CORE)
        async with producer, consumer:
            await asyncio.gather(*(producer.send(b"%d" % number) for number in range(50)))
            await producer.flush()
            await producer.partitions(one)
            for _ in range(50):
                assert await consumer.poll_message(20) is not None
            assert await consumer.poll_message(0.1) is None
            assert await consumer.commit()
            await consumer.lag(5)
        assert {"ka_producer_send_record", "ka_consumer_take", "ka_try_producer_room", "ka_try_command"} <= set(called)
        assert [name for name in called if name.startswith("ka_wait_")] == []

    run(main())


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("name", MAKE)
def test_descriptors_of_forgotten_ones_are_given_back(cluster: MockCluster, one: str, name: str) -> None:
    async def main() -> None:
        async def make() -> None:
            made = MAKE[name](cluster.bootstrap_servers, one, log=False)
            if isinstance(made, aio.Producer):
                made.send_nowait(b"v")

        await make()
        gc.collect()
        await until(lambda: open_descriptors() <= before + 3)  # and those of the loop
        before_many = open_descriptors()
        for _ in range(10):
            await make()
        gc.collect()
        await until(lambda: open_descriptors() <= before_many)

    before = open_descriptors()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        run(main())


def test_descriptors_are_given_back(cluster: MockCluster, one: str) -> None:
    async def main() -> None:
        async with aio.Producer(cluster.bootstrap_servers, one, log=False) as producer:
            await producer.send(b"v")
        async with aio.Consumer(cluster.bootstrap_servers, one, log=False) as consumer:
            await consumer.poll_message(0.05)

    run(main())
    before = open_descriptors()
    for _ in range(20):
        run(main())
    gc.collect()
    wait_for(lambda: open_descriptors() <= before + 2)


@pytest.mark.parametrize("ending", ["return", "raise SystemExit(3)", "1 / 0"])
def test_interpreter_ends_with_everything_open(cluster: MockCluster, one: str, ending: str) -> None:
    done = run_python(
        f"""
        import asyncio, sys
        from kafka_async import aio
        keep = []
        async def main():
            producer = aio.Producer(sys.argv[1], sys.argv[2])
            consumer = aio.Consumer(sys.argv[1], sys.argv[2])
            keep.extend([producer, consumer])
            await consumer.poll_message(0.01)
            producer.send_nowait(b"last")
            {ending}
        asyncio.run(main())
        """,
        cluster.bootstrap_servers,
        one,
    )
    assert done.returncode == {"return": 0, "1 / 0": 1}.get(ending, 3), done.stderr
    assert "Segmentation" not in done.stderr
    with reader(cluster.bootstrap_servers, one) as consumer:
        assert [message.value for message in read(consumer, 1)] == [b"last"]


def test_forked_child_is_refused(cluster: MockCluster, one: str) -> None:
    done = run_python(
        """
        import asyncio, os, sys
        from kafka_async import ForkedError, aio
        async def main():
            make = sys.argv[1:3]
            async with aio.Producer(*make) as producer, aio.Consumer(*make) as consumer:
                await producer.send(b"1")
                child = os.fork()
                if child == 0:
                    calls = lambda: producer.send(b"x"), producer.flush, lambda: consumer.poll_message(0), consumer.lag
                    for call in calls:
                        try:
                            await call()
                        except ForkedError:
                            continue
                        os._exit(1)
                    await producer.stop()
                    await consumer.stop()
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
                await producer.send(b"2")
        asyncio.run(main())
        """,
        cluster.bootstrap_servers,
        one,
    )
    assert done.returncode == 0, done.stderr
    with reader(cluster.bootstrap_servers, one) as consumer:
        assert [message.value for message in read(consumer, 2)] == [b"1", b"2"]


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("arguments", [{"nonsense": 1}, {"log": True, "idle": "never"}])
def test_failed_constructor_leaves_nothing_to_forget(name: str, arguments: dict[str, Any]) -> None:
    async def main() -> None:
        with pytest.raises((TypeError, ValueError)):
            MAKE[name](NOBODY, **arguments)
        gc.collect()  # what __del__ raises is a warning, and so an error

    run(main())
