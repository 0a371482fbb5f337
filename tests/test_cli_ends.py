"""Signals and readers that go away end the command line cleanly, with nothing accepted left unsent."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest
from cli_process import LIMIT_S, QUICK, interrupt, read_line, run, start

from kafka_async import Consumer, Producer
from kafka_async.testing import MockCluster

# The embedded cluster lets a group whose last member left wait for the session timeout.
REJOIN = ["-X", "session.timeout.ms=4000", "-X", "heartbeat.interval.ms=500"]


@pytest.fixture
def where(cluster: MockCluster, topic: str) -> tuple[str, ...]:
    cluster.create_topic(topic, 1)
    return ("-t", topic, "--bootstrap-servers", cluster.bootstrap_servers)


def fill(cluster: MockCluster, topic: str, values: list[bytes]) -> None:
    with Producer(cluster.bootstrap_servers, topic) as producer:
        for value in values:
            producer.send(value)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_produce_delivers_what_it_accepted_before_a_signal(
    cluster: MockCluster, topic: str, where: tuple[str, ...], number: int
) -> None:
    with start("produce", *where, "-X", "linger.ms=300") as process:
        assert process.stdin is not None
        process.stdin.write(b"".join(b"%d\n" % n for n in range(1000)) + b"an unfinished line")
        config = {"auto.offset.reset": "earliest", "fetch.wait.max.ms": 1}
        with Consumer(cluster.bootstrap_servers, topic, config=config) as consumer:
            assert consumer.poll_message(20)  # it has begun
            _, errors = interrupt(process, number)
            rest = [consumer.poll_message(10) for _ in range(999)]
            assert consumer.poll_message(0.2) is None
        assert process.returncode == 128 + number, errors
        assert [m.value for m in rest if m] == [b"%d" % n for n in range(1, 1000)]
        assert b"1,000 delivered, 0 failed, 0 unsent" in errors
        assert b"Traceback" not in errors


@contextlib.contextmanager
def producing_to_a_cluster_that_went_away(topic: str, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    """One line is delivered, then the brokers are gone."""
    with MockCluster(topics={topic: 1}) as cluster:
        servers = cluster.bootstrap_servers
        with start("produce", "-t", topic, "--bootstrap-servers", servers, *args) as process:
            assert process.stdin is not None
            process.stdin.write(b"first\n")
            config = {"auto.offset.reset": "earliest", "fetch.wait.max.ms": 1}
            with Consumer(servers, topic, config=config) as consumer:
                assert consumer.poll_message(20)
            cluster.stop()
            yield process


def test_produce_gives_up_on_a_second_signal_and_counts_what_is_unsent(topic: str) -> None:
    with producing_to_a_cluster_that_went_away(topic) as process:
        assert process.stdin is not None
        process.stdin.write(b"12345678\n" * 50_000)  # more than a pipe holds: so a part of it was accepted
        process.send_signal(signal.SIGINT)
        errors = b""
        while b"a second signal gives up" not in errors:
            errors += read_line(process.stderr)
        _, rest = interrupt(process)
    assert process.returncode == 1
    unsent = re.search(rb"([\d,]+) unsent: the waiting for them was ended", rest)
    assert unsent
    assert int(unsent[1].replace(b",", b"")) > 40_000
    assert b"Traceback" not in errors + rest


def test_produce_tells_how_many_failed_and_why(topic: str) -> None:
    with producing_to_a_cluster_that_went_away(topic, "-X", "message.timeout.ms=1000") as process:
        _, errors = process.communicate(b"a\nb\nc\n", LIMIT_S)
    assert process.returncode == 1
    assert b"1 delivered, 3 failed, 0 unsent" in errors
    assert b"3 not delivered: " in errors
    assert b"_MSG_TIMED_OUT" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_consume_ends_on_a_signal(cluster: MockCluster, topic: str, where: tuple[str, ...], number: int) -> None:
    fill(cluster, topic, [b"1", b"2"])
    with start("consume", *where, "--from-beginning", *QUICK) as process:
        assert [read_line(process.stdout) for _ in range(2)] == [b"1\n", b"2\n"]
        output, errors = interrupt(process, number)
        assert process.returncode == 128 + number
        assert output == b""
        assert errors.startswith(b"2 messages")
        assert errors.count(b"\n") == 1


def test_consume_ends_on_a_signal_while_its_reader_does_not_read(
    cluster: MockCluster, topic: str, where: tuple[str, ...]
) -> None:
    fill(cluster, topic, [b"x" * 100_000] * 10)  # more than a pipe holds
    with start("consume", *where, "--from-beginning", *QUICK) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        process.wait(LIMIT_S)
        process.communicate()
        assert process.returncode == 130


def test_consume_ends_when_its_reader_goes_away(cluster: MockCluster, topic: str, where: tuple[str, ...]) -> None:
    fill(cluster, topic, [b"line"] * 50_000)
    with start("consume", *where, "--from-beginning", *QUICK) as process:
        assert process.stdout is not None
        read_line(process.stdout)
        process.stdout.close()
        assert process.wait(LIMIT_S) == 0
        assert process.stderr is not None
        errors = process.stderr.read()
        assert b"Traceback" not in errors
        assert b"BrokenPipe" not in errors


def test_consume_notices_that_its_reader_went_away_while_nothing_comes(
    cluster: MockCluster, topic: str, where: tuple[str, ...]
) -> None:
    fill(cluster, topic, [b"only one"])
    with start("consume", *where, "--from-beginning", *QUICK) as process:
        assert process.stdout is not None
        read_line(process.stdout)
        process.stdout.close()
        assert process.wait(LIMIT_S) == 0


def test_a_group_goes_on_where_a_signal_ended_it(cluster: MockCluster, topic: str, where: tuple[str, ...]) -> None:
    fill(cluster, topic, [b"%d" % n for n in range(5)])
    group = ("-g", "g", "--from-beginning", *QUICK, *REJOIN)
    with start("consume", *where, *group) as process:
        assert [read_line(process.stdout) for _ in range(5)] == [b"%d\n" % n for n in range(5)]
        interrupt(process)
        assert process.returncode == 130
        fill(cluster, topic, [b"%d" % n for n in range(5, 8)])
        again = run("consume", *where, *group, "--count", "3")
        assert again.stdout == b"5\n6\n7\n"


def test_a_group_does_not_commit_what_could_not_be_written(
    cluster: MockCluster, topic: str, where: tuple[str, ...]
) -> None:
    size = 30_000
    fill(cluster, topic, [b"%02d" % n * (size // 2) for n in range(20)])
    group = ("-g", "g", "--from-beginning", *QUICK, *REJOIN)
    with start("consume", *where, *group) as process:
        assert process.stdout is not None
        read_line(process.stdout)
        process.stdout.close()
        assert process.wait(LIMIT_S) == 0
        again = run("consume", *where, *group, "--count", "1")
        # One line was read here, and the pipe may have taken as many more as fit into its 64 KiB.
        assert 1 <= int(again.stdout[:2]) <= (65536 + size + 1) // (size + 1)
