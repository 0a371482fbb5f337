"""Three brokers, every message on at least two of them: the leader is killed, again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from chaos_clients import BURST, LIMIT_S, PACE_S, Alone, Awaited, Idempotent, Sending, Told
from chaos_log import PARTITIONS, faults, log_places, reading_faults
from confluent_kafka.admin import AdminClient
from kafka_server import KafkaCluster
from other_client import read_log
from real_kafka import SETTINGS, need_jars
from support import create_topic, wait_for

from kafka_async import Producer

pytestmark = [pytest.mark.broker, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    need_jars()
    with KafkaCluster(properties=SETTINGS) as cluster:
        yield cluster


class Topic:
    """What the cluster says of a topic's first partition."""

    def __init__(self, servers: str, topic: str) -> None:
        self._admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
        self._topic = topic

    def leader(self) -> int:
        return int(self._partition().leader)

    def in_sync(self) -> int:
        return len(self._partition().isrs)

    def _partition(self):  # type: ignore[no-untyped-def]
        return self._admin.list_topics(self._topic, 30).topics[self._topic].partitions[0]


def test_leader_killed_again_and_again_loses_nothing_acknowledged(
    cluster: KafkaCluster, topic: str, chaos_seconds: float
) -> None:
    servers = cluster.bootstrap_servers
    senders: list[Sending] = [kind(servers, topic, "") for kind in (Idempotent, Told, Awaited)]
    topics = [sender.topic for sender in senders]
    for name in topics:
        create_topic(servers, name, PARTITIONS, 3)
    reader = Alone(servers, topics, "")
    first = Topic(servers, topics[0])
    stop_sending, stop_reading = threading.Event(), threading.Event()
    with ThreadPoolExecutor() as threads:
        try:
            jobs = [threads.submit(sender.run, stop_sending) for sender in senders]
            reading = threads.submit(reader.run, stop_reading)
            waited = kill_leaders(cluster, first, senders, chaos_seconds)
            stop_sending.set()
            for job in jobs:
                job.result(2 * LIMIT_S)
            logs = {name: read_log(servers, name) for name in topics}
            ends = {place: offsets[-1] for place, offsets in log_places(logs).items()}
            wait_for(lambda: reader.has(ends), LIMIT_S, "all for the reader")
        finally:
            stop_sending.set()
            stop_reading.set()
        reading.result(LIMIT_S)
    print(f"\n{len(waited)} leaders killed; the flow was back within {max(waited):.1f} s at most")
    for sender in senders:
        told, log = sender.account, logs[sender.topic]
        print(f"{type(sender).__name__}: {told.accepted} sent, {len(told.delivered)} delivered, {len(log)} in the log")
        assert (faults(log, told), sender.disagreements()) == ({}, [])
    assert reading_faults(log_places(logs), reader.places, once=True) == {}


def kill_leaders(cluster: KafkaCluster, place: Topic, senders: list[Sending], seconds: float) -> list[float]:
    """Kill one after the other, at least two; how long it took each time until everything flowed again."""
    wait_for(lambda: all(sender.progress() > 100 for sender in senders), LIMIT_S, "a steady flow")
    began = time.monotonic()
    waited: list[float] = []
    while len(waited) < 2 or time.monotonic() < began + seconds:
        leader = place.leader()
        cluster.brokers[leader].kill()
        at = time.monotonic()
        for sender in senders:
            wait_for_flow(sender)
        waited.append(time.monotonic() - at)
        cluster.brokers[leader].start()
        wait_for(lambda: place.in_sync() == 3, LIMIT_S, "all replicas in sync")
    return waited


def wait_for_flow(sender: Sending) -> None:
    enough = sender.progress() + 10 * BURST  # more than what was acknowledged before, and not counted yet
    wait_for(lambda: sender.progress() > enough, LIMIT_S, f"{type(sender).__name__} with another leader")


def test_too_few_replicas_hold_messages_until_there_are_enough(cluster: KafkaCluster, topic: str) -> None:
    """With one broker left of the topic's three, nothing is acknowledged."""
    servers = cluster.bootstrap_servers
    create_topic(servers, topic, 1, 3, **{"min.insync.replicas": "3"})
    place = Topic(servers, topic)
    wait_for(lambda: place.in_sync() == 3, LIMIT_S, "all replicas in sync")
    (follower, *_) = {1, 2, 3} - {place.leader()}
    with Producer(servers, topic, config={"enable.idempotence": True}) as producer:
        producer.send(b"0")
        producer.flush(LIMIT_S)
        cluster.brokers[follower].kill()
        try:
            wait_for(lambda: place.in_sync() == 2, LIMIT_S, "the follower to be missed")
            delivery = producer.submit(b"1")
            time.sleep(50 * PACE_S)
            assert not delivery.done()
        finally:
            cluster.brokers[follower].start()
        assert delivery.result(LIMIT_S).offset == 1
    assert [row.value for row in read_log(servers, topic)] == [b"0", b"1"]
