from __future__ import annotations

import logging

import pytest
from support import NOBODY, run_python, wait_for

from kafka_async import Producer


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
