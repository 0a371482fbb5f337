"""Whatever happens to the broker and the network, nothing acknowledged is missing, and every message is accounted for.

``pytest tests/broker/test_chaos.py -s --chaos-seconds 600 --chaos-seed 7`` goes on for ten minutes; the same seed gives
the same faults.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from chaos_clients import LIMIT_S, SENDERS, Alone, Committed, Group, Iterating, Reading, Sending
from chaos_faults import Faults
from chaos_log import PARTITIONS, faults, log_places, reading_faults
from kafka_server import KafkaServer
from other_client import Row, read_log
from real_kafka import broker_behind_proxy
from support import create_topic, wait_for
from tcp_proxy import TcpProxy

pytestmark = [pytest.mark.broker, pytest.mark.timeout(600)]

Client = Sending | Reading


@pytest.fixture
def behind() -> Iterator[tuple[KafkaServer, TcpProxy]]:
    with broker_behind_proxy(**{"group.min.session.timeout.ms": "1000"}) as behind:
        yield behind


class Running:
    """Clients in threads, which must not end by themselves."""

    def __init__(self, threads: ThreadPoolExecutor, clients: list[Client], stop: threading.Event) -> None:
        self._clients = clients
        self._jobs = [threads.submit(client.run, stop) for client in clients]

    def check(self) -> None:
        for job in self._jobs:
            if job.done():
                job.result()
                raise AssertionError("a client has ended")

    def wait_for_all(self, what: str) -> float:
        """Wait until every client has got on; how long that took."""
        began = time.monotonic()
        before = [client.progress() for client in self._clients]
        for client, count in zip(self._clients, before, strict=True):

            def got_on(client: Client = client, count: int = count) -> bool:
                self.check()
                return client.progress() > count

            wait_for(got_on, LIMIT_S, f"progress of {type(client).__name__} after {what}")
        return time.monotonic() - began

    def end(self) -> list[Future[None]]:
        return self._jobs


def test_chaos(behind: tuple[KafkaServer, TcpProxy], topic: str, chaos_seconds: float, chaos_seed: str) -> None:
    kafka, proxy = behind
    print(f"\n--chaos-seconds {chaos_seconds:g} --chaos-seed {chaos_seed}")
    senders = [kind(proxy.address, topic, chaos_seed) for kind in SENDERS]
    for sender in senders:
        create_topic(proxy.address, sender.topic, PARTITIONS)
    topics = [sender.topic for sender in senders if sender.isolation == "read_uncommitted"]
    transactional = [sender.topic for sender in senders if sender.topic not in topics]
    readers = [kind(proxy.address, topics, chaos_seed) for kind in (Alone, Iterating, Group)]
    readers.append(Committed(proxy.address, transactional, chaos_seed))

    stop_sending, stop_reading = threading.Event(), threading.Event()
    with ThreadPoolExecutor(len(senders) + len(readers)) as threads:
        try:
            reading = Running(threads, [*readers], stop_reading)
            sending = Running(threads, [*senders], stop_sending)
            began = time.monotonic()
            survive(Faults(kafka, proxy, chaos_seed), (sending, reading), chaos_seconds)
            stop_sending.set()
            for job in sending.end():
                job.result(2 * LIMIT_S)
            sent_s = time.monotonic() - began
            logs = {
                sender.topic: read_log(proxy.address, sender.topic, isolation=sender.isolation) for sender in senders
            }
            ends = {place: offsets[-1] for place, offsets in log_places(logs).items()}
            for reader in readers:
                wait_for(
                    lambda reader=reader: has_all(reader, ends, reading), LIMIT_S, f"all for {type(reader).__name__}"
                )  # type: ignore[misc]
        finally:
            stop_sending.set()
            stop_reading.set()
        for job in reading.end():
            job.result(LIMIT_S)
    judge(senders, readers, logs, sent_s)


def has_all(reader: Reading, ends: dict[tuple[str, int], int], reading: Running) -> bool:
    reading.check()
    return reader.has({place: last for place, last in ends.items() if place[0] in reader.topics})


def survive(faults: Faults, running: tuple[Running, ...], seconds: float) -> None:
    """Let fault after fault happen; now and then one comes before the clients have recovered from the last."""
    for clients in running:
        clients.wait_for_all("the start")
    began = time.monotonic()
    worst = 0.0
    while (at := time.monotonic() - began) < seconds:
        what = faults.next()
        print(f"{at:6.1f} s  {what}", end="", flush=True)
        if faults.is_patient():
            recovered_s = max(clients.wait_for_all(what) for clients in running)
            worst = max(worst, recovered_s)
            print(f"; all got on within {recovered_s:.1f} s", end="")
        print(flush=True)
    print(f"{faults.counts.total()} faults {dict(faults.counts)}, recovery {worst:.1f} s at most")


def judge(senders: list[Sending], readers: list[Reading], logs: dict[str, list[Row]], sent_s: float) -> None:
    found: dict[str, object] = {}
    for sender in senders:
        name, told, log = type(sender).__name__, sender.account, logs[sender.topic]
        copies = len(log) - len({row.value for row in log})
        print(
            f"{name}: {told.accepted} sent ({told.accepted / sent_s:.0f}/s), {len(told.delivered)} delivered, "
            f"{len(told.failed)} failed {sorted(set(told.failed.values()))}, {len(told.purged)} purged, "
            f"{len(told.banned)} aborted, {len(told.whole)} transactions in doubt, "
            f"{len(log)} in the log, {copies} of them twice; {len(sender.lives)} producers"
        )
        found[name] = faults(log, told), sender.disagreements()
        assert told.delivered
    for reader in readers:
        mine = {topic: rows for topic, rows in logs.items() if topic in reader.topics}
        print(f"{type(reader).__name__}: {reader.progress()} read of {sum(map(len, mine.values()))}")
        values = {(topic, row.partition, row.offset): int(row.value or b"-1") for topic in mine for row in mine[topic]}
        altered = [place for place, number in reader.numbers.items() if values.get(place) != number]
        found[type(reader).__name__] = reading_faults(log_places(mine), reader.places, once=reader.once), altered
    wrong = {name: what for name, what in found.items() if any(what)}  # type: ignore[call-overload]
    assert not wrong, {name: str(what)[:2000] for name, what in wrong.items()}
