"""Access control: what needs no group works where every group is denied, and what is denied is told by its name."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer as ConfluentConsumer
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from kafka_server import KafkaServer
from real_kafka import own_broker
from support import create_topic, read, reader, send_all, wait_for

from kafka_async import Consumer, ConsumerError

pytestmark = pytest.mark.broker

LIMIT_S = 15
EARLIEST = {"auto.offset.reset": "earliest"}
AUTHORIZER = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",  # the broker itself, and what no test denies
}


@pytest.fixture(scope="module")
def kafka() -> Iterator[KafkaServer]:
    with own_broker(**AUTHORIZER) as server:
        yield server


@pytest.fixture
def servers(kafka: KafkaServer) -> str:
    return kafka.bootstrap_servers


@contextlib.contextmanager
def denied(servers: str, kind: ResourceType, name: str, operation: AclOperation = AclOperation.ALL) -> Iterator[None]:
    """Deny it to everybody for a while."""
    admin = AdminClient({"bootstrap.servers": servers})
    where = (kind, name, ResourcePatternType.LITERAL, "User:*", "*", operation, AclPermissionType.DENY)
    binding = AclBinding(*where)
    admin.create_acls([binding])[binding].result(LIMIT_S)
    wait_for(lambda: admin.describe_acls(AclBindingFilter(*where)).result(LIMIT_S), LIMIT_S)
    try:
        yield
    finally:
        every = AclBindingFilter(*where)
        admin.delete_acls([every])[every].result(LIMIT_S)


def told_to_confluent(consumer: ConfluentConsumer) -> str:
    """What a member of a group comes upon that nobody here wrote."""
    message = consumer.poll(0.1)
    return str(message.error().name()) if message is not None and message.error() else ""


@pytest.fixture
def no_group(servers: str, topic: str) -> Iterator[None]:
    create_topic(servers, topic, 3)
    with denied(servers, ResourceType.GROUP, "*"):
        consumer = ConfluentConsumer({"bootstrap.servers": servers, "group.id": "any"})
        consumer.subscribe([topic])
        wait_for(lambda: told_to_confluent(consumer) == "GROUP_AUTHORIZATION_FAILED", LIMIT_S)
        consumer.close()
        yield


def poll_error(consumer: Consumer) -> ConsumerError:
    """The error that polling comes upon."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        try:
            assert consumer.poll_message(0.1) is None
        except ConsumerError as error:
            return error
    raise AssertionError(f"no error within {LIMIT_S} s")


def fill(servers: str, topic: str, partitions: int = 3) -> list[bytes]:
    values = [b"%d %d" % (partition, number) for partition in range(partitions) for number in range(50)]
    for partition in range(partitions):
        send_all(servers, topic, values[50 * partition :][:50], partition=partition)
    return values


@pytest.mark.usefixtures("no_group")
def test_without_a_group_every_partition_is_read(servers: str, topic: str) -> None:
    values = fill(servers, topic)
    with reader(servers, topic) as consumer:
        assert sorted(message.value or b"" for message in read(consumer, 150)) == sorted(values)
        # No error comes late, and what is new is read too.
        assert consumer.poll_message(1.0) is None
        send_all(servers, topic, [b"new"])
        assert read(consumer, 1)[0].value == b"new"


@pytest.mark.usefixtures("no_group")
def test_without_a_group_latest_begins_at_the_end(servers: str, topic: str) -> None:
    fill(servers, topic)
    with Consumer(servers, topic, config={"auto.offset.reset": "latest"}) as consumer:
        found: list[bytes | None] = []

        def reads_probes() -> bool:
            send_all(servers, topic, [b"probe"] * 3)
            if (message := consumer.poll_message(0.1)) is not None:
                found.append(message.value)
            return bool(found)

        wait_for(reads_probes, LIMIT_S)
    assert found == [b"probe"]


@pytest.mark.usefixtures("no_group")
def test_member_of_a_denied_group_is_told(servers: str, topic: str) -> None:
    fill(servers, topic)
    with Consumer(servers, topic, group_id="a group", config=EARLIEST) as consumer:
        error = poll_error(consumer)
    assert error.name == "GROUP_AUTHORIZATION_FAILED"
    assert not error.retriable


@pytest.mark.parametrize("group_id", [None, "allowed"])
@pytest.mark.parametrize("operation", [AclOperation.READ, AclOperation.ALL])
def test_denied_topic_is_told_by_its_name(
    servers: str, topic: str, group_id: str | None, operation: AclOperation
) -> None:
    """One that may be seen and not read, and one that may not be seen; the other topic is read all the same."""
    other = f"{topic}-other"
    for name in (topic, other):
        create_topic(servers, name, 1)
        send_all(servers, name, [b"1", b"2"])
    with (
        denied(servers, ResourceType.TOPIC, topic, operation),
        Consumer(servers, [topic, other], group_id=group_id, config=EARLIEST) as consumer,
    ):
        found: list[bytes | None] = []
        caught: list[ConsumerError] = []
        deadline = time.monotonic() + LIMIT_S
        while len(found) < 2 or not caught:
            assert time.monotonic() < deadline, f"{found} {caught}"
            try:
                if (message := consumer.poll_message(0.1)) is not None:
                    assert message.topic == other
                    found.append(message.value)
            except ConsumerError as error:
                caught.append(error)
    assert found == [b"1", b"2"]
    assert {error.name for error in caught} == {"TOPIC_AUTHORIZATION_FAILED"}
    assert all(topic in str(error) for error in caught)
    assert all(error.partition is None or error.partition.topic == topic for error in caught)
