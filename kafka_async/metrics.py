"""Numbers about a producer or a consumer, taken from native counters."""

from __future__ import annotations

from dataclasses import dataclass

from kafka_async._native import ffi


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """A distribution of latencies, in seconds.

    Percentiles are within 1.6 % of the true value; ``mean`` and ``max`` are exact. All are 0 when
    ``count`` is 0.
    """

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float


@dataclass(frozen=True, slots=True)
class ProducerHops:
    """Where the time of messages goes, from acceptance on.

    Of each delivered message `ring`, `queue`, `wire` and `report` add up to the time from acceptance to delivery
    (``ack_latency``); so do the means.

    Attributes
    ----------
    ring : LatencySummary
        In the native queue, until the worker gave it to librdkafka; of all that was given.
    queue : LatencySummary
        In librdkafka, until the request that it was delivered with was sent: ``linger.ms``, connecting, requests
        before it, and attempts that failed.
    wire : LatencySummary
        From that request to its acknowledgement: the network and the broker (librdkafka's round-trip time); 0 with
        ``acks=0``.
    report : LatencySummary
        From the acknowledgement until the worker has counted it, so that ``metrics()`` and ``flush()`` know of it.
    told : LatencySummary
        From there until the delivery thread (with asyncio: the loop) took it, to complete its future or call its
        callback; only of messages that have one.
    """

    ring: LatencySummary
    queue: LatencySummary
    wire: LatencySummary
    report: LatencySummary
    told: LatencySummary


@dataclass(frozen=True, slots=True)
class ConsumerHops:
    """Where the time of messages goes, up to the application.

    Attributes
    ----------
    arrival : LatencySummary
        From a record's timestamp, which its producer wrote by its own clock, to its arrival in the native queue.
    ring : LatencySummary
        In the native queue: prefetched, and not asked for yet.
    block : LatencySummary
        From there until it was handed out. `poll_message` takes up to 256 messages at a time; which was handed out when
        is not measured, but taken for even. 0 in batches.
    """

    arrival: LatencySummary
    ring: LatencySummary
    block: LatencySummary


@dataclass(frozen=True, slots=True)
class ProducerMetrics:
    """One consistent snapshot of a producer.

    ``accepted == delivered + failed + purged + outstanding`` in every one.

    Attributes
    ----------
    accepted : int
        Messages that ``send``, ``submit`` and ``send_many`` took.
    delivered, failed, purged : int
        Messages by outcome.
    dropped : int
        Messages that ``on_full`` dropped: new ones that were not accepted, and old ones, which are in `purged` too.
    outstanding, outstanding_bytes : int
        Messages without an outcome yet, and their keys, values and headers in bytes.
    send_latency : LatencySummary
        Time inside the native part of ``send`` and ``send_many``. Where calls follow each other more closely, one in
        10 us is timed: to time each would take a third of a ``send``.
    ack_latency : LatencySummary
        From acceptance to delivery.
    hops : ProducerHops
        Where that time goes.
    """

    accepted: int
    delivered: int
    failed: int
    purged: int
    dropped: int
    outstanding: int
    outstanding_bytes: int
    send_latency: LatencySummary
    ack_latency: LatencySummary
    hops: ProducerHops


@dataclass(frozen=True, slots=True)
class ConsumerMetrics:
    """A snapshot of a consumer.

    Attributes
    ----------
    received : int
        Messages copied from librdkafka.
    handed_out : int
        Messages given to the application.
    purged : int
        Messages discarded because their partition was given up, or by closing.
    prefetched, prefetched_bytes : int
        Messages held ready, and their keys, values and headers in bytes (these include the
        messages of the block that is being handed out).
    age : LatencySummary
        From a record's timestamp to the moment it left the native queue for the application.
    hops : ConsumerHops
        Where that time goes.
    """

    received: int
    handed_out: int
    purged: int
    prefetched: int
    prefetched_bytes: int
    age: LatencySummary
    hops: ConsumerHops


def latency_summary(native: ffi.CData) -> LatencySummary:
    """Copy a ``ka_latency``.

    Parameters
    ----------
    native : ka_latency
        A filled structure.

    Returns
    -------
    LatencySummary
    """
    return LatencySummary(native.count, native.mean, native.p50, native.p90, native.p99, native.p999, native.max)


def producer_metrics(stats: ffi.CData) -> ProducerMetrics:
    """Copy a ``ka_producer_stats``.

    Parameters
    ----------
    stats : ka_producer_stats
        Filled.

    Returns
    -------
    ProducerMetrics
    """
    return ProducerMetrics(
        stats.accepted,
        stats.delivered,
        stats.failed,
        stats.purged,
        stats.dropped,
        stats.outstanding,
        stats.outstanding_bytes,
        latency_summary(stats.send),
        latency_summary(stats.ack),
        ProducerHops(*map(latency_summary, (stats.ring, stats.queue, stats.wire, stats.report, stats.told))),
    )


def consumer_metrics(stats: ffi.CData) -> ConsumerMetrics:
    """Copy a ``ka_consumer_stats``.

    Parameters
    ----------
    stats : ka_consumer_stats
        Filled.

    Returns
    -------
    ConsumerMetrics
    """
    return ConsumerMetrics(
        stats.received,
        stats.handed_out,
        stats.purged,
        stats.prefetched,
        stats.prefetched_bytes,
        latency_summary(stats.age),
        ConsumerHops(*map(latency_summary, (stats.arrival, stats.ring, stats.block))),
    )
