"""Ctrl-C in ``asyncio.run``: every call that awaits is cancelled at once, and the program's end is in order."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from support import run_python

TIMES = 5  # of each call
# By name: what is awaited, of a producer that nobody answers (full, blocking), or of a consumer whose cluster is gone.
CALLS = {
    "send": "producer.send(b'w')",
    "the outcome of submit": "future",
    "send_many": "producer.send_many([b'w'] * 3)",
    "flush": "producer.flush(None)",
    "stop of a producer": "producer.stop(None)",
    "partitions": "producer.partitions('t', None)",
    "warm_up": "producer.warm_up(timeout=None)",
    "init_transactions": "transactional.init_transactions(None)",
    "poll_message": "consumer.poll_message(None)",
    "poll_batch": "consumer.poll_batch(timeout=None)",
    "iteration": "consumer.__anext__()",
    "commit": "consumer.commit(offsets={AT: 1}, timeout=None)",
    "committed": "consumer.committed([AT], None)",
    "watermarks": "consumer.watermarks('t', 0, 60)",
    "offsets_for_times": "consumer.offsets_for_times([AT._replace(offset=0)], 60)",
    "lag": "consumer.lag(60)",
    "seek": "consumer.seek(AT._replace(offset='end'), 60)",
    "assign": "consumer.assign([AT._replace(offset='end')])",
    "incremental_assign": "consumer.incremental_assign([AT._replace(partition=1, offset='end')])",
}


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """Of one program, which interrupts itself from another process."""
    lambdas = (f"{name!r}: lambda producer, transactional, consumer, future: {call}" for name, call in CALLS.items())
    calls = f"calls = {{{', '.join(lambdas)}}}"
    done = run_python(
        f"""
        import asyncio, contextlib, json, os, signal, time, warnings
        from kafka_async import FlushTimeout, TopicPartition, aio
        signal.signal(signal.SIGINT, signal.default_int_handler)
        NOBODY, AT = "127.0.0.1:1", TopicPartition("t", 0)
        orders, sent = os.pipe(), os.pipe()
        target = os.getpid()
        if os.fork() == 0:
            os.close(orders[1])
            while os.read(orders[0], 1):
                time.sleep(0.03)
                os.write(sent[1], b"%20d" % time.monotonic_ns())
                os.kill(target, signal.SIGINT)
            os._exit(0)

        async def main(call, seen):
            producer = aio.Producer(NOBODY, "t", queue_messages=1, on_full="block", log=False)
            transactional = aio.Producer(NOBODY, "t", config={{"transactional.id": "x"}}, log=False)
            consumer = aio.Consumer(NOBODY, group_id="g", log=False)
            await consumer.assign([AT._replace(offset=0)])
            future = producer.submit(b"v")
            os.write(orders[1], b"g")
            try:
                await call(producer, transactional, consumer, future)
            except asyncio.CancelledError:
                seen["late"] = (time.monotonic_ns() - int(os.read(sent[0], 20))) / 1e9
                raise
            finally:
                seen["future"] = future.done() and not future.cancelled()
                seen["accepted"] = producer.metrics().accepted
                for each in (producer, transactional, consumer):
                    with contextlib.suppress(FlushTimeout):
                        await each.stop(0)
                metrics = producer.metrics()
                seen["books"] = metrics.accepted == metrics.purged and metrics.outstanding == 0

        {calls}
        results = {{}}
        for name, call in calls.items():
            results[name] = []
            for _ in range({TIMES}):
                seen = {{}}
                try:
                    asyncio.run(main(call, seen))
                except KeyboardInterrupt:
                    seen["interrupted"] = True
                results[name].append(seen)
        print(json.dumps(results))
        """,
        limit=100,
        env={"PYTHONPATH": str(Path(__file__).parent)},
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr + done.stdout
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", CALLS)
def test_interrupt_cancels_what_is_awaited_at_once(results: dict[str, Any], name: str) -> None:
    for seen in results[name]:
        assert seen["interrupted"]
        assert seen["books"]
        assert seen["accepted"] == 1
        assert not seen["future"]
    late = [seen["late"] for seen in results[name]]
    print(f"{statistics.median(late) * 1e3:.2f} ms, most {max(late) * 1e3:.2f} ms")
    assert statistics.median(late) < 0.05  # 5 ms, and the machine's noise
