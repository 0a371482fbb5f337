"""What is wrong is told in one line, with the exit status that says of which kind it is."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cli_process import COMMAND, run

from kafka_async.testing import MockCluster

COMMANDS = ["demo", "produce", "consume"]


def args(command: str, servers: str) -> tuple[str, ...]:
    topic = () if command == "demo" else ("-t", "t")
    return (command, *topic, "--bootstrap-servers", servers)


def check(done: subprocess.CompletedProcess[bytes], status: int, *texts: str) -> None:
    errors = done.stderr.decode()
    assert done.returncode == status, errors
    assert errors.count("\n") == 1
    for text in texts:
        assert text in errors


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_property_is_named(command: str, cluster: MockCluster) -> None:
    check(run(*args(command, cluster.bootstrap_servers), "-X", "no.such.property=1"), 2, "no.such.property")


@pytest.mark.parametrize("command", ["produce", "consume"])
def test_bad_property_is_told_though_no_broker_is_there(command: str) -> None:
    check(run(*args(command, "localhost:1"), "-X", "socket.timeout.ms=soon"), 2, "socket.timeout.ms")


@pytest.mark.parametrize("command", COMMANDS)
def test_unreachable_broker_is_told_at_once(command: str) -> None:
    check(run(*args(command, "localhost:1")), 1, "no broker can be reached", "localhost:1", "refused")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("command", COMMANDS)
def test_closed_stream_is_nothing_to_fail_of(command: str, stream: str, cluster: MockCluster) -> None:
    """But for consume, which has to print what it reads."""
    cluster.create_topic("t")
    options = {"consume": ["--exit", "--from-beginning"], "demo": ["--messages", "100"]}.get(command, [])
    closing = f"import os, sys; os.close({1 if stream == 'stdout' else 2}); os.execv(sys.executable, sys.argv[1:])"
    done = run(*args(command, cluster.bootstrap_servers), *options, command=[sys.executable, "-c", closing, *COMMAND])
    if (command, stream) == ("consume", "stdout"):
        check(done, 1, "no standard output")
    else:
        assert (done.returncode, b"Traceback" in done.stdout + done.stderr) == (0, False)


@pytest.mark.parametrize("command", COMMANDS)
def test_property_without_value_is_a_usage_error(command: str) -> None:
    done = run(*args(command, "localhost:1"), "-X", "linger.ms")
    assert done.returncode == 2
    assert b"'linger.ms' is not PROP=VALUE" in done.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        ["demo", "--size", "23"],
        ["demo", "--messages", "0"],
        ["demo", "--messages", "many"],
        ["demo", "--rate", "-1"],
        ["produce"],
        ["produce", "-t", ""],
        ["produce", "-t", "t", "-k", ""],
        ["consume", "-t", "t", "--count", "0"],
        ["fly"],
        [],
    ],
)
def test_wrong_arguments_are_usage_errors(wrong: list[str]) -> None:
    done = run(*wrong)
    assert done.returncode == 2
    assert b"usage:" in done.stderr
    assert b"Traceback" not in done.stderr


def test_impossible_topic_is_a_usage_error(cluster: MockCluster) -> None:
    check(run("produce", "-t", "no spaces", "--bootstrap-servers", cluster.bootstrap_servers), 2, "no spaces")


def test_line_that_is_too_long_is_refused_and_those_before_are_sent(cluster: MockCluster, topic: str) -> None:
    lines = b"first\n" + b"x" * 2_000_000 + b"\nlast\n"
    done = run("produce", "-t", topic, "--bootstrap-servers", cluster.bootstrap_servers, stdin=lines)
    assert done.returncode == 1
    assert b"line 2 was refused" in done.stderr
    assert b"message.max.bytes" in done.stderr
    assert b"1 delivered" in done.stderr


def test_demo_message_that_is_too_large_is_told() -> None:
    check(run("demo", "--size", "3000000"), 1, "message.max.bytes")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_exit_statuses(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert b"exit status:" in done.stdout


@pytest.mark.broker
def test_unknown_topic_is_told(broker: str, topic: str) -> None:
    check(run("consume", "-t", topic, "--bootstrap-servers", broker), 1, topic, "UNKNOWN_TOPIC_OR_PART")
