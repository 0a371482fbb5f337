"""A broker that goes away and comes back, as who is on call sees it: a few clear lines, and clients that recover."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import pytest
from kafka_server import KafkaServer
from real_kafka import broker_behind_proxy
from support import create_topic, read, reader, send_all
from tcp_proxy import TcpProxy

from kafka_async import Consumer, Producer

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]

LIMIT_S = 60.0
AWAY_S = 8.0
LINES = 8  # of a client, about a broker that is away for a while


@pytest.fixture(scope="module")
def behind() -> Iterator[tuple[KafkaServer, TcpProxy]]:
    with broker_behind_proxy() as behind:
        yield behind


@pytest.fixture
def proxy(behind: tuple[KafkaServer, TcpProxy], topic: str) -> TcpProxy:
    create_topic(behind[1].address, topic, 1)
    return behind[1]


def by_client(caplog: pytest.LogCaptureFixture) -> dict[str, list[str]]:
    """Lines at INFO and above, by the client's name."""
    lines: dict[str, list[str]] = {}
    for record in caplog.records:
        if record.name == "kafka_async":
            client, _, text = record.getMessage().partition(" ")
            lines.setdefault(client, []).append(f"{record.levelname} {text}")
    return lines


def test_broker_away_is_told_in_a_few_lines(proxy: TcpProxy, topic: str, caplog: pytest.LogCaptureFixture) -> None:
    servers = proxy.address
    # Its commits fail meanwhile, many times.
    often = {"auto.offset.reset": "earliest", "auto.commit.interval.ms": 100}
    with (
        Producer(servers, topic) as producer,
        Consumer(servers, topic, group_id=topic, config=often) as consumer,
        reader(servers, topic) as alone,
    ):
        producer.send(b"0")
        producer.flush(LIMIT_S)
        assert [read(each, 1, LIMIT_S)[0].value for each in (consumer, alone)] == [b"0", b"0"]
        with caplog.at_level(logging.INFO, "kafka_async"):
            with proxy.refusing():
                producer.send(b"1")
                assert consumer.poll_message(AWAY_S) is None
            producer.flush(LIMIT_S)
            assert [read(each, 1, LIMIT_S)[0].value for each in (consumer, alone)] == [b"1", b"1"]
            assert consumer.poll_message(2) is None  # time for a commit
    told = by_client(caplog)
    print("\n".join(f"{client}: {line}" for client, lines in told.items() for line in lines))
    assert len(told) == 3
    for client, lines in told.items():
        assert any(servers in line and "refused" in line for line in lines), (client, lines)
        assert len(lines) <= LINES, (client, lines)
        texts = [line.partition(servers)[2] for line in lines if servers in line and "GroupCoordinator" not in line]
        assert len(set(texts)) == len(texts), (client, lines)


def test_consumers_with_half_open_connections_recover(proxy: TcpProxy, topic: str) -> None:
    """The way back is gone and nobody says so: a request that has no answer for socket.timeout.ms gives it up."""
    servers = proxy.address
    quick: dict[str, str | int | float | bool] = {"auto.offset.reset": "earliest", "socket.timeout.ms": 2000}
    with (
        reader(servers, topic, config=quick) as alone,
        Consumer(servers, topic, group_id=topic, config=quick) as consumer,
    ):
        send_all(servers, topic, [b"0"])
        assert [read(each, 1, LIMIT_S)[0].value for each in (alone, consumer)] == [b"0", b"0"]
        assert proxy.forget() >= 2
        send_all(servers, topic, [b"1"])
        began = time.monotonic()
        assert [read(each, 1, LIMIT_S)[0].value for each in (alone, consumer)] == [b"1", b"1"]
        print(f"recovered within {time.monotonic() - began:.1f} s")
        assert consumer.commit()[0].offset == 2
        assert alone.poll_message(0.2) is None
        assert consumer.poll_message(0.2) is None


def test_producer_with_half_open_connections_recovers(proxy: TcpProxy, topic: str) -> None:
    config = {"socket.timeout.ms": 2000, "enable.idempotence": True}
    with Producer(proxy.address, topic, config=config) as producer:
        producer.send(b"0")
        producer.flush(LIMIT_S)
        assert proxy.forget() >= 1
        producer.send(b"1")
        producer.flush(LIMIT_S)
    with reader(proxy.address, topic) as consumer:
        assert [message.value for message in read(consumer, 2)] == [b"0", b"1"]
        assert consumer.poll_message(0.2) is None
