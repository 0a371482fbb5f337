"""OAUTHBEARER against a real Kafka that takes unsecured JSON web tokens, made here, and ends each session after 4 s."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from kafka_server import KafkaServer
from loops import run
from outcomes import Running
from real_kafka import own_broker
from support import end, wait_for

from kafka_async import Consumer, ConsumerError, DeliveryError, OAuthToken, Producer, aio

pytestmark = pytest.mark.broker

UNSECURED = "org.apache.kafka.common.security.oauthbearer.internals.unsecured.OAuthBearerUnsecured"
LISTENER = "listener.name.plaintext.oauthbearer.sasl"
BROKER = {
    "listener.security.protocol.map": "PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
    "sasl.enabled.mechanisms": "OAUTHBEARER",
    "sasl.mechanism.inter.broker.protocol": "OAUTHBEARER",
    f"{LISTENER}.jaas.config": "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required "
    'unsecuredLoginStringClaim_sub="broker";',
    f"{LISTENER}.login.callback.handler.class": f"{UNSECURED}LoginCallbackHandler",
    f"{LISTENER}.server.callback.handler.class": f"{UNSECURED}ValidatorCallbackHandler",
    "connections.max.reauth.ms": "4000",
    "auto.create.topics.enable": "true",
    "num.partitions": "2",
}
SASL = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanisms": "OAUTHBEARER"}
EARLIEST = {**SASL, "auto.offset.reset": "earliest"}
LIFETIME_S = 8.0
TOKENS = 3
LIMIT_S = 60


@pytest.fixture(scope="module")
def kafka() -> Iterator[KafkaServer]:
    with own_broker(**BROKER) as server:
        yield server


@pytest.fixture
def servers(kafka: KafkaServer) -> str:
    return kafka.bootstrap_servers


def mint(lifetime_s: float = 3600, *, valid_s: float | None = None, principal: str = "test") -> OAuthToken:
    """A token that says how long it lives; valid_s: that the broker takes it for so long."""

    def part(claims: dict[str, object]) -> str:
        return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")

    now = time.time()
    claims = {"sub": principal, "iat": now - 100, "exp": now + (lifetime_s if valid_s is None else valid_s)}
    return OAuthToken(f"{part({'alg': 'none'})}.{part(claims)}.", now + lifetime_s, principal, {"traceId": "a b"})


class Short:
    """Gives short-lived tokens and notes when, and on what thread."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.times: list[float] = []
        self.threads: set[str] = set()

    def __call__(self, _: str) -> OAuthToken:
        self.times.append(time.time())
        self.threads.add(threading.current_thread().name)
        return mint(LIFETIME_S, principal=self.name)

    def coroutine(self) -> Callable[[str], Any]:
        async def on_oauth(config: str) -> OAuthToken:
            return self(config)

        return on_oauth

    def check(self, thread: str) -> None:
        """It was asked in time, and no more often than needed."""
        gaps = [later - sooner for sooner, later in zip(self.times, self.times[1:], strict=False)]
        assert len(self.times) >= TOKENS
        assert all(0.8 * LIFETIME_S - 0.1 < gap < LIFETIME_S for gap in gaps), (self.name, gaps)
        assert self.threads == {thread}


class Flow:
    """Numbered messages from a producer to a group, for as long as `done` says."""

    def __init__(self, servers: str, topic: str, done: Callable[[], bool]) -> None:
        self.servers, self.topic, self.done = servers, topic, done
        self.sent: list[bytes] = []
        self.read: list[bytes | None] = []
        self.config = {**SASL, "enable.idempotence": True}

    def next(self) -> bytes:
        self.sent.append(b"%d" % len(self.sent))
        return self.sent[-1]

    def blocking(self, oauth: Short, group_oauth: Short) -> None:
        with (
            Producer(self.servers, self.topic, config=self.config, on_oauth=oauth) as producer,
            Consumer(self.servers, self.topic, group_id="sync", config=EARLIEST, on_oauth=group_oauth) as consumer,
        ):
            while not self.done():
                producer.send(self.next())
                if (message := consumer.poll_message(0.02)) is not None:
                    self.read.append(message.value)
            producer.flush(LIMIT_S)
            while len(self.read) < len(self.sent):
                message = consumer.poll_message(LIMIT_S)
                assert message is not None
                self.read.append(message.value)

    async def awaiting(self, oauth: Short, group_oauth: Short) -> None:
        async with (
            aio.Producer(self.servers, self.topic, config=self.config, on_oauth=oauth.coroutine()) as producer,
            aio.Consumer(
                self.servers, self.topic, group_id="aio", config=EARLIEST, on_oauth=group_oauth.coroutine()
            ) as consumer,
        ):
            while not self.done():
                await producer.send(self.next())
                if (message := await consumer.poll_message(0.02)) is not None:
                    self.read.append(message.value)
            while len(self.read) < len(self.sent):
                message = await consumer.poll_message(LIMIT_S)
                assert message is not None
                self.read.append(message.value)


