"""Signals into waiting calls, from a process of its own that measures how soon each is handled.

``signalled.py NAME...`` runs these cases, one after the other, and prints a line of JSON for each, with the delays of
the handler in seconds, sorted; ``signalled.py rain COUNT`` sends so many into waits of a second. A signal that is not
handled within `LIMIT_S` ends the program.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator

from support import NOBODY, read, send_all
from waiting_calls import AT, CASES, MANUAL, fails, finish

from kafka_async import Consumer, KafkaError, Producer, TopicPartition
from kafka_async.testing import MockCluster

LIMIT_S = 20.0
COUNT = 40  # signals for each case


class Alarm(Exception):
    """What the handler of the last signal raises."""


class Sender:
    """The other process. It sends the next signal when the last one was handled."""

    def __init__(self) -> None:
        self._orders, orders = os.pipe()
        handled, self._handled = os.pipe()
        results, self._results = os.pipe()
        self._orders, orders, self._results, results = orders, self._orders, results, self._results
        self.count = self._raise_at = 0
        target = os.getpid()
        if os.fork() == 0:
            os.close(self._orders)
            _send_signals(target, orders, handled, results)
        signal.signal(signal.SIGUSR1, self._handle)

    def start(self, count: int, longest_s: float, *, raises: bool = True) -> None:
        """Send so many signals from now on, each at most so much after the handler of the one before."""
        self.count, self._raise_at = 0, count if raises else -1
        os.write(self._orders, struct.pack("qd", count, longest_s))

    def delays(self) -> list[float]:
        """Tell how long after being sent each was handled."""
        count = struct.unpack("q", _read(self._results, 8))[0]
        return sorted(number / 1e9 for number in struct.unpack(f"{count}q", _read(self._results, 8 * count)))

    def _handle(self, *_: object) -> None:
        at = time.monotonic_ns()
        self.count += 1
        os.write(self._handled, struct.pack("q", at))
        if self.count == self._raise_at:
            raise Alarm


def _read(descriptor: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = os.read(descriptor, size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _send_signals(target: int, orders: int, handled: int, results: int) -> None:
    while order := os.read(orders, 16):
        count, longest_s = struct.unpack("qd", order)
        delays = []
        time.sleep(0.02)  # until the call waits
        for _ in range(count):
            if random.random() < 0.5:  # else at once, when the handler returns and the wait begins anew
                time.sleep(random.uniform(0, longest_s))
            sent = time.monotonic_ns()
            os.kill(target, signal.SIGUSR1)
            if not select.select([handled], [], [], LIMIT_S)[0]:
                print(f"a signal was not handled within {LIMIT_S} s", file=sys.stderr)
                os.kill(target, signal.SIGKILL)
                os._exit(1)
            delays.append(struct.unpack("q", _read(handled, 8))[0] - sent)
        os.write(results, struct.pack("q", count) + struct.pack(f"{count}q", *delays))
    os._exit(0)


def run(sender: Sender, name: str) -> dict[str, object]:
    with CASES[name]() as call:
        raised = None
        sender.start(COUNT, 0.003)
        try:
            call()
        except Alarm:
            raised = sender.count
        except KafkaError as error:
            raised = repr(error)
        return {"name": name, "raised": raised, "delays": sender.delays() if raised == COUNT else []}


@contextlib.contextmanager
def waits() -> Iterator[dict[str, Callable[[], object]]]:
    """Waits of a second each, of every kind, by the error that they end with."""
    with MockCluster(topics={"t": 1}) as cluster:
        blocked = Producer(NOBODY, "t", queue_messages=1, on_full="block", block_timeout=1.0, log=False)
        future = blocked.submit(b"v")
        reading = Consumer(cluster.bootstrap_servers, "t", group_id="g", config=MANUAL, log=False)
        away = Consumer(NOBODY, group_id="g", log=False)
        idle = Producer(NOBODY, "t", log=False)
        yield {
            "none": lambda: reading.poll_message(1.0),
            "FlushTimeout": lambda: blocked.flush(1.0),
            "QueueFull": lambda: blocked.send(b"w"),
            "TimeoutError": lambda: future.result(1.0),
            "KafkaError": lambda: idle.partitions("t", 1.0),
            "ConsumerError": lambda: away.committed([AT], 1.0),
        }
        finish(blocked, 1)
        finish(idle, 0)
        away.stop(0)
        reading.stop()


def rain(sender: Sender, count: int) -> dict[str, object]:
    """Waits that signals interrupt all the time and their handler resumes."""
    delays, lasted = [], []
    with waits() as all_waits:
        for error, wait in all_waits.items():
            sender.start(count // len(all_waits), 0.0003, raises=False)
            while sender.count < count // len(all_waits):
                began = time.monotonic()
                assert fails(wait) == error
                lasted.append(time.monotonic() - began)
            delays += sender.delays()
    return {"delays": sorted(delays), "lasted": sorted(lasted)}


def elsewhere(_: Sender, count: int) -> dict[str, object]:
    """As a signal just before a wait: one that another thread receives ends no system call of the main thread."""
    sent: list[int] = []
    delays: list[float] = []
    handled = threading.Semaphore(0)

    def handle(*_: object) -> None:
        delays.append((time.monotonic_ns() - sent[-1]) / 1e9)
        handled.release()

    def send() -> None:
        for _ in range(count):
            time.sleep(random.uniform(0.001, 0.006))
            sent.append(time.monotonic_ns())
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
            assert handled.acquire(timeout=LIMIT_S)

    signal.signal(signal.SIGUSR1, handle)
    with waits() as all_waits:
        for error, wait in all_waits.items():
            sending = threading.Thread(target=send)
            sending.start()
            while sending.is_alive():
                assert fails(wait) == error
    return {"delays": sorted(delays)}


def brief(sender: Sender, count: int) -> dict[str, object]:
    """Calls that wait for the worker alone, again and again; each does what it says, beside signals."""
    with MockCluster(topics={"t": 1, "u": 1}) as cluster:
        send_all(cluster.bootstrap_servers, "t", [b"%d" % number for number in range(100)])
        reading = Consumer(cluster.bootstrap_servers, config=MANUAL, log=False)
        sender.start(count, 0.003, raises=False)
        rounds = 0
        while sender.count < count or rounds < 20:
            reading.subscribe("u")
            reading.unsubscribe()
            reading.assign([AT._replace(offset=0)])
            reading.incremental_assign([TopicPartition("u", 0, 0)])
            reading.incremental_unassign([TopicPartition("u", 0)])
            reading.pause([AT])
            reading.seek(AT._replace(offset=rounds % 100))
            reading.resume([AT])
            assert reading.position([AT]) == [AT._replace(offset=rounds % 100)]
            reading.lag()
            rounds += 1
        reading.seek(AT._replace(offset=50))
        assert [message.offset for message in read(reading, 50)] == list(range(50, 100))
        reading.stop()
        return {"delays": sender.delays(), "rounds": rounds}


if __name__ == "__main__":
    sender = Sender()
    if sys.argv[1] in (others := {"rain": rain, "elsewhere": elsewhere, "brief": brief}):
        print(json.dumps(others[sys.argv[1]](sender, int(sys.argv[2]))))
    else:
        for name in sys.argv[1:]:
            print(json.dumps(run(sender, name)), flush=True)
