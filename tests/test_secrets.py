"""Secrets of a configuration appear nowhere: not in errors, logs, reprs or metrics, however they are given."""

from __future__ import annotations

import contextlib
import logging
import re
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest
import trustme
from fake_broker import sasl_broker
from loops import run
from support import NOBODY, run_python, wait_for

import kafka_async
from kafka_async import Consumer, Producer, aio
from kafka_async._native import lib
from kafka_async.config import Config

MARK = "h7Xk2Qs9"  # in every secret, and nowhere else
SECRETS = [
    "sasl.password",
    "ssl.key.password",
    "ssl.keystore.password",
    "ssl.key.pem",
    "ssl.certificate.pem",
    "ssl.ca.pem",
    "sasl.oauthbearer.config",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.assertion.private.key.pem",
    "sasl.oauthbearer.assertion.private.key.passphrase",
]
MISSPELLED = ["sasl.pasword", "sasl.passwd", "ssl.key.passwrd", "ssl.privatekey", "sasl.jaas.config", "password"]
FORMS: dict[str, Any] = {
    "text": MARK,
    "spaces": f"  {MARK} {MARK}",
    "NUL": f"{MARK}\0{MARK}",
    "bytes": MARK.encode(),
    "list": [MARK],
    "PEM": f"-----BEGIN PRIVATE KEY-----\n{MARK}\n-----END PRIVATE KEY-----\n",
    "pairs": f"principal=a scope={MARK} {MARK}={MARK}",
    "long": MARK * 200,
}
PROTOCOLS: list[dict[str, str]] = [
    {"security.protocol": "ssl"},
    {"security.protocol": "sasl_ssl", "sasl.mechanism": "PLAIN", "sasl.username": "a"},
    {"security.protocol": "sasl_plaintext", "sasl.mechanism": "SCRAM-SHA-512", "sasl.username": "a"},
    {
        "security.protocol": "sasl_plaintext",
        "sasl.mechanism": "OAUTHBEARER",
        "enable.sasl.oauthbearer.unsecure.jwt": "true",
    },
]


def everything(error: BaseException) -> str:
    """What a program could print of an exception, and of those behind it."""
    text = "".join(traceback.format_exception(error)) + str(error) + repr(error) + repr(vars(error)) + repr(error.args)
    for behind in (error.__cause__, error.__context__):
        text += everything(behind) if behind is not None else ""
    return re.sub(r"(?m)^ +(File|\S).*\n", "", text)  # lines of source


def use(kind: type[Producer] | type[Consumer], config: dict[str, Any]) -> str:
    """What there is to see of a client while it tries to connect with these, or of the error that it is not made."""
    seen = ""
    try:
        client = kind(NOBODY, "t", config=config)
    except (TypeError, ValueError, kafka_async.KafkaError) as error:
        return everything(error)
    try:
        seen += repr(client) + str(client) + repr(client.metrics())
        if isinstance(client, Producer):
            client.send(b"x")
            client.warm_up(timeout=0.1)
        else:
            client.poll_message(0.1)
    except kafka_async.KafkaError as error:
        seen += everything(error)
    finally:
        with contextlib.suppress(kafka_async.FlushTimeout):
            client.stop(0)
    return seen


