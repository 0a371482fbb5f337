"""``produce`` and ``consume``: what goes in comes out, byte for byte."""

from __future__ import annotations

import random

import pytest
from cli_process import QUICK, run

from kafka_async import Consumer
from kafka_async.testing import MockCluster

ODD = {
    "text": b"one\ntwo\nthree\n",
    "empty lines": b"\n\none\n\n\n",
    "carriage returns": b"dos\r\n\r\n\rmac\r\n",
    "binary": bytes(set(range(256)) - {10}) + b"\n\xff\xfe\x00\n\x00\n",
    "not UTF-8": b"\xc3\x28\n\xed\xa0\x80\n",
    "long lines": b"x" * 900_000 + b"\n" + b"y" * 70_000 + b"\n",
    "many": b"".join(b"%d\n" % number for number in range(50_000)),
    "random": random.Random(7).randbytes(300_000) + b"\n",
}


@pytest.mark.parametrize("lines", ODD.values(), ids=ODD.keys())
def test_what_is_produced_is_consumed_byte_for_byte(cluster: MockCluster, topic: str, lines: bytes) -> None:
    cluster.create_topic(topic, 1)
    where = ("-t", topic, "--bootstrap-servers", cluster.bootstrap_servers)
    produced = run("produce", *where, stdin=lines)
    assert produced.returncode == 0, produced.stderr
    count = str(lines.count(b"\n"))
    consumed = run("consume", *where, "--from-beginning", "--count", count, *QUICK)
    assert consumed.returncode == 0, consumed.stderr
    assert consumed.stdout == lines
    assert b"messages" in consumed.stderr  # the summary


def test_last_line_may_lack_its_line_feed(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 1)
    where = ("-t", topic, "--bootstrap-servers", cluster.bootstrap_servers)
    assert run("produce", *where, stdin=b"first\nlast").returncode == 0
    assert run("consume", *where, "--from-beginning", "--count", "2", *QUICK).stdout == b"first\nlast\n"


def test_nothing_is_produced_of_nothing(cluster: MockCluster, topic: str) -> None:
    produced = run("produce", "-t", topic, "--bootstrap-servers", cluster.bootstrap_servers)
    assert produced.returncode == 0
    assert produced.stderr.startswith(b"0 messages")


@pytest.mark.parametrize("separator", [":", "=>", "\t", "é"])
def test_first_separator_splits_key_and_value(cluster: MockCluster, topic: str, separator: str) -> None:
    cluster.create_topic(topic, 1)
    mark = separator.encode()
    lines = [b"k" + mark + b"v", mark + b"no key bytes", b"k" + mark, b"neither", b"k" + mark + b"v" + mark + b"w"]
    produced = run(
        "produce",
        "-t",
        topic,
        "-k",
        separator,
        "--bootstrap-servers",
        cluster.bootstrap_servers,
        stdin=b"\n".join(lines),
    )
    assert produced.returncode == 0, produced.stderr
    config = {"auto.offset.reset": "earliest", "fetch.wait.max.ms": 1}
    with Consumer(cluster.bootstrap_servers, topic, config=config) as consumer:
        messages = [consumer.poll_message(20) for _ in lines]
    assert [(message.key, message.value) for message in messages if message] == [
        (b"k", b"v"),
        (b"", b"no key bytes"),
        (b"k", b""),
        (None, b"neither"),
        (b"k", b"v" + mark + b"w"),
    ]


def test_exit_ends_at_the_end_of_every_partition(cluster: MockCluster, topic: str) -> None:
    cluster.create_topic(topic, 3)
    where = ("-t", topic, "--bootstrap-servers", cluster.bootstrap_servers)
    lines = [b"%d" % number for number in range(1000)]
    assert run("produce", *where, stdin=b"\n".join(lines)).returncode == 0
    consumed = run("consume", *where, "--from-beginning", "--exit", *QUICK)
    assert consumed.returncode == 0
    assert sorted(consumed.stdout.split()) == sorted(lines)


def test_quiet_is_quiet(cluster: MockCluster, topic: str) -> None:
    where = ("-t", topic, "--bootstrap-servers", cluster.bootstrap_servers, "-q")
    assert run("produce", *where, stdin=b"x").stderr == b""
    consumed = run("consume", *where, "--from-beginning", "--count", "1", *QUICK)
    assert (consumed.stdout, consumed.stderr) == (b"x\n", b"")


@pytest.mark.broker
def test_round_trip_through_a_real_kafka(broker: str, topic: str) -> None:
    where = ("-t", topic, "--bootstrap-servers", broker)
    lines = b"".join(ODD.values())
    assert run("produce", *where, stdin=lines).returncode == 0
    consumed = run("consume", *where, "--from-beginning", "--exit")
    assert consumed.returncode == 0
    assert consumed.stdout == lines
