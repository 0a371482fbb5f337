"""The broker that the tests launch, and docker-compose.yml, which must run the same."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from kafka_server import SETTINGS, KafkaServer, addresses

ROOT = Path(__file__).parent.parent


def compose_service() -> dict[str, Any]:
    service: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["kafka"]
    return service


def test_compose_sets_what_the_launcher_sets() -> None:
    # Apache's image turns KAFKA_NODE_ID into node.id.
    properties = {
        name.removeprefix("KAFKA_").replace("_", ".").lower(): value
        for name, value in compose_service()["environment"].items()
    }
    placed = addresses(9092, 9093).keys()
    assert {name: value for name, value in properties.items() if name not in placed} == SETTINGS
    assert properties.keys() >= placed


def test_compose_publishes_the_port_it_advertises() -> None:
    service = compose_service()
    assert service["ports"] == ["127.0.0.1:9092:9092"]
    assert service["environment"]["KAFKA_ADVERTISED_LISTENERS"] == "PLAINTEXT://localhost:9092"
    assert "localhost:9092" in service["healthcheck"]["test"]


def test_compose_runs_the_version_that_the_jars_have() -> None:
    pom = (ROOT / "script" / "kafka-pom.xml").read_text()
    jars = set(re.findall(r"<artifactId>kafka(?:_[\d.]+|-tools)</artifactId>\s*<version>(.*?)</version>", pom))
    assert jars == {compose_service()["image"].removeprefix("apache/kafka:")}


@pytest.mark.broker
def test_restarted_broker_keeps_its_port_and_gets_a_new_process() -> None:
    if "KAFKA_ASYNC_KAFKA_LIBS" not in os.environ:
        pytest.skip("the broker in use does not run from jars")
    with KafkaServer() as kafka:
        servers, pid = kafka.bootstrap_servers, kafka.pid
        kafka.restart()
        assert kafka.bootstrap_servers == servers
        assert kafka.pid != pid
        assert "ERROR" not in kafka.log()


def test_launcher_without_jars_says_where_they_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_ASYNC_KAFKA_LIBS", raising=False)
    with pytest.raises(ValueError, match="script/kafka-jars"):
        KafkaServer()
