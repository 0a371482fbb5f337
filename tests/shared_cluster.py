"""The fixture `cluster`, one for all tests of the module that imports it: closing one takes up to a second."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kafka_async.testing import MockCluster


@pytest.fixture(scope="module", name="cluster")
def shared_cluster() -> Iterator[MockCluster]:
    with MockCluster() as cluster:
        yield cluster
