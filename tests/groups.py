"""Consumer groups of every kind, on a broker that lets them be quick, and what tests do with members."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from kafka_server import KafkaServer
from real_kafka import own_broker
from support import create_topic, send_all, wait_for

import kafka_async
from kafka_async import Consumer, Message, TopicPartition

LIMIT_S = 20.0
CLASSIC = ("range", "cooperative-sticky")
KINDS = (*CLASSIC, "consumer")
EVERY_KIND = ("roundrobin", *KINDS)  # by its effects it is the same as range

# With group.protocol=consumer the broker sets the pace.
_BROKER = {
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "3000",
    "group.consumer.min.heartbeat.interval.ms": "100",
    "group.consumer.heartbeat.interval.ms": "100",
    "group.consumer.regex.refresh.interval.ms": "10000",
}


@pytest.fixture(scope="module", name="server")
def group_server() -> Iterator[KafkaServer]:
    with own_broker(**_BROKER) as server:
        yield server


@pytest.fixture(name="kafka")
def group_kafka(server: KafkaServer) -> str:
    return server.bootstrap_servers


@pytest.fixture(params=KINDS, name="kind")
def group_kind(request: pytest.FixtureRequest) -> str:
    """Assignor, or the protocol that has none."""
    kind: str = request.param
    if kind == "consumer" and version() < (2, 12):
        pytest.skip("group.protocol=consumer needs librdkafka 2.12")
    return kind


def version() -> tuple[int, ...]:
    return tuple(int(number) for number in kafka_async.librdkafka_version.split(".")[:2])


def group_config(kind: str, **more: Any) -> dict[str, Any]:
    """A member's config; more has _ for each dot, and session_timeout_ms falls away where the broker sets it."""
    config = {name.replace("_", "."): value for name, value in more.items()}
    if kind == "consumer":
        config.pop("session.timeout.ms", None)
        own: dict[str, Any] = {"group.protocol": "consumer"}
    else:
        own = {"partition.assignment.strategy": kind, "heartbeat.interval.ms": 100}
    return {"auto.offset.reset": "earliest", **own, **config}


def filled(servers: str, topic: str, partitions: int, each: int) -> None:
    """A topic whose partitions hold b"0", b"1" ... each."""
    create_topic(servers, topic, partitions)
    for number in range(partitions):
        send_all(servers, topic, [b"%d" % value for value in range(each)], partition=number)


def poll_until(condition: Callable[[], object], *consumers: Consumer, limit: float = LIMIT_S) -> list[Message]:
    """Poll them in turn until it holds; all that they handed out."""
    messages = []
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit} s; {len(messages)} messages"
        for consumer in consumers:
            if (message := consumer.poll_message(0.01)) is not None:
                messages.append(message)
    return messages


def places(messages: list[Message]) -> list[tuple[int, int]]:
    return [(message.partition, message.offset) for message in messages]


def owned(consumer: Consumer) -> set[int]:
    return {item.partition for item in consumer.assignment()}


class Seen:
    """What a member's callbacks saw, in order, and on which thread."""

    def __init__(self) -> None:
        self.events: list[tuple[str, list[TopicPartition]]] = []
        self.threads: list[int] = []
        self.act: dict[str, Callable[[Consumer, list[TopicPartition]], object]] = {}

    def options(self, *names: str) -> dict[str, Any]:
        """Arguments for a Consumer; by default all three."""
        return {name: self._callback(name) for name in names or ("on_assign", "on_revoke", "on_lost")}

    def _callback(self, name: str) -> Callable[[Consumer, list[TopicPartition]], None]:
        def callback(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            self.events.append((name, partitions))
            self.threads.append(threading.get_ident())
            if name in self.act:
                self.act[name](consumer, partitions)

        return callback

    def names(self) -> list[str]:
        return [name for name, _ in self.events]

    def count(self, name: str) -> int:
        return self.names().count(name)

    def last(self, name: str) -> list[TopicPartition]:
        return [partitions for seen, partitions in self.events if seen == name][-1]


def members(servers: str, group: str) -> list[Any]:
    admin = AdminClient({"bootstrap.servers": servers})
    return list(admin.describe_consumer_groups([group])[group].result(LIMIT_S).members)


def fence(servers: str, group: str, kind: str, client: str | None = None) -> None:
    """Throw a member out, the one with this client.id, as a broker that missed its heartbeats would."""
    (member,) = [member for member in members(servers, group) if client in (None, member.client_id)]
    if kind == "consumer":  # ConsumerGroupHeartbeat with the epoch of one who leaves
        body = _compact(group) + _compact(member.member_id) + struct.pack(">i", -1) + b"\0\0"
        _request(servers, 68, 0, b"\0" + body + struct.pack(">i", -1) + b"\0\0\0\0")
    else:  # LeaveGroup
        _request(servers, 13, 0, _string(group) + _string(member.member_id))


def _string(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


def _compact(text: str) -> bytes:
    assert len(text) < 127
    return bytes([len(text) + 1]) + text.encode()


def _request(servers: str, api: int, version: int, body: bytes) -> None:
    host, port = servers.split(":")
    message = struct.pack(">hhi", api, version, 1) + _string("test") + body
    with socket.create_connection((host, int(port)), LIMIT_S) as connection:
        connection.sendall(struct.pack(">i", len(message)) + message)
        (size,) = struct.unpack(">i", _receive(connection, 4))
        answer = _receive(connection, size)
    # Behind correlation id, tags of a flexible header, and the throttle time, each where there is one.
    error = struct.unpack_from(">h", answer, 9 if api == 68 else 4)[0]
    assert error == 0, f"error {error} of Kafka"


def _receive(connection: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        assert part, "Kafka closed the connection"
        parts += part
    return parts


def wait_for_committed(servers: str, group: str, topic: str, offsets: dict[int, int]) -> None:
    """Wait until the group has committed these."""
    wait_for(lambda: committed(servers, group, topic, list(offsets)) == offsets, LIMIT_S)


def committed(servers: str, group: str, topic: str, partitions: list[int]) -> dict[int, int | None]:
    """As another client of the group sees it."""
    asker = Consumer(servers, group_id=group, config={"enable.auto.commit": False}, log=False)
    with asker:
        found = asker.committed([TopicPartition(topic, number) for number in partitions], LIMIT_S)
    return {item.partition: item.offset for item in found}  # type: ignore[misc]
