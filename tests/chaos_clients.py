"""Producers and consumers of every kind, that work until they are told to stop and count for themselves.

Each ``run(stop)`` belongs into a thread of its own. ``progress()`` may be asked meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, ClassVar

from chaos_log import PARTITIONS, Account
from support import persist

from kafka_async import (
    Consumer,
    ConsumerError,
    Delivery,
    DeliveryError,
    KafkaError,
    Message,
    Producer,
    ProducerMetrics,
    QueueFull,
    Record,
    TransactionError,
    aio,
)

LIMIT_S = 90.0  # for what must happen once the broker is well
PACE_S = 0.01
BURST = 6
# A request is given up, and its connection with it, when it was not answered for so long: a minute by default.
COMMON: dict[str, str | int | float | bool] = {"socket.timeout.ms": 3000}
IMPATIENT = {**COMMON, "message.timeout.ms": 5000}


class Sending(ABC):
    """A producer, and a topic of its own."""

    promises: ClassVar[dict[str, bool]] = {}
    isolation: ClassVar[str] = "read_uncommitted"

    def __init__(self, servers: str, topic: str, seed: str) -> None:
        self.servers = servers
        self.topic = f"{topic}-{type(self).__name__.lower()}"
        self.random = random.Random(f"{seed} {self.topic}")
        self.account = Account(**self.promises)
        self.lives: list[ProducerMetrics] = []  # of the producers before

    @abstractmethod
    def run(self, stop: threading.Event) -> None:
        """Send until `stop`, then until everything has its outcome."""

    @abstractmethod
    def progress(self) -> int:
        """How many messages were delivered, more or less."""

    def _next(self, count: int = 1) -> range:
        """Numbers of the next messages, which are counted as accepted."""
        numbers = range(self.account.accepted, self.account.accepted + count)
        self.account.accepted += count
        return numbers

    def _check(self, metrics: ProducerMetrics) -> None:
        """A snapshot adds up at any time, and knows how many this thread sent."""
        total = metrics.delivered + metrics.failed + metrics.purged + metrics.outstanding
        before = sum(life.accepted for life in self.lives)
        if not self.account.accepted - before == metrics.accepted == total:
            self.account.wrong.append(f"accepted {self.account.accepted}: {metrics}")

    def disagreements(self) -> list[str]:
        return self.account.disagreements(*self.lives)

    def is_hurt(self, failed: int) -> bool:
        """Whether an idempotent producer, which has time for everything, has failed since: it takes another one.

        librdkafka before 2.3 gives up after a connection that broke at the wrong moment (its issue 4438).
        """
        return self.promises.get("once", False) and len(self.account.failed) > failed


class Blocking(Sending):
    """One of the blocking API's."""

    config: ClassVar[dict[str, Any]] = COMMON
    options: ClassVar[dict[str, Any]] = {}
    tells: ClassVar[bool] = False  # whether each message has a callback or a future
    _delivered = 0

    def progress(self) -> int:
        return self._delivered

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            failed = len(self.account.failed)
            before = sum(life.delivered for life in self.lives)
            with Producer(self.servers, self.topic, config=self.config, **self.options) as producer:
                while not stop.wait(PACE_S) and not self.is_hurt(failed):
                    self.send_burst(producer)
                    metrics = producer.metrics()
                    self._check(metrics)
                    self._delivered = before + metrics.delivered
                self.finish(producer)
            self.lives.append(producer.metrics())
        if not self.tells:
            self.account.deliver_rest()

    @abstractmethod
    def send_burst(self, producer: Producer) -> None:
        """Send the next few messages."""

    def finish(self, producer: Producer) -> None:
        with contextlib.suppress(DeliveryError):  # of what is fetched next
            producer.flush(LIMIT_S)
        self.fetch(producer)

    def fetch(self, producer: Producer) -> None:
        for report in producer.failures():
            self.account.tell(report)


class Idempotent(Blocking):
    """Many messages by one call, nothing asked for each; failures are fetched.

    No more of them than ``failures()`` keeps can fail at once, as they do when librdkafka gives up.
    """

    promises: ClassVar = {"once": True}
    options: ClassVar = {"queue_messages": 900, "on_full": "block"}
    config: ClassVar = {**COMMON, "enable.idempotence": True}

    def send_burst(self, producer: Producer) -> None:
        numbers = self._next(BURST)
        assert producer.send_many(_records(numbers)) == BURST
        self.fetch(producer)


class Plain(Blocking):
    """No idempotence, one request at a time. What fails is fetched by ``failures()``."""

    promises: ClassVar = {"ordered": False}
    config: ClassVar = {**IMPATIENT, "max.in.flight": 1}
    options: ClassVar = {"queue_messages": 900, "on_full": "block"}  # all may fail at once; failures() keeps 1,000

    def send_burst(self, producer: Producer) -> None:
        for number in self._next(BURST):
            producer.send(b"%d" % number, partition=number % PARTITIONS)
        self.fetch(producer)


