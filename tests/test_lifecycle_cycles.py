"""A thousand objects made, used and stopped leave no thread, no descriptor and no memory behind.

``KAFKA_ASYNC_TIMES=20 pytest -s tests/test_lifecycle_cycles.py`` makes 20,000.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from shared_cluster import shared_cluster as shared_cluster

from kafka_async.testing import MockCluster

TIMES = int(os.environ.get("KAFKA_ASYNC_TIMES", "1"))
PROGRAM = Path(__file__).with_name("cycles.py")
LEAST_LEAK = 4096  # bytes a cycle that would be seen; the smallest object of ours is larger


def cycles(cluster: MockCluster, topic: str, count: int, leak: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), cluster.bootstrap_servers, topic, str(count), str(leak)],
        capture_output=True,
        text=True,
        timeout=120 * TIMES,
        check=False,
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},  # each arena that a new thread meets would look like a leak
        cwd=tempfile.gettempdir(),
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    print(f"{count} cycles: {done.stdout}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.timeout(130 * TIMES)
def test_a_thousand_cycles_leave_nothing_behind(cluster: MockCluster, one: str) -> None:
    result = cycles(cluster, one, 1000 * TIMES, 0)
    assert (result["threads"], result["descriptors"]) == (0, 0)
    assert result["bytes"] < LEAST_LEAK / 2


@pytest.mark.timeout(130)
def test_a_leak_would_be_seen(cluster: MockCluster, one: str) -> None:
    assert cycles(cluster, one, 300, LEAST_LEAK)["bytes"] > LEAST_LEAK / 2
