"""``demo``: a producer and a consumer side by side, and what they did in numbers.

Both run in one thread, which is the point of the library: ``send`` never waits, and ``poll_message`` waits
natively, at most until the next message is due to be sent. Before and after the messages that count,
marks go through the topic: the first ones show that the whole path is up, so that connecting is not
measured; the last ones come behind everything else, so that nothing that comes again is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import kafka_async
from kafka_async.cli.connect import reach, usage
from kafka_async.cli.exchange import Exchange, Marker, Plan
from kafka_async.cli.report import report
from kafka_async.cli.signals import Signals
from kafka_async.cli.terminal import Screen
from kafka_async.config import Value, properties
from kafka_async.consumer import Consumer
from kafka_async.producer import Producer
from kafka_async.testing import MockCluster

# A fetch that waits in the embedded cluster does not notice new data, so it must not wait long.
_EMBEDDED_FETCH: dict[str, Value] = {"fetch.wait.max.ms": 1}

# Unread data that the embedded cluster may hold: well below the 5 MB after which it drops it, were it
# all in one partition, and with what a record costs beside its value.
_EMBEDDED_BYTES = 2_000_000
_RECORD_BYTES = 100


@dataclass(frozen=True)
class _Cluster:
    servers: str
    topic: str
    ahead: int
    consumer: dict[str, Value]


def run(args: argparse.Namespace, screen: Screen, signals: Signals) -> int:
    """Run the demo and tell the numbers.

    Parameters
    ----------
    args : argparse.Namespace
        The command line.
    screen : Screen
        For results and progress.
    signals : Signals
        Tells when to end early.

    Returns
    -------
    int
        The exit status: 1 if any message is lost, repeated, out of order or altered.
    """
    config = _of("P", args.config)
    with _real(args, screen) if args.bootstrap_servers else _embedded(args, screen) as cluster:
        with usage():
            producer = Producer(cluster.servers, cluster.topic, config=config)
        with producer:
            return _run(args, cluster, producer, screen, signals)


def _run(args: argparse.Namespace, cluster: _Cluster, producer: Producer, screen: Screen, signals: Signals) -> int:
    with usage():
        config = {"auto.offset.reset": "earliest", **cluster.consumer, **_of("C", args.config)}
        consumer = Consumer(cluster.servers, config=config)
    with consumer:
        marker = Marker(producer, os.urandom(8))
        with signals.raising:
            marker.open()
            consumer.subscribe(cluster.topic)
            marker.await_opening(consumer)
        plan = Plan(args.messages, args.size, args.rate, cluster.ahead, len(consumer.assignment()))
        exchange = Exchange(producer, consumer, marker.run, plan)
        with screen.progress(args.messages) as progress:
            exchange.run(progress, signals)
        sound = report(screen, exchange, complete=not signals.received)
    return signals.status if sound else 1


@contextlib.contextmanager
def _embedded(args: argparse.Namespace, screen: Screen) -> Iterator[_Cluster]:
    topic = args.topic or "demo"
    ahead = max(1, min(args.ahead, _EMBEDDED_BYTES // (args.size + _RECORD_BYTES)))
    with usage():
        cluster = MockCluster(topics={topic: args.partitions})
    with cluster:
        screen.show_log(verbose="debug" in args.config)
        version = kafka_async.librdkafka_version
        screen.out(f"embedded cluster at {cluster.bootstrap_servers} (librdkafka {version})")
        screen.out(f"topic {topic}, partitions: {args.partitions}, messages: {args.messages:,} of {args.size:,} bytes")
        screen.out(f"paced: it drops data past 5 MB a partition, so at most {ahead:,} messages are on their way")
        yield _Cluster(cluster.bootstrap_servers, topic, ahead, _EMBEDDED_FETCH)


@contextlib.contextmanager
def _real(args: argparse.Namespace, screen: Screen) -> Iterator[_Cluster]:
    servers = args.bootstrap_servers
    topic = args.topic or f"kafka-async-demo-{os.urandom(4).hex()}"
    reach(servers)
    screen.show_log(verbose="debug" in args.config)
    screen.out(f"Kafka at {servers} (librdkafka {kafka_async.librdkafka_version})")
    screen.out(f"topic {topic} (it stays there), messages: {args.messages:,} of {args.size:,} bytes")
    screen.out(f"at most {args.ahead:,} messages are on their way at a time (--ahead)")
    with usage():
        first = Producer(servers, topic, config=_of("P", args.config))
    with first:  # another one than measured: creating a topic takes a broker a second
        Marker(first, os.urandom(8)).open()
    yield _Cluster(servers, topic, args.ahead, {})


def _of(scope: str, config: dict[str, Value]) -> dict[str, Value]:
    """Pick what is a producer's ("P") or a consumer's ("C"); what nobody knows goes to both, to be refused."""
    known = properties()
    return {name: value for name, value in config.items() if known.get(name, scope) in (scope, "*")}
