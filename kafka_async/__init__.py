"""Kafka for code that has something better to do than wait.

A thin native shim over librdkafka: the queue and the worker thread of each producer and consumer never
touch the GIL. See `Producer`, `Consumer`, `kafka_async.config`, `kafka_async.errors`, and
`kafka_async.testing` for an embedded cluster.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from kafka_async._interpreter import is_main

if not is_main():  # threads, what a fork leaves and the flush at exit are the process's
    raise ImportError(
        "kafka_async does not work in a subinterpreter. Use it in the process's main interpreter (under mod_wsgi: "
        "WSGIApplicationGroup %{GLOBAL}), in its threads, or in other processes"
    )
try:
    import kafka_async._native  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "kafka_async._native":
        raise
    raise ImportError(
        f"the native part of kafka_async is not built in {__path__[0]}. If these are the sources, they hide an "
        "installed copy: run Python from another folder, or install them in place with 'pip install -e .'"
    ) from None

from kafka_async._oauth import OAuthToken
from kafka_async._version import check_librdkafka, librdkafka_version
from kafka_async.batch import MessageBatch
from kafka_async.consumer import Consumer
from kafka_async.errors import (
    ClosedError,
    ConfigError,
    ConsumerError,
    DeliveryError,
    FlushTimeout,
    ForkedError,
    KafkaError,
    MessageTooLarge,
    PartitionEnd,
    QueueFull,
    TransactionError,
)
from kafka_async.message import DeliveryReport, Message, Record, RecordMetadata, TopicPartition
from kafka_async.producer import Producer

if TYPE_CHECKING:
    from kafka_async._future import Delivery
    from kafka_async.metrics import ConsumerHops, ConsumerMetrics, LatencySummary, ProducerHops, ProducerMetrics

__all__ = [
    "ClosedError",
    "ConfigError",
    "Consumer",
    "ConsumerError",
    "ConsumerHops",
    "ConsumerMetrics",
    "Delivery",
    "DeliveryError",
    "DeliveryReport",
    "FlushTimeout",
    "ForkedError",
    "KafkaError",
    "LatencySummary",
    "Message",
    "MessageBatch",
    "MessageTooLarge",
    "OAuthToken",
    "PartitionEnd",
    "Producer",
    "ProducerHops",
    "ProducerMetrics",
    "QueueFull",
    "Record",
    "RecordMetadata",
    "TopicPartition",
    "TransactionError",
    "librdkafka_version",
]

check_librdkafka()


def __getattr__(name: str) -> object:
    """Import when asked for what needs dataclasses or concurrent.futures: they take as long as all the rest."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("kafka_async._future" if name == "Delivery" else "kafka_async.metrics"), name)
