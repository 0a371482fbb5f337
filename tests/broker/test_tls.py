"""TLS and mutual TLS against a real Kafka: what is right works, and what is wrong is told within seconds."""

from __future__ import annotations

import asyncio
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from secure_kafka import SecureKafka, secure_broker, secure_topic  # noqa: F401
from security import WRONG_S, failures_of_consumer, round_trip, round_trip_aio, told_to_producer
from support import read, reader, send_all

from kafka_async import Consumer, ConsumerError, DeliveryError, FlushTimeout, KafkaError, Producer, aio

pytestmark = pytest.mark.broker

AUTHORITY = "signed by an authority that is not trusted here"
WRONG = {
    "authority": AUTHORITY,
    "host": "for another host name",
    "expired": "has expired",
    "no client certificate": "wants a client certificate",
    "client certificate of a stranger": "ssl.certificate.location",
    "plaintext to TLS": "may speak TLS",
    "TLS to plaintext": "does not speak TLS",
}


def wrong(kafka: SecureKafka, what: str) -> tuple[str, dict[str, str]]:
    """Where to connect, and how, so that this is wrong."""
    chain, key = kafka.stranger.issue("client.example")
    return {
        "authority": (kafka.address("TLS"), kafka.tls(kafka.stranger)),
        "host": (kafka.address("ELSEWHERE"), kafka.tls()),
        "expired": (kafka.address("EXPIRED"), kafka.tls()),
        "no client certificate": (kafka.address("MUTUAL"), kafka.tls()),
        "client certificate of a stranger": (
            kafka.address("MUTUAL"),
            {**kafka.tls(), "ssl.certificate.location": str(chain), "ssl.key.location": str(key)},
        ),
        "plaintext to TLS": (kafka.address("TLS"), {"broker.address.family": "v4"}),
        "TLS to plaintext": (kafka.plaintext, kafka.tls()),
    }[what]


@pytest.mark.parametrize("listener", ["TLS", "MUTUAL"])
def test_messages_go_through_tls(kafka: SecureKafka, topic: str, listener: str) -> None:
    config = kafka.tls() if listener == "TLS" else kafka.mutual()
    round_trip(kafka.address(listener), topic, config)
    asyncio.run(round_trip_aio(kafka.address(listener), topic, config))


def test_a_certificate_may_be_given_as_text(kafka: SecureKafka, topic: str) -> None:
    config = kafka.mutual()
    for name in ("ca", "certificate", "key"):
        config[f"ssl.{name}.pem"] = Path(config.pop(f"ssl.{name}.location")).read_text()
    round_trip(kafka.address("MUTUAL"), topic, config)