class Told(Blocking):
    """Callbacks and futures by turns, five requests at a time, and a purge now and then."""

    tells: ClassVar = True
    promises: ClassVar = {"ordered": False}
    config: ClassVar = IMPATIENT

    def send_burst(self, producer: Producer) -> None:
        for number in self._next(BURST):
            value, partition = b"%d" % number, number % PARTITIONS
            if number % 2:
                producer.submit(value, partition=partition).add_done_callback(_ending(self.account, number))
            else:
                producer.send(value, partition=partition, on_delivery=self.account.tell)
        if self.random.random() < 0.002:
            producer.purge(in_flight=self.random.random() < 0.5)


class Newest(Blocking):
    """A small queue that drops the oldest while the broker is away."""

    tells: ClassVar = True
    promises: ClassVar = {"ordered": False}
    config: ClassVar = IMPATIENT
    options: ClassVar = {"on_full": "drop_old", "queue_messages": 400}

    def send_burst(self, producer: Producer) -> None:
        for number in self._next(BURST):
            try:
                producer.send(b"%d" % number, partition=number % PARTITIONS, on_delivery=self.account.tell)
            except QueueFull:  # nothing to drop: librdkafka has all of it
                self.account.accepted -= 1
                self.account.refused += 1
                break


class Awaited(Sending):
    """asyncio: many tasks that await each acknowledgement, idempotent."""

    promises: ClassVar = {"once": True}
    _delivered = 0

    def progress(self) -> int:
        return self._delivered

    def run(self, stop: threading.Event) -> None:
        asyncio.run(self._main(stop))

    async def _main(self, stop: threading.Event) -> None:
        config = {**COMMON, "enable.idempotence": True}
        while not stop.is_set():
            failed = len(self.account.failed)
            async with aio.Producer(self.servers, self.topic, config=config) as producer:
                await asyncio.gather(*(self._send(producer, stop, failed) for _ in range(BURST)))
            self.lives.append(producer.metrics())

    async def _send(self, producer: aio.Producer, stop: threading.Event, failed: int) -> None:
        while not stop.is_set() and not self.is_hurt(failed):
            (number,) = self._next()
            try:
                self.account.end(number, await producer.send(b"%d" % number, partition=number % PARTITIONS))
                self._delivered += 1
            except DeliveryError as error:
                self.account.end(number, error)
            await asyncio.sleep(PACE_S)


class Transactional(Sending):
    """Transactions of a few messages each, of which some are aborted; each is ended whatever it takes.

    An error that is fatal takes another producer. librdkafka's abort meets one when the request that was to begin the
    transaction on the broker was lost (its issue 4849).
    """

    promises: ClassVar = {"once": True}
    isolation: ClassVar = "read_committed"

    def __init__(self, servers: str, topic: str, seed: str) -> None:
        super().__init__(servers, topic, seed)
        self.committed: set[int] = set()
        self.outcomes = Account(**self.promises)  # of messages, while `account` is of transactions
        self._committing = range(0)

    def progress(self) -> int:
        return len(self.committed)

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            producer = Producer(self.servers, self.topic, config={**COMMON, "transactional.id": self.topic})
            try:
                self._live(producer, stop)
            except TransactionError as error:
                if not error.fatal:
                    raise
            finally:
                with contextlib.suppress(KafkaError):  # what it could not deliver has been told
                    producer.stop()
                self.lives.append(producer.metrics())
        self.account.delivered = dict.fromkeys(self.committed)

    def _live(self, producer: Producer, stop: threading.Event) -> None:
        persist(producer.init_transactions, LIMIT_S)
        while not stop.wait(PACE_S):
            numbers = self._next(BURST)
            if self._transact(producer, numbers):
                self.committed.update(numbers)
            else:
                self.account.banned.update(numbers)
            if producer.metrics().outstanding:
                self.account.wrong.append(f"no outcome when the transaction had ended: {producer.metrics()}")

    def _transact(self, producer: Producer, numbers: range) -> bool:
        """Whether it was committed."""
        try:
            persist(producer.begin_transaction, LIMIT_S)
            for number in numbers:
                producer.send(b"%d" % number, partition=number % PARTITIONS, on_delivery=self.outcomes.tell)
                self.outcomes.accepted += 1
            if self.random.random() < 0.8:
                self._commit(producer, numbers)
                return True
        except TransactionError as error:
            if not error.requires_abort:
                self._doubt(numbers)
                raise
        try:
            persist(producer.abort_transaction, LIMIT_S)
        except TransactionError:
            self.account.banned.update(numbers)  # the next producer sees to that
            raise
        return False

    def _commit(self, producer: Producer, numbers: range) -> None:
        self._committing = numbers
        persist(producer.commit_transaction, LIMIT_S)
        self._committing = range(0)

    def _doubt(self, numbers: range) -> None:
        if self._committing == numbers:
            self.account.whole.append(numbers)
        else:
            self.account.banned.update(numbers)

    def disagreements(self) -> list[str]:
        return self.outcomes.disagreements(*self.lives) + self.account.wrong


