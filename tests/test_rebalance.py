from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from support import send_all

from kafka_async import Consumer, TopicPartition, _rebalance
from kafka_async.testing import MockCluster

LIMIT_S = 20.0  # the embedded cluster's first join takes 3 s


def test_a_callback_that_an_interrupt_came_before_runs_at_the_next_poll(
    cluster: MockCluster, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.create_topic(topic, 2)
    send_all(cluster.bootstrap_servers, topic, [b"1", b"2"])
    told: list[list[TopicPartition]] = []
    fetch: Callable[..., Any] = _rebalance.fetch

    def interrupted(call: object) -> None:  # noqa: ARG001
        monkeypatch.setattr(_rebalance, "fetch", fetch)
        raise KeyboardInterrupt

    monkeypatch.setattr(_rebalance, "fetch", interrupted)
    with Consumer(
        cluster.bootstrap_servers,
        topic,
        group_id=topic,
        config={"auto.offset.reset": "earliest"},
        on_assign=lambda _, partitions: told.append(partitions),
    ) as consumer:
        with pytest.raises(KeyboardInterrupt):
            consumer.poll_message(LIMIT_S)
        assert told == []
        values = set()
        deadline = time.monotonic() + LIMIT_S
        while len(values) < 2:
            assert time.monotonic() < deadline
            if (message := consumer.poll_message(0.1)) is not None:
                assert told
                values.add(message.value)
    assert told == [[TopicPartition(topic, 0), TopicPartition(topic, 1)]]
    assert values == {b"1", b"2"}