@pytest.mark.timeout(180)
def test_nothing_is_lost_over_several_tokens(servers: str, topic: str) -> None:
    """Side by side: both facades with their groups, librdkafka's own tokens, and a full consumer that is not polled."""
    names = ("producer", "consumer", "aio-producer", "aio-consumer", "stuck")
    oauth = {name: Short(name) for name in names}
    done = lambda: all(len(short.times) >= TOKENS for short in oauth.values())  # noqa: E731
    flows = [Flow(servers, f"{topic}-{kind}", done) for kind in ("sync", "aio")]
    own = {
        **SASL,
        "enable.sasl.oauthbearer.unsecure.jwt": True,
        "sasl.oauthbearer.config": "principal=own lifeSeconds=5",
    }
    with ExitStack() as stack:
        static = stack.enter_context(Producer(servers, f"{topic}-static", config=own))
        stuck = Consumer(servers, f"{topic}-sync", config=EARLIEST, on_oauth=oauth["stuck"], prefetch_messages=2)
        stack.enter_context(stuck)
        blocking = Running(lambda: flows[0].blocking(oauth["producer"], oauth["consumer"]))
        run(flows[1].awaiting(oauth["aio-producer"], oauth["aio-consumer"]), limit=LIMIT_S)
        wait_for(blocking.is_done, LIMIT_S)
        assert blocking.error is None, blocking.error
        static.submit(b"after several lifetimes").result(LIMIT_S)
        static.flush()
    for flow in flows:
        assert len(flow.sent) > 50
        assert sorted(flow.read, key=lambda value: int(value or b"-1")) == flow.sent
    for name, short in oauth.items():
        short.check("MainThread" if name.startswith("aio") else "kafka_async-oauth")


def test_broker_lets_nobody_in_whose_token_is_not_renewed(servers: str, topic: str) -> None:
    answers = iter([mint(5)])
    config = {**SASL, "message.timeout.ms": 3000}
    with Producer(servers, topic, config=config, on_oauth=lambda _: next(answers), log=False) as producer:
        producer.submit(b"in time").result(LIMIT_S)

        def refused() -> bool:
            try:
                producer.submit(b"later").result(LIMIT_S)
            except DeliveryError as error:
                return error.name == "_MSG_TIMED_OUT"
            return False

        wait_for(refused, 20)


def test_wrong_token_is_told_within_seconds_and_never_shown(
    servers: str, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = mint(3600, valid_s=-50)
    began = time.monotonic()
    producer = Producer(servers, topic, config=SASL, on_oauth=lambda _: wrong)
    producer.send(b"v")
    with Consumer(servers, topic, config=EARLIEST, on_oauth=lambda _: wrong) as consumer:
        with pytest.raises(ConsumerError, match=r"SASL authentication error: .*invalid_token") as raised:
            consumer.poll_message(LIMIT_S)
        assert raised.value.name == "_AUTHENTICATION"
    wait_for(lambda: "producer" in caplog.text and caplog.text.count("invalid_token") >= 2)
    assert time.monotonic() - began < 10
    assert producer.metrics().delivered == 0
    end(producer)
    assert wrong.token not in caplog.text + str(raised.value)


def test_messages_wait_for_a_slow_first_token(servers: str, topic: str) -> None:
    def slow(_: str) -> OAuthToken:
        time.sleep(1)
        return mint()

    with Producer(servers, topic, config={**SASL, "transactional.id": topic}, on_oauth=slow) as producer:
        producer.init_transactions(LIMIT_S)
        with producer.transaction(timeout=LIMIT_S):
            future = producer.submit(b"v")
        assert future.result(0).offset == 0


def test_partitioner_finds_its_partitions_with_the_first_token(servers: str, topic: str) -> None:
    with Producer(servers, topic, config=SASL, on_oauth=lambda _: mint(), partitioner=lambda *_: 1) as producer:
        assert producer.submit(b"v").result(LIMIT_S).partition == 1


def test_forgotten_producer_delivers_with_its_first_token(servers: str, topic: str) -> None:
    release = threading.Event()

    def on_oauth(_: str) -> OAuthToken:
        release.wait(LIMIT_S)
        return mint()

    with Producer(servers, topic, config=SASL, on_oauth=lambda _: mint()) as producer:  # makes the topic
        producer.submit(b"first").result(LIMIT_S)
    Producer(servers, topic, config=SASL, on_oauth=on_oauth).send(b"forgotten")
    gc.collect()
    release.set()
    with Consumer(servers, topic, config=EARLIEST, on_oauth=lambda _: mint()) as consumer:
        wait_for(lambda: (message := consumer.poll_message(0.1)) and message.value == b"forgotten", 20)


def test_awaited_sends_go_out_together_when_the_token_comes(servers: str, topic: str) -> None:
    async def main() -> None:
        event = asyncio.Event()

        async def on_oauth(_: str) -> OAuthToken:
            await event.wait()
            return mint()

        async with aio.Producer(servers, topic, config=SASL, on_oauth=on_oauth) as producer:
            futures = [producer.submit(b"%d" % number) for number in range(100)]
            await asyncio.sleep(0)
            assert not any(future.done() for future in futures)
            event.set()
            assert len(await asyncio.gather(*futures)) == 100

    run(main(), limit=LIMIT_S)
