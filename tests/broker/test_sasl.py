"""SASL PLAIN and SCRAM against a real Kafka, with and without TLS."""

from __future__ import annotations

import asyncio

import pytest
from secure_kafka import MECHANISMS, SecureKafka, secure_broker, secure_topic  # noqa: F401
from security import failures_of_consumer, round_trip, round_trip_aio, told_to_producer
from support import reader

from kafka_async._native import lib

pytestmark = pytest.mark.broker

WRONG = {
    "password PLAIN": "refused the credentials",
    "password SCRAM-SHA-256": "refused the credentials",
    "password SCRAM-SHA-512": "refused the credentials",
    "mechanism": "does not offer this sasl.mechanism",
    "no SASL": "may want SASL",
    "SASL": "the broker's port does without",
    "no TLS": "may speak TLS",
    "TLS": "does not speak TLS",
}


def wrong(kafka: SecureKafka, what: str) -> tuple[str, dict[str, str]]:
    """Where to connect, and how, so that this is wrong."""
    if what.startswith("password"):
        return kafka.address("SASL_TLS"), kafka.sasl(what.split()[1], "a guess")
    return {
        "mechanism": (kafka.address("SHORTAGE"), kafka.sasl("SCRAM-SHA-256", tls=False)),
        "no SASL": (kafka.address("SASL_TLS"), kafka.tls()),
        "SASL": (kafka.address("TLS"), kafka.sasl("PLAIN")),
        "no TLS": (kafka.address("SASL_TLS"), kafka.sasl("PLAIN", tls=False)),
        "TLS": (kafka.address("SASL_PLAIN"), kafka.sasl("PLAIN")),
    }[what]


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("tls", [True, False])
def test_messages_go_through_sasl(kafka: SecureKafka, topic: str, mechanism: str, tls: bool) -> None:
    servers = kafka.address("SASL_TLS" if tls else "SASL_PLAIN")
    config = kafka.sasl(mechanism, tls=tls)
    if mechanism.startswith("SCRAM") and lib.ka_librdkafka_version_linked() < 0x02060100:
        told_to_producer(servers, topic, config, r"refuses all SCRAM of librdkafka before 2\.6\.1")
        return
    round_trip(servers, topic, config)
    asyncio.run(round_trip_aio(servers, topic, config))


@pytest.mark.parametrize("what", WRONG)
def test_producer_is_told_what_is_wrong(
    kafka: SecureKafka, topic: str, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    servers, config = wrong(kafka, what)
    error = told_to_producer(servers, topic, config, WRONG[what])
    assert error.name in ("_AUTHENTICATION", "_TRANSPORT", "_SSL")
    assert WRONG[what] in caplog.text
    with reader(kafka.plaintext, topic) as consumer:
        assert consumer.poll_message(1.0) is None


@pytest.mark.parametrize("what", WRONG)
def test_consumer_is_told_once_what_is_wrong(kafka: SecureKafka, topic: str, what: str) -> None:
    servers, config = wrong(kafka, what)
    (error,) = failures_of_consumer(servers, topic, config, "group")
    assert WRONG[what] in str(error)
    assert not error.retriable
