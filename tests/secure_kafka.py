"""A real Kafka that wants certificates or passwords: one broker, a listener for each way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from certificates import Authority
from kafka_server import HOST, KafkaServer, free_port
from real_kafka import own_broker
from support import create_topic

HOST_NAME = "localhost"
USER, PASSWORD = "alice", "alice-secret"
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
# Of a listener's name, its protocol. SHORTAGE knows one mechanism.
LISTENERS = {
    "TLS": "SSL",
    "MUTUAL": "SSL",
    "EXPIRED": "SSL",
    "ELSEWHERE": "SSL",
    "SASL_TLS": "SASL_SSL",
    "SASL_PLAIN": "SASL_PLAINTEXT",
    "SHORTAGE": "SASL_PLAINTEXT",
}
_PLAIN = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


class SecureKafka:
    """Where its listeners are, and what clients need to know for them.

    Parameters
    ----------
    server
        The broker.
    ports
        Of each listener.
    folder
        Of the certificates.
    authority, stranger
        Who signed the broker's certificates, and who did not.
    """

    def __init__(
        self, server: KafkaServer, ports: Mapping[str, int], folder: Path, authority: Authority, stranger: Authority
    ) -> None:
        self.server = server
        self.folder = folder
        self._ports = ports
        self.authority = authority
        self.stranger = stranger

    @property
    def plaintext(self) -> str:
        """The listener that wants nothing."""
        return self.server.bootstrap_servers

    def address(self, listener: str) -> str:
        return f"{HOST_NAME}:{self._ports[listener]}"

    def tls(self, authority: Authority | None = None) -> dict[str, str]:
        """The settings of a client that checks the broker's certificate."""
        return {"security.protocol": "ssl", "ssl.ca.location": str((authority or self.authority).certificate), **_IPV4}

    def mutual(self) -> dict[str, str]:
        """The settings of a client that has a certificate too."""
        chain, key = self.authority.issue("client.example")
        return {**self.tls(), "ssl.certificate.location": str(chain), "ssl.key.location": str(key)}

    def sasl(self, mechanism: str, password: str = PASSWORD, *, tls: bool = True) -> dict[str, str]:
        """The settings of a client that has a password."""
        names = {"sasl.mechanism": mechanism, "sasl.username": USER, "sasl.password": password}
        if tls:
            return {**self.tls(), **names, "security.protocol": "sasl_ssl"}
        return {**names, "security.protocol": "sasl_plaintext", **_IPV4}


_IPV4 = {"broker.address.family": "v4"}  # HOST_NAME may have another address, where nobody listens


@contextlib.contextmanager
def secure_kafka(folder: Path, **properties: str) -> Iterator[SecureKafka]:
    """Run a broker with all of `LISTENERS`, and one without security."""
    authority, stranger = Authority(folder, "authority"), Authority(folder, "stranger")
    ports: dict[str, int] = {}
    for name in ("PLAINTEXT", "CONTROLLER", *LISTENERS):
        ports[name] = free_port(ports.values())
    settings = {**_listeners(ports), **_tls(authority), **_sasl(), **properties}
    scram = [
        word
        for mechanism in MECHANISMS[1:]
        for word in ("--add-scram", f"{mechanism}=[name={USER},password={PASSWORD}]")
    ]
    with own_broker(port=ports["PLAINTEXT"], format_options=scram, **settings) as server:
        yield SecureKafka(server, ports, folder, authority, stranger)


def _listeners(ports: Mapping[str, int]) -> dict[str, str]:
    hosts = {name: HOST if name in ("PLAINTEXT", "CONTROLLER") else HOST_NAME for name in ports}
    urls = {name: f"{name}://{hosts[name]}:{port}" for name, port in ports.items()}
    protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **LISTENERS}
    return {
        "listeners": ",".join(urls.values()),
        "advertised.listeners": ",".join(url for name, url in urls.items() if name != "CONTROLLER"),
        "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
        "controller.quorum.voters": f"1@{HOST}:{ports['CONTROLLER']}",
    }


def _tls(authority: Authority) -> dict[str, str]:
    good = authority.issue(HOST_NAME)
    certificates = {
        **{name: good for name, protocol in LISTENERS.items() if protocol.endswith("SSL")},
        "EXPIRED": authority.issue(HOST_NAME, days=-1),
        "ELSEWHERE": authority.issue("elsewhere.example"),
    }
    settings = {"listener.name.mutual.ssl.client.auth": "required"}
    for name, (chain, key) in certificates.items():
        store = chain.with_name(f"{name}.store")
        store.write_bytes(key.read_bytes() + chain.read_bytes())
        prefix = f"listener.name.{name.lower()}.ssl"
        settings |= {
            f"{prefix}.keystore.type": "PEM",
            f"{prefix}.keystore.location": str(store),
            f"{prefix}.truststore.type": "PEM",
            f"{prefix}.truststore.location": str(authority.certificate),
        }
    return settings


def _sasl() -> dict[str, str]:
    settings = {}
    for name, protocol in LISTENERS.items():
        if not protocol.startswith("SASL"):
            continue
        prefix = f"listener.name.{name.lower()}"
        mechanisms = MECHANISMS[:1] if name == "SHORTAGE" else MECHANISMS
        settings[f"{prefix}.sasl.enabled.mechanisms"] = ",".join(mechanisms)
        for mechanism in mechanisms:
            module = _PLAIN if mechanism == "PLAIN" else _SCRAM
            settings[f"{prefix}.{mechanism.lower()}.sasl.jaas.config"] = module
    return settings


@pytest.fixture(scope="module", name="kafka")
def secure_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """One for all tests of the module that imports it."""
    with secure_kafka(tmp_path_factory.mktemp("certificates")) as server:
        yield server


@pytest.fixture(name="topic")
def secure_topic(kafka: SecureKafka, topic: str) -> str:
    """A topic of that broker, which no other test uses."""
    create_topic(kafka.plaintext, topic, 1)
    return topic
