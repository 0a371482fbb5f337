"""Access control: what needs no group works where every group is denied, and what is denied is told by its name."""

from __future__ import annotations

import asyncio
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

from kafka_async import (
    Consumer,
    ConsumerError,
    DeliveryError,
    KafkaError,
    Producer,
    TopicPartition,
    TransactionError,
    aio,
)

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
def denied(
    servers: str,
    kind: ResourceType,
    name: str,
    operation: AclOperation = AclOperation.ALL,
    permission: AclPermissionType = AclPermissionType.DENY,
) -> Iterator[None]:
    """Deny it to everybody for a while."""
    admin = AdminClient({"bootstrap.servers": servers})
    where = (kind, name, ResourcePatternType.LITERAL, "User:*", "*", operation, permission)
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
    assert "group 'a group'" in str(error)
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


def test_producer_is_told_which_topic_is_denied(servers: str, topic: str) -> None:
    create_topic(servers, topic, 1)
    with denied(servers, ResourceType.TOPIC, topic, AclOperation.WRITE):
        producer = Producer(servers)
        delivery = producer.submit(b"x", topic=topic)
        producer.send(b"y", topic=topic)
        with pytest.raises(DeliveryError, match=f"topic '{topic}'.*TOPIC_AUTHORIZATION_FAILED"):
            delivery.result(LIMIT_S)
        with pytest.raises(DeliveryError, match=f"topic '{topic}'.*TOPIC_AUTHORIZATION_FAILED"):
            producer.stop()
    with (
        denied(servers, ResourceType.TOPIC, topic),
        Producer(servers) as producer,
        pytest.raises(KafkaError, match=f"topic '{topic}'.*TOPIC_AUTHORIZATION_FAILED"),
    ):
        producer.warm_up(topic)


def test_denied_idempotence_names_the_cluster(servers: str, topic: str) -> None:
    create_topic(servers, topic, 1)
    cluster, topics = (ResourceType.BROKER, "kafka-cluster"), (ResourceType.TOPIC, "*")
    with (
        # Or all the rest would be denied too, to the broker itself as well.
        denied(servers, *cluster, AclOperation.ALL, AclPermissionType.ALLOW),
        denied(servers, *topics, AclOperation.ALL, AclPermissionType.ALLOW),
        denied(servers, *cluster, AclOperation.IDEMPOTENT_WRITE),
        denied(servers, *topics, AclOperation.WRITE),  # who may write somewhere may be idempotent
    ):
        producer = Producer(servers, topic, config={"enable.idempotence": True})
        delivery = producer.submit(b"x")
        with pytest.raises(DeliveryError, match=r"Cluster .*IDEMPOTENT_WRITE") as caught:
            delivery.result(LIMIT_S)
        assert caught.value.fatal
        producer.send(b"y")
        with pytest.raises(DeliveryError, match=r"Cluster .*IDEMPOTENT_WRITE"):
            producer.stop()
        assert (producer.metrics().failed, producer.metrics().purged) == (2, 0)


def test_denied_transaction_names_the_transactional_id(servers: str, topic: str) -> None:
    with (
        denied(servers, ResourceType.TRANSACTIONAL_ID, topic),
        Producer(servers, config={"transactional.id": topic}) as producer,
        pytest.raises(TransactionError, match=f"transactional.id '{topic}'") as caught,
    ):
        producer.init_transactions(LIMIT_S)
    assert caught.value.name == "TRANSACTIONAL_ID_AUTHORIZATION_FAILED"


def test_transaction_names_the_topic_that_is_denied(servers: str, topic: str) -> None:
    create_topic(servers, topic, 1)
    with (
        denied(servers, ResourceType.TOPIC, topic, AclOperation.WRITE),
        Producer(servers, topic, config={"transactional.id": topic}) as producer,
    ):
        producer.init_transactions(LIMIT_S)
        producer.begin_transaction()
        delivery = producer.submit(b"x")
        with pytest.raises(DeliveryError, match=f"topic '{topic}'.*TOPIC_AUTHORIZATION_FAILED"):
            delivery.result(LIMIT_S)
        with pytest.raises(TransactionError) as caught:
            producer.commit_transaction(LIMIT_S)
        assert caught.value.requires_abort
        producer.abort_transaction(LIMIT_S)


def test_transaction_names_the_group_that_is_denied(servers: str, topic: str) -> None:
    create_topic(servers, topic, 1)
    group = f"group-{topic}"
    config = {"enable.auto.commit": False}
    with (
        Consumer(servers, group_id=group, config=config) as consumer,
        Producer(servers, config={"transactional.id": topic}) as producer,
    ):
        producer.init_transactions(LIMIT_S)
        with denied(servers, ResourceType.GROUP, group):
            producer.begin_transaction()
            with pytest.raises(TransactionError, match=f"group '{group}'") as caught:
                producer.send_offsets_to_transaction(consumer, [TopicPartition(topic, 0, 1)], LIMIT_S)
            producer.abort_transaction(LIMIT_S)
    assert caught.value.name == "GROUP_AUTHORIZATION_FAILED"


def test_commit_and_its_question_name_the_group_that_is_denied(servers: str, topic: str) -> None:
    create_topic(servers, topic, 1)
    group = f"group-{topic}"
    with denied(servers, ResourceType.GROUP, group), Consumer(servers, group_id=group) as consumer:
        with pytest.raises(ConsumerError, match=f"group '{group}'.*GROUP_AUTHORIZATION_FAILED"):
            consumer.commit(offsets=[TopicPartition(topic, 0, 1)], timeout=LIMIT_S)
        with pytest.raises(ConsumerError, match=f"group '{group}'.*GROUP_AUTHORIZATION_FAILED"):
            consumer.committed([TopicPartition(topic, 0)], timeout=LIMIT_S)


def test_asyncio_is_told_what_is_denied(servers: str, topic: str) -> None:
    async def use() -> None:
        async with aio.Producer(servers, topic) as producer:
            with pytest.raises(DeliveryError, match=f"topic '{topic}'.*TOPIC_AUTHORIZATION_FAILED"):
                await producer.send(b"x")
        async with aio.Consumer(servers, topic, group_id=f"group-{topic}") as consumer:
            with pytest.raises(ConsumerError, match=f"group 'group-{topic}'.*GROUP_AUTHORIZATION_FAILED"):
                await consumer.poll_message(LIMIT_S)

    create_topic(servers, topic, 1)
    with (
        denied(servers, ResourceType.TOPIC, topic, AclOperation.WRITE),
        denied(servers, ResourceType.GROUP, f"group-{topic}"),
    ):
        asyncio.run(use())
