from __future__ import annotations

import logging

import pytest
from support import NOBODY, read, reader, run_python, send_all, wait_for

from kafka_async import Consumer, Producer
from kafka_async.testing import MockCluster


def test_librdkafkas_lines_reach_logging(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "kafka_async"), Producer(NOBODY, config={"client.id": "log-test"}):
        wait_for(lambda: any("log-test" in record.message for record in caplog.records))
    record = next(record for record in caplog.records if "log-test" in record.message)
    assert record.name == "kafka_async"
    assert record.levelno >= logging.ERROR
    assert "Connection refused" in record.message


def test_log_false_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), Producer(NOBODY, "t", config={"client.id": "mute"}, log=False) as quiet:
        with Producer(NOBODY, config={"client.id": "loud"}):
            wait_for(lambda: any("loud" in record.message for record in caplog.records))
        quiet.metrics()
    assert not any("mute" in record.message for record in caplog.records)


def test_nothing_goes_to_stderr_without_logging() -> None:
    done = run_python(
        """
        import sys
        from kafka_async import Producer, Consumer
        with Producer(sys.argv[1]), Consumer(sys.argv[1], "t") as consumer:
            consumer.poll_message(0.5)
        """,
        NOBODY,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_exceptions_of_callbacks_go_to_stderr_without_logging() -> None:
    done = run_python(
        """
        from kafka_async import Producer
        from kafka_async.testing import MockCluster
        with MockCluster(topics={"t": 1}) as cluster, Producer(cluster.bootstrap_servers, "t") as producer:
            producer.send(b"v", on_delivery=lambda report: 1 / 0)
        """
    )
    assert done.returncode == 0
    assert "a delivery callback raised an exception" in done.stderr
    assert "ZeroDivisionError" in done.stderr


def test_full_ring_loses_lines_and_counts_them() -> None:
    """Without a reader nothing blocks, and the loss is known."""
    done = run_python(
        """
        import sys
        from kafka_async import _log
        from kafka_async._native import ffi, lib
        from kafka_async import Producer
        from kafka_async.testing import MockCluster
        _log.start = lambda: None
        with MockCluster(topics={"t": 4}) as cluster:
            lost = 0
            with Producer(cluster.bootstrap_servers, "t", config={"debug": "all"}) as producer:
                while not lost:
                    producer.send(b"v")
                    producer.flush()
                    lost = lib.ka_log_lost()
        line, count = ffi.new("ka_log_line *"), 0
        while lib.ka_log_next(line) == lib.KA_OK:
            count += 1
        assert count > 1000, count
        """,
        limit=50,
    )
    assert done.returncode == 0, done.stderr


def test_commits_that_fail_are_told_once_and_once_more_when_they_succeed(
    cluster: MockCluster, one: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"auto.offset.reset": "earliest", "auto.commit.interval.ms": 20}
    send_all(cluster.bootstrap_servers, one, [b"0"])

    def told() -> list[str]:
        return [
            record.getMessage().partition(" ")[2] for record in caplog.records if " COMMIT: " in record.getMessage()
        ]

    with caplog.at_level(logging.INFO, "kafka_async"):
        with Consumer(cluster.bootstrap_servers, one, group_id=one, config=config) as consumer:
            read(consumer, 1)
            cluster.fail_next("OffsetCommit", ["GROUP_AUTHORIZATION_FAILED"] * 10)
            wait_for(lambda: consumer.poll_message(0.01) or len(told()) > 1)
        assert len(told()) == 2, told()
        assert "may be seen again" in told()[0]
        assert told()[1] == "COMMIT: commits succeed again"


@pytest.mark.parametrize("kind", ["producer", "consumer"])
def test_broken_connection_is_told_once(
    cluster: MockCluster, one: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """librdkafka logs it, and then reports it as an error, which would be logged again."""

    def told(text: str) -> list[str]:
        return [line for record in caplog.records if text in (line := record.getMessage())]

    with caplog.at_level(logging.INFO, "kafka_async"):
        client: Producer | Consumer
        if kind == "producer":
            client = Producer(cluster.bootstrap_servers, one)
            client.warm_up()
        else:
            client = reader(cluster.bootstrap_servers, one)
            assert client.watermarks(one, 0) == (0, 0)
        cluster.broker_down(1)
        wait_for(lambda: told("brokers are down") and told("refused"))
        client.stop()
        lines = told("refused")
    assert all(" FAIL: " in line for line in lines), lines
