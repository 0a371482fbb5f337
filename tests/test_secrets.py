"""Secrets of a configuration appear nowhere: not in errors, logs, reprs or metrics, however they are given."""

from __future__ import annotations

import contextlib
import logging
import re
import traceback
from typing import Any

import pytest
import trustme
from support import NOBODY, run_python

import kafka_async
from kafka_async import Consumer, Producer

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
