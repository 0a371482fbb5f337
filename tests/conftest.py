"""Fixtures: the embedded cluster by default, a real broker where one is named."""

from __future__ import annotations

import logging
import os
import random
import signal
import uuid
from collections.abc import Iterator

import pytest

from kafka_async.testing import MockCluster

# A runner in the background of a shell inherits an ignored SIGINT, and so would the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REQUIRE_BROKER = os.environ.get("KAFKA_ASYNC_REQUIRE_BROKER") == "1"
BROKER = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos-seconds", type=float, default=20.0, help="how long tests of faults let them happen")
    parser.addoption("--chaos-seed", help="the seed of an earlier run, which printed it (default: a new one)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A longer chaos has a later limit."""
    for item in items:
        if "chaos_seconds" in getattr(item, "fixturenames", ()):
            limit = item.get_closest_marker("timeout")
            assert limit is not None
            item.add_marker(pytest.mark.timeout(limit.args[0] + config.getoption("--chaos-seconds")), append=False)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("broker") and not BROKER:
        if REQUIRE_BROKER:
            pytest.fail("a real Kafka is required: set KAFKA_BOOTSTRAP_SERVERS")
        pytest.skip("needs a real Kafka: set KAFKA_BOOTSTRAP_SERVERS")


@pytest.fixture(autouse=True)
def _logger() -> Iterator[None]:
    """The command line sets the logger up for a process of its own."""
    logger = logging.getLogger("kafka_async")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    with MockCluster() as cluster:
        yield cluster


@pytest.fixture
def topic() -> str:
    """A name that no other test uses."""
    return f"t-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def one(cluster: MockCluster, topic: str) -> str:
    """A topic of one partition."""
    cluster.create_topic(topic, 1)
    return topic


@pytest.fixture
def chaos_seconds(request: pytest.FixtureRequest) -> float:
    seconds: float = request.config.getoption("--chaos-seconds")
    return seconds


@pytest.fixture
def chaos_seed(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--chaos-seed") or random.randrange(10**6))


@pytest.fixture
def broker() -> str:
    assert BROKER
    return BROKER
