"""A child that is forked while clients of its parent resolve names can resolve names itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import run_python

TESTS = {"PYTHONPATH": str(Path(__file__).parent)}


def test_client_of_a_child_connects_whenever_it_was_forked() -> None:
    """In a network of its own, where the C library reads the machine's many addresses under a lock of its own."""
    done = run_python(
        """
        import ctypes, os, random, sys, time
        import forked, unresolved
        from kafka_async import Producer
        from kafka_async.testing import MockCluster

        CLONE_NEWNET, CLONE_NEWUSER = 0x40000000, 0x10000000
        if ctypes.CDLL(None).unshare(CLONE_NEWNET | (CLONE_NEWUSER if os.geteuid() else 0)):
            sys.exit("no network of its own")
        unresolved.bring_loopback_up(addresses=4000)
        with MockCluster(topics={"t": 1}) as cluster:
            numbers = cluster.bootstrap_servers
            for servers in [numbers, numbers.replace("127.0.0.1", "localhost")] * 6:
                parents = [Producer("localhost:1", "t", log=False) for _ in range(3)]
                time.sleep(random.random() * 0.003)
                if (child := os.fork()) == 0:
                    with Producer(servers, "t", config={"broker.address.family": "v4"}) as producer:
                        producer.send(b"v")
                        producer.flush(20)
                    os._exit(0)
                forked.wait(child)
                for producer in parents:
                    producer.stop()
        """,
        env=TESTS,
        limit=90,
    )
    if done.stderr == "no network of its own\n":
        pytest.skip("needs root or user namespaces")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
