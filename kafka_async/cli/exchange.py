"""The demo's work: send and receive in one loop, paced by a schedule and by what was received."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from kafka_async.cli.histogram import Latencies
from kafka_async.cli.progress import Progress
from kafka_async.cli.signals import Signals
from kafka_async.cli.verify import CLOSING, OPENING, STAMP, Verifier, filler
from kafka_async.consumer import Consumer
from kafka_async.errors import DeliveryError, FlushTimeout, KafkaError
from kafka_async.metrics import ConsumerMetrics, ProducerMetrics
from kafka_async.producer import Producer

PATIENCE_S = 10.0  # without any message for so long, what is missing is lost
_CREATION_S = 30.0  # how long a broker may take to create the topic
_BURST = 64  # messages between two looks at the other side
_TICK_S = 0.1


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Attributes
    ----------
    messages, size : int
        How many, and bytes of each.
    rate : int or None
        Messages/s; None: as fast as it goes.
    ahead : int
        How many may be sent and not received yet.
    partitions : int
        Of the topic.
    patience_s : float
        When to give up on what does not come.
    """

    messages: int
    size: int
    rate: int | None
    ahead: int
    partitions: int
    patience_s: float = PATIENCE_S


class Marker:
    """Sends the marks around a run.

    Parameters
    ----------
    producer : Producer
        With the demo's topic as its default.
    run : bytes
        Eight bytes that tell this run from others.
    """

    def __init__(self, producer: Producer, run: bytes) -> None:
        self.run = run
        self._producer = producer

    def open(self) -> None:
        """Send the first mark, which makes a broker create the topic, and wait until it is there.

        Raises
        ------
        KafkaError
            It failed, or did not get there in time.
        """
        self._producer.send(STAMP.pack(self.run, OPENING, 0))
        self._producer.flush(_CREATION_S)

    def await_opening(self, consumer: Consumer) -> None:
        """Wait until the first mark came back.

        Parameters
        ----------
        consumer : Consumer
            Reads the topic.

        Raises
        ------
        KafkaError
            It did not come.
        """
        mark = STAMP.pack(self.run, OPENING, 0)
        end = time.monotonic() + _CREATION_S
        while time.monotonic() < end:
            message = consumer.poll_message(_TICK_S)
            if message is not None and message.value == mark:
                return
        raise KafkaError("the producer's first message was delivered, but the consumer did not receive it")

    def close(self, partitions: int) -> None:
        """Send the last mark of each partition.

        Parameters
        ----------
        partitions : int
            Of the topic.
        """
        for partition in range(partitions):
            self._producer.send(STAMP.pack(self.run, CLOSING, 0), partition=partition)