@pytest.mark.parametrize("kind", [Producer, Consumer])
@pytest.mark.parametrize("name", [*SECRETS, *MISSPELLED])
def test_secret_appears_nowhere(
    kind: type[Producer] | type[Consumer],
    name: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    caplog.set_level(logging.DEBUG)
    seen = ""
    for form in FORMS.values():
        for protocol in PROTOCOLS:
            if name.startswith("sasl.oauthbearer") == ("OAUTHBEARER" in protocol.values()):
                seen += use(kind, {**protocol, "debug": "all", name: form})
    kafka_async._log.stop()  # what the native ring holds is logged by then
    seen += caplog.text + repr([vars(record) for record in caplog.records]) + "".join(capfd.readouterr())
    seen += "".join(str(warning.message) for warning in recwarn)
    assert seen
    assert MARK not in seen, seen[max(0, seen.index(MARK) - 300) :][:600]


def test_what_is_searched_would_show_a_value(caplog: pytest.LogCaptureFixture) -> None:
    """The same search finds what is no secret."""
    caplog.set_level(logging.DEBUG)
    seen = use(Producer, {"debug": "all", "client.id": MARK})
    kafka_async._log.stop()
    assert MARK in seen + caplog.text
    assert MARK in use(Producer, {"security.protocol": MARK})


def test_private_key_that_works_appears_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    leaf = trustme.CA().issue_cert("client.example")
    key = leaf.private_key_pem.bytes().decode()
    config = {
        "security.protocol": "ssl",
        "debug": "all",
        "ssl.key.pem": key,
        "ssl.certificate.pem": leaf.cert_chain_pems[0].bytes().decode(),
    }
    seen = use(Producer, config) + use(Consumer, config)
    kafka_async._log.stop()
    seen += caplog.text
    assert not [line for line in key.splitlines() if len(line) > 20 and "KEY" not in line and line in seen]


def test_secret_is_not_on_stderr_of_a_program_that_fails() -> None:
    done = run_python(
        """
        import logging, sys
        import kafka_async
        logging.basicConfig(level=logging.DEBUG)
        producer = kafka_async.Producer("127.0.0.1:1", "t", config={
            "security.protocol": "sasl_ssl", "sasl.mechanism": "PLAIN", "sasl.username": "a", "debug": "all",
            "sasl.password": sys.argv[1]})
        producer.send(b"x")
        kafka_async.Producer("127.0.0.1:1", config={"sasl.pasword": sys.argv[1]})
        """,
        MARK,
    )
    assert "ConfigError" in done.stderr
    assert MARK not in done.stdout + done.stderr


def told_to_producer(servers: str, options: dict[str, Any]) -> str:
    """What a producer tells of a refusal."""
    producer = Producer(servers, "t", **options)
    delivery = producer.submit(b"x")
    with pytest.raises(kafka_async.KafkaError) as raised:
        producer.warm_up(timeout=20)
    seen = everything(raised.value)
    with pytest.raises(kafka_async.FlushTimeout, match=REFUSAL) as late:
        producer.stop(0)
    return seen + everything(late.value) + everything(delivery.exception(20) or Exception())


def told_to_consumer(servers: str, options: dict[str, Any]) -> str:
    with (
        Consumer(servers, "t", group_id="g", **options) as consumer,
        pytest.raises(kafka_async.ConsumerError) as raised,
    ):
        consumer.poll_message(20)
    return everything(raised.value)


def told_to_asyncio(servers: str, options: dict[str, Any]) -> str:
    async def main() -> str:
        async with aio.Consumer(servers, "t", **options) as consumer:
            with pytest.raises(kafka_async.KafkaError) as of_consumer:
                await consumer.poll_message(20)
        async with aio.Producer(servers, "t", **options) as producer:
            with pytest.raises(kafka_async.KafkaError) as of_producer:
                await producer.warm_up(timeout=20)
        return everything(of_consumer.value) + everything(of_producer.value)

    return run(main())


TOLD = {"producer": told_to_producer, "consumer": told_to_consumer, "asyncio": told_to_asyncio}
REFUSAL = "no entry for "


def refuse(sent: bytes) -> bytes:
    """Quote what the client sent, and the password that SCRAM does not send."""
    return REFUSAL.encode() + re.sub(rb"[^ -~]", b" ", sent) + MARK.encode() + b", indeed"


def told_of_refusal(
    caplog: pytest.LogCaptureFixture,
    tell: Callable[[str, dict[str, Any]], str],
    config: dict[str, Any],
    *,
    refuse: Callable[[bytes], bytes] = refuse,
    **options: Any,
) -> str:
    """All that there is to see of a refusal."""
    caplog.set_level(logging.DEBUG)
    config = {"security.protocol": "sasl_plaintext", "debug": "all", **config}
    with sasl_broker(refuse) as servers:
        seen = tell(servers, {"config": config, **options})
    kafka_async._log.stop()
    assert REFUSAL in caplog.text
    assert REFUSAL in seen
    return seen + caplog.text + repr([vars(record) for record in caplog.records])


@pytest.mark.parametrize("tell", TOLD.values(), ids=TOLD)
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_password_that_the_broker_quotes_appears_nowhere(
    mechanism: str, tell: Callable[[str, dict[str, Any]], str], caplog: pytest.LogCaptureFixture
) -> None:
    config = {"sasl.mechanism": mechanism, "sasl.username": "alice", "sasl.password": MARK}
    seen = told_of_refusal(caplog, tell, config)
    assert MARK not in seen
    assert "***, indeed" in seen
    assert mechanism != "PLAIN" or f"{REFUSAL} alice ***" in seen


@pytest.mark.parametrize("tell", TOLD.values(), ids=TOLD)
@pytest.mark.parametrize("token", [MARK, MARK * 500], ids=["short", "long"])
def test_token_that_the_broker_quotes_appears_nowhere(
    token: str, tell: Callable[[str, dict[str, Any]], str], caplog: pytest.LogCaptureFixture
) -> None:
    """A long one is cut by librdkafka."""
    seen = told_of_refusal(
        caplog, tell, {"sasl.mechanism": "OAUTHBEARER"}, on_oauth=lambda _: (token, time.time() + 3600)
    )
    assert MARK[:4] not in seen
    assert "Bearer ***" in seen


def can_be_set(name: str) -> bool:
    """Whether the linked librdkafka is built with what the property is of."""
    try:
        Config(lib.KA_PRODUCER, NOBODY, {name: MARK}, {})
    except kafka_async.ConfigError:
        return False
    return True


@pytest.mark.parametrize("name", [name for name in SECRETS if can_be_set(name)])
def test_any_secret_of_the_configuration_that_the_broker_quotes_appears_nowhere(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"sasl.mechanism": "PLAIN", "sasl.username": "alice", "sasl.password": "another", name: MARK}
    assert MARK not in told_of_refusal(caplog, told_to_consumer, config)


def test_longest_of_the_secrets_that_fit_is_hidden(caplog: pytest.LogCaptureFixture) -> None:
    config = {
        "sasl.mechanism": "PLAIN",
        "sasl.username": "alice",
        "sasl.password": MARK + "tail",
        "ssl.key.password": MARK,
        "ssl.keystore.password": MARK[:4],
    }
    seen = told_of_refusal(caplog, told_to_consumer, config)
    assert MARK[:4] not in seen
    assert "tail" not in seen


def test_web_token_that_librdkafka_fetched_itself_appears_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    config = {"sasl.mechanism": "PLAIN", "sasl.username": "alice", "sasl.password": "another"}
    seen = told_of_refusal(
        caplog,
        told_to_consumer,
        config,
        refuse=lambda _: REFUSAL.encode() + f"eyJhbGciOiJub25lIn0.{MARK}.{MARK}, indeed".encode(),
    )
    assert MARK not in seen
    assert f"{REFUSAL}***, indeed" in seen


def test_token_before_the_last_is_hidden_still(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    tokens: list[str] = []
    config = {"security.protocol": "sasl_plaintext", "sasl.mechanism": "OAUTHBEARER", "debug": "all"}

    def on_oauth(_: str) -> tuple[str, float]:
        tokens.append(f"{MARK}{len(tokens)}")
        return tokens[-1], time.time() + 2

    def refuse(_: bytes) -> bytes:
        return f"{REFUSAL}{tokens} of {len(tokens)}".encode()

    with sasl_broker(refuse) as servers, Producer(servers, config=config, on_oauth=on_oauth):
        wait_for(lambda: "['***', '***'] of 2" in caplog.text)
        assert MARK not in caplog.text