def _records(numbers: range) -> list[Record]:
    return [Record(b"%d" % number, partition=number % PARTITIONS) for number in numbers]


def _ending(account: Account, number: int) -> Any:
    def end(delivery: Delivery | Future[Any]) -> None:
        account.end(number, delivery.exception() or delivery.result())

    return end


SENDERS: tuple[type[Sending], ...] = (Idempotent, Plain, Told, Newest, Awaited, Transactional)


class Reading(ABC):
    """A consumer, or several that are one group, and the places of what it read."""

    once: ClassVar[bool] = True

    def __init__(self, servers: str, topics: list[str], seed: str) -> None:
        self.servers = servers
        self.topics = topics
        self.random = random.Random(f"{seed} {type(self).__name__}")
        self.config: dict[str, Any] = {**COMMON, "auto.offset.reset": "earliest"}
        self.places: dict[tuple[str, int], list[int]] = defaultdict(list)
        self.numbers: dict[tuple[str, int, int], int] = {}
        self._count = 0

    @abstractmethod
    def run(self, stop: threading.Event) -> None:
        """Read until `stop`."""

    def progress(self) -> int:
        return self._count

    def note(self, message: Message) -> None:
        self._count += 1
        self.places[message.topic, message.partition].append(message.offset)
        self.numbers[message.topic, message.partition, message.offset] = int(message.value or b"-1")

    def has(self, ends: dict[tuple[str, int], int]) -> bool:
        """Whether it has come to the last message of every partition."""
        read = dict(self.places)
        return all(place in read and max(read[place][-1000:]) >= last for place, last in ends.items())


class Alone(Reading):
    """Every message once, in order, without a group."""

    def run(self, stop: threading.Event) -> None:
        with Consumer(self.servers, self.topics, config=self.config) as consumer:
            while not stop.is_set():
                for message in consumer.poll_batch(500, 0.1):
                    self.note(message)


class Committed(Alone):
    """The same of what was committed alone."""

    def __init__(self, servers: str, topics: list[str], seed: str) -> None:
        super().__init__(servers, topics, seed)
        self.config["isolation.level"] = "read_committed"


class Iterating(Reading):
    """asyncio, without a group."""

    def run(self, stop: threading.Event) -> None:
        asyncio.run(self._main(stop))

    async def _main(self, stop: threading.Event) -> None:
        async with aio.Consumer(self.servers, self.topics, config=self.config) as consumer:
            while not stop.is_set():
                if message := await consumer.poll_message(0.1):
                    self.note(message)


class Left(Exception):
    """How a member ends that does not get to handle its message."""


class Group(Reading):
    """One member that stays and one that comes and goes, properly or by an exception; nothing is skipped."""

    once: ClassVar = False

    def __init__(self, servers: str, topics: list[str], seed: str) -> None:
        super().__init__(servers, topics, seed)
        assignor = self.random.choice(["range", "cooperative-sticky"])
        self.config |= {
            "partition.assignment.strategy": assignor,
            "session.timeout.ms": 6000,
            "heartbeat.interval.ms": 500,
            "auto.commit.interval.ms": 300,
        }
        self.lives = 0
        self._lock = threading.Lock()

    def run(self, stop: threading.Event) -> None:
        restless = threading.Thread(target=self._come_and_go, args=(stop,))
        restless.start()
        try:
            with self._member() as consumer:
                self._handle(consumer, stop, float("inf"))
        finally:
            restless.join()

    def _come_and_go(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self.lives += 1
            with contextlib.suppress(Left), self._member() as consumer:
                self._handle(consumer, stop, time.monotonic() + self.random.uniform(3, 12))

    def _member(self) -> Consumer:
        return Consumer(self.servers, self.topics, group_id=self.topics[0], config=self.config)

    def _handle(self, consumer: Consumer, stop: threading.Event, end: float) -> None:
        for message in _polled(consumer, stop):
            if time.monotonic() > end:
                if self.random.random() < 0.5:
                    raise Left  # before the message is handled
                self.note(message)
                return
            self.note(message)

    def note(self, message: Message) -> None:
        with self._lock:
            super().note(message)


def _polled(consumer: Consumer, stop: threading.Event) -> Iterator[Message]:
    while not stop.is_set():
        try:
            message = consumer.poll_message(0.1)
        except ConsumerError as error:
            if "its port may" not in str(error):  # a guess, since no broker has answered this one yet
                raise
            continue
        if message:
            yield message
