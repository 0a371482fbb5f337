"""The pytest fixture ``kafka_cluster``; `kafka_async.testing` tells how to get it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kafka_async.testing import MockCluster


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known.

    Parameters
    ----------
    config : pytest.Config
        pytest's.
    """
    config.addinivalue_line(
        "markers", "kafka_cluster(brokers=1, topics=None): arguments for the fixture of that name, a MockCluster"
    )


@pytest.fixture
def kafka_cluster(request: pytest.FixtureRequest) -> Iterator[MockCluster]:
    """Run an embedded Kafka cluster for one test.

    Parameters
    ----------
    request : pytest.FixtureRequest
        The test; its marker ``kafka_cluster`` has the arguments for `MockCluster`.

    Yields
    ------
    MockCluster
        A running one, stopped after the test.
    """
    marker = request.node.get_closest_marker("kafka_cluster")
    args, kwargs = (marker.args, marker.kwargs) if marker else ((), {})
    with MockCluster(*args, **kwargs) as cluster:
        yield cluster