@pytest.mark.parametrize("what", WRONG)
def test_producer_is_told_what_is_wrong(
    kafka: SecureKafka, topic: str, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    servers, config = wrong(kafka, what)
    error = told_to_producer(servers, topic, config, WRONG[what])
    assert error.name in ("_SSL", "_TRANSPORT")
    assert WRONG[what] in caplog.text
    with reader(kafka.plaintext, topic) as consumer:
        assert consumer.poll_message(1.0) is None


@pytest.mark.parametrize(
    ("what", "group_id"), [*((what, None) for what in WRONG), ("host", "g"), ("plaintext to TLS", "g")]
)
def test_consumer_is_told_once_what_is_wrong(kafka: SecureKafka, topic: str, what: str, group_id: str | None) -> None:
    servers, config = wrong(kafka, what)
    (error,) = failures_of_consumer(servers, topic, config, group_id)
    assert WRONG[what] in str(error)
    assert not error.retriable


@pytest.mark.parametrize("what", ["authority", "plaintext to TLS"])
def test_asyncio_is_told_what_is_wrong(kafka: SecureKafka, topic: str, what: str) -> None:
    async def use(servers: str, config: dict[str, Any]) -> None:
        async with aio.Producer(servers, topic, config=config) as producer:
            with pytest.raises(KafkaError, match=WRONG[what]):
                await producer.warm_up(timeout=WRONG_S)
        async with aio.Consumer(servers, topic, config=config) as consumer:
            with pytest.raises(ConsumerError, match=WRONG[what]):
                await consumer.poll_message(WRONG_S)

    asyncio.run(use(*wrong(kafka, what)))


def test_what_runs_out_of_time_says_why(kafka: SecureKafka, topic: str) -> None:
    servers, config = wrong(kafka, "authority")
    producer = Producer(servers, topic, config={**config, "message.timeout.ms": 2500})
    delivery = producer.submit(b"x")
    producer.send(b"y")
    with pytest.raises(FlushTimeout, match=AUTHORITY):
        producer.flush(1.5)
    with pytest.raises(DeliveryError, match=f"(?s)timed out.*{AUTHORITY}"):
        delivery.result(WRONG_S)
    with pytest.raises(DeliveryError, match=f"(?s)timed out.*{AUTHORITY}"):
        producer.stop()
    (report,) = producer.failures()
    assert AUTHORITY in str(report.error)


@pytest.mark.parametrize("what", ["authority", "plaintext to TLS"])
def test_questions_say_why_they_have_no_answer(kafka: SecureKafka, topic: str, what: str) -> None:
    servers, config = wrong(kafka, what)
    consumer = Consumer(servers, group_id="group", config=config)
    with consumer, pytest.raises(ConsumerError, match=WRONG[what]):
        consumer.watermarks(topic, 0, timeout=6)
    producer = Producer(servers, config={**config, "transactional.id": topic})
    with producer, pytest.raises(KafkaError, match=WRONG[what]):
        producer.init_transactions(6)


def test_consumer_goes_on_when_the_broker_is_trusted_at_last(kafka: SecureKafka, topic: str) -> None:
    """One of two addresses is wrong: that is told, and the other one serves."""
    send_all(kafka.plaintext, topic, [b"1"])
    servers = f"{kafka.address('EXPIRED')},{kafka.address('TLS')}"
    with reader(servers, topic, config=kafka.tls()) as consumer:
        found: list[bytes | None] = []
        told: list[str] = []
        deadline = time.monotonic() + 20
        while not found:
            assert time.monotonic() < deadline
            try:
                if (message := consumer.poll_message(0.1)) is not None:
                    found.append(message.value)
            except ConsumerError as error:
                told.append(str(error))
    assert found == [b"1"]
    assert len(told) <= 1
    assert all("has expired" in text for text in told)


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        ({"enable.ssl.certificate.verification": False}, "expired"),
        ({"enable.ssl.certificate.verification": False}, "authority"),
        ({"ssl.endpoint.identification.algorithm": "none"}, "host"),
    ],
)
def test_verification_is_off_only_if_switched_off_which_warns(
    kafka: SecureKafka, topic: str, setting: dict[str, Any], what: str, caplog: pytest.LogCaptureFixture
) -> None:
    servers, config = wrong(kafka, what)
    (name,) = setting
    with pytest.warns(RuntimeWarning, match=name) as caught:
        round_trip(servers, topic, {**config, **setting})
    # Who made the client, not this package.
    assert {Path(record.filename).name for record in caught} == {"security.py", "support.py"}
    assert name in caplog.text


def test_verification_that_is_on_does_not_warn(kafka: SecureKafka, topic: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for setting in ({}, {"enable.ssl.certificate.verification": True}):
            Producer(kafka.address("TLS"), topic, config={**kafka.tls(), **setting}).stop()


def test_log_may_be_off(kafka: SecureKafka, topic: str, caplog: pytest.LogCaptureFixture) -> None:
    servers, config = wrong(kafka, "plaintext to TLS")
    caplog.set_level(logging.DEBUG, "kafka_async")
    producer = Producer(servers, topic, config=config, log=False)
    with producer, pytest.raises(KafkaError, match="may speak TLS"):
        producer.warm_up(timeout=6)
    assert not caplog.text


def test_a_consumer_reads_what_came_before_tls(kafka: SecureKafka, topic: str) -> None:
    send_all(kafka.plaintext, topic, [b"1", b"2"])
    with reader(kafka.address("TLS"), topic, config=kafka.tls()) as consumer:
        assert [message.value for message in read(consumer, 2)] == [b"1", b"2"]
