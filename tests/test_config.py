from __future__ import annotations

import pytest
from support import NOBODY

import kafka_async.config
from kafka_async import ConfigError, Consumer, KafkaError, Producer, _consumer
from kafka_async._native import lib


@pytest.mark.parametrize("kind", [Producer, Consumer])
@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("no.such.property", 1, "no property 'no.such.property'"),
        ("socket.timeout.ms", "soon", "socket.timeout.ms"),
        ("socket.timeout.ms", -5, "socket.timeout.ms"),
        ("client.id", None, "must be str, int, float or bool"),
        ("client.id", ["x"], "must be str, int, float or bool"),
        ("client.id", "a\0b", "NUL"),
        ("bootstrap.servers", "x:1", "bootstrap_servers"),
        ("metadata.broker.list", "x:1", "bootstrap_servers"),
        ("log.queue", True, "log"),
        ("security.protocol", "carrier-pigeon", "security.protocol"),
    ],
)
def test_bad_property_is_named(kind: type, name: str, value: object, text: str) -> None:
    with pytest.raises(ConfigError, match=text.replace(".", r"\.")) as caught:
        kind(NOBODY, "t", config={name: value})
    assert caught.value.property == name
    assert isinstance(caught.value, (KafkaError, ValueError))


@pytest.mark.parametrize(
    ("kind", "name", "value", "text"),
    [
        (Producer, "queue.buffering.max.messages", 5, "queue_messages"),
        (Producer, "queue.buffering.max.kbytes", 5, "queue_bytes"),
        (Producer, "delivery.report.only.error", True, "outcome"),
        (Producer, "max.poll.interval.ms", 1000, "property of a consumer"),
        (Producer, "group.id", "g", "property of a consumer"),
        (Consumer, "group.id", "g", "group_id"),
        (Consumer, "enable.auto.offset.store", True, "enable.auto.commit"),
        (Consumer, "queued.min.messages", 5, "prefetch_messages"),
        (Consumer, "queued.max.messages.kbytes", 5, "prefetch_bytes"),
        (Consumer, "linger.ms", 5, "property of a producer"),
    ],
)
def test_property_that_would_break_a_promise_names_the_argument(
    kind: type, name: str, value: object, text: str
) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        kind(NOBODY, "t", config={name: value})
    assert caught.value.property == name


def test_combination_that_librdkafka_refuses_is_a_config_error() -> None:
    with pytest.raises(ConfigError):
        Producer(NOBODY, config={"security.protocol": "sasl_plaintext", "sasl.mechanism": "NO-SUCH"})


def test_values_of_every_kind_reach_librdkafka() -> None:
    settings = {"client.id": "me", "socket.timeout.ms": 5000, "socket.keepalive.enable": True, "linger.ms": 2.0}
    config = kafka_async.config.Config(lib.KA_PRODUCER, NOBODY, settings, {})
    assert config.get("client.id") == "me"
    assert config.get("socket.timeout.ms") == "5000"
    assert config.get("socket.keepalive.enable") == "true"
    assert config.number("linger.ms", -1) == 2


def test_defaults_apply_and_can_be_overridden() -> None:
    config = kafka_async.config.Config(lib.KA_PRODUCER, NOBODY, None, {})
    assert config.number("linger.ms", -1) == 0
    assert config.get("socket.nagle.disable") == "true"
    config = kafka_async.config.Config(lib.KA_PRODUCER, NOBODY, {"queue.buffering.max.ms": 7}, {})
    assert config.number("linger.ms", -1) == 7
    config = kafka_async.config.Config(lib.KA_CONSUMER, NOBODY, None, {"group.id": "g"})
    known = "fetch.queue.backoff.ms" in kafka_async.config.properties()
    assert config.get("fetch.queue.backoff.ms") == ("2" if known else None)


def test_size_of_a_response_fits_the_prefetch_and_can_be_overridden() -> None:
    def sizes(prefetch_bytes: int, settings: dict[str, int] | None = None) -> tuple[int, int]:
        conf = _consumer._config(NOBODY, None, settings, 1000, prefetch_bytes)
        return conf.number("fetch.max.bytes", -1), conf.number("fetch.message.max.bytes", -1)

    assert sizes(64 * 2**20) == (2**19, 2**19)
    assert sizes(2**31) == (2**24, 2**20)
    assert sizes(2048) == (1000, 1000)
    assert sizes(2**20, {"fetch.max.bytes": 2_000_000, "max.partition.fetch.bytes": 5000}) == (2_000_000, 5000)


def test_metadata_outlive_the_next_try_to_join() -> None:
    def age(settings: dict[str, int]) -> str | None:
        return _consumer._config(NOBODY, "g", settings, 1000, 2**20).get("metadata.max.age.ms")

    assert age({}) == "900000"
    assert age({"topic.metadata.refresh.interval.ms": 100}) == "3000"
    assert age({"topic.metadata.refresh.interval.ms": 5000}) == "900000"  # librdkafka makes it 15000 later
    assert age({"topic.metadata.refresh.interval.ms": 100, "metadata.max.age.ms": 500}) == "500"


@pytest.mark.parametrize("settings", [{"message.max.bytes": 2_000_000}, {"fetch.max.bytes": 1_000_000}, {}])
@pytest.mark.parametrize("prefetch_bytes", [2048, 2**20, 2**26, 2**31])
def test_any_prefetch_makes_a_consumer(settings: dict[str, int], prefetch_bytes: int) -> None:
    """librdkafka compares these properties with each other."""
    Consumer(NOBODY, config=settings, prefetch_bytes=prefetch_bytes, log=False).stop()


def test_every_default_has_a_reason_and_is_a_property_somewhere() -> None:
    known = kafka_async.config.properties()
    newer = {"fetch.queue.backoff.ms"}  # since 2.2.0
    for defaults in (kafka_async.config.PRODUCER_DEFAULTS, kafka_async.config.CONSUMER_DEFAULTS):
        for name, (_, reason) in defaults.items():
            assert name in known or name in newer
            assert len(reason) > 10


@pytest.mark.parametrize("name", ["sasl.password", "ssl.key.password", "ssl.key.pem"])
def test_secret_is_never_shown(name: str, caplog: pytest.LogCaptureFixture) -> None:
    secret = "hunter2\0" if name != "ssl.key.pem" else "hunter2-not-a-key"
    with pytest.raises(KafkaError) as caught:
        Producer(NOBODY, config={name: secret, "security.protocol": "ssl"})
    assert "hunter2" not in str(caught.value) + repr(caught.value) + caplog.text