class Exchange:
    """A producer and a consumer at work.

    Parameters
    ----------
    producer, consumer : Producer, Consumer
        On the same topic, connected.
    run : bytes
        Eight bytes that tell this run from others.
    plan : Plan
        What to do.

    Attributes
    ----------
    sent : int
        Messages that ``send`` accepted.
    verifier : Verifier
        What was received.
    send_call : Latencies
        Time inside ``send``, as Python sees it.
    end_to_end : Latencies
        From just before ``send`` to just after ``poll_message``.
    late_ns : int
        How far the sending fell behind the schedule at worst, if there is one.
    seconds : float
        From the first ``send`` to the last message received.
    metrics : ProducerMetrics
        Of the producer after the last message, marks taken off the counters.
    consumer_metrics : ConsumerMetrics
        Of the consumer at that moment.
    trouble : str
        Why not all was delivered, "" if it was.
    """

    def __init__(self, producer: Producer, consumer: Consumer, run: bytes, plan: Plan) -> None:
        self.plan = plan
        self.sent = 0
        self.rest = filler(plan.size)
        self.verifier = Verifier(run, plan.messages, self.rest)
        self.send_call = Latencies()
        self.end_to_end = Latencies()
        self.late_ns = 0
        self.trouble = ""
        self._producer = producer
        self._consumer = consumer
        self._marker = Marker(producer, run)
        self._before = producer.metrics()
        self.metrics = self._before
        self.consumer_metrics: ConsumerMetrics = consumer.metrics()
        self._began_ns = self._last_ns = time.monotonic_ns()

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self._last_ns - self._began_ns) / 1e9

    def run(self, progress: Progress, signals: Signals) -> None:
        """Send and receive all, then make sure that nothing comes after it.

        Parameters
        ----------
        progress : Progress
            To show it.
        signals : Signals
            The first signal ends it early.
        """
        plan = self.plan
        self._began_ns = self._last_ns = time.monotonic_ns()
        while self.verifier.distinct < plan.messages and not signals.received and not self._stalled():
            self._send_due()
            self._receive(self._wait_s())
            if progress.due():
                progress.update(self.verifier.distinct, f", {self.sent:,} sent")
        if not signals.received:
            self._flush()
        self.metrics = self._without_marks(self._producer.metrics())
        self.consumer_metrics = self._consumer.metrics()
        if not signals.received and not self.trouble:
            self._drain(signals)

    def _room(self) -> int:
        """How many messages may be sent before the consumer has to catch up."""
        return min(self.plan.messages, self.verifier.distinct + self.plan.ahead) - self.sent

    def _send_due(self) -> None:
        count = min(self._room(), _BURST)
        if self.plan.rate and count > 0:
            elapsed_ns = time.monotonic_ns() - self._began_ns
            count = min(count, elapsed_ns * self.plan.rate // 1_000_000_000 + 1 - self.sent)
            if count > 0:
                self.late_ns = max(self.late_ns, elapsed_ns - self._due_ns())
        send, pack, now, run = self._producer.send, STAMP.pack, time.monotonic_ns, self._marker.run
        for number in range(self.sent, self.sent + count):
            value = pack(run, number, now()) + self.rest
            before_ns = now()
            send(value)
            self.send_call.add(now() - before_ns)
            self.sent = number + 1

    def _due_ns(self) -> int:
        """When the next message is due, after the beginning."""
        return self.sent * 1_000_000_000 // self.plan.rate if self.plan.rate else 0

    def _wait_s(self) -> float:
        """How long to wait for a message: not past the moment when the next must be sent."""
        if self._room() <= 0:
            return _TICK_S
        left_ns = self._began_ns + self._due_ns() - time.monotonic_ns()
        return min(max(left_ns, 0) / 1e9, _TICK_S)

    def _receive(self, timeout: float) -> None:
        """Take what is there, at most a few bursts, so that sending goes on."""
        poll, check, now = self._consumer.poll_message, self.verifier.check, time.monotonic_ns
        for _ in range(4 * _BURST):
            message = poll(timeout)
            if message is None:
                return
            timeout = 0.0
            sent_ns = check(message)
            if sent_ns is not None:
                self._last_ns = now()
                self.end_to_end.add(max(0, self._last_ns - sent_ns))

    def _stalled(self) -> bool:
        return time.monotonic_ns() - self._last_ns > self.plan.patience_s * 1e9

    def _flush(self) -> None:
        """Wait for what has no outcome yet: after the last message came back only late acknowledgements."""
        try:
            self._producer.flush()
        except (DeliveryError, FlushTimeout) as error:
            self.trouble = str(error)

    def _drain(self, signals: Signals) -> None:
        """Read up to the closing marks."""
        self._marker.close(self.plan.partitions)
        marks = self.verifier.marks[CLOSING]
        end = time.monotonic() + self.plan.patience_s
        while len(marks) < self.plan.partitions and not signals.received:
            if time.monotonic() > end:
                self.trouble = "the marks behind the last messages did not come back"
                return
            self._receive(_TICK_S)

    def _without_marks(self, metrics: ProducerMetrics) -> ProducerMetrics:
        before = self._before
        return replace(
            metrics,
            accepted=metrics.accepted - before.accepted,
            delivered=metrics.delivered - before.delivered,
            failed=metrics.failed - before.failed,
        )
