"""Which native functions the facade calls."""

from __future__ import annotations

from collections import Counter
from types import ModuleType
from typing import Any

import pytest

import kafka_async.producer
from kafka_async._native import lib


class Recorder:
    """Stands for `lib` and counts the calls of its functions."""

    def __init__(self) -> None:
        self.called: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        function = getattr(lib, name)
        if not callable(function):
            return function

        def call(*args: Any) -> Any:
            self.called[name] += 1
            return function(*args)

        return call


def record(monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> Counter[str]:
    """Count what these modules call from now on, and what producers send."""
    recorder = Recorder()
    for module in modules:
        monkeypatch.setattr(module, "lib", recorder)
    monkeypatch.setattr(kafka_async._producer, "_send_record", recorder.ka_producer_send_record)
    return recorder.called


def record_producer(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count what producers call from now on."""
    return record(monkeypatch, kafka_async.producer, kafka_async._producer, kafka_async._batch, kafka_async._delivery)
