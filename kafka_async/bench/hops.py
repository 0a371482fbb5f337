"""The hops of a message, through a sample's numbers and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kafka_async.bench.timing import Values
from kafka_async.metrics import ConsumerHops, LatencySummary, ProducerHops

_KINDS: dict[str, type[ProducerHops] | type[ConsumerHops]] = {"producer": ProducerHops, "consumer": ConsumerHops}
_FIELDS = [field.name for field in dataclasses.fields(LatencySummary)]


def hops(kind: str, measured: ProducerHops | ConsumerHops) -> Values:
    """Name each number, as ``producer.ring.p50``; in seconds."""
    return {
        f"{kind}.{hop.name}.{name}": getattr(getattr(measured, hop.name), name)
        for hop in dataclasses.fields(measured)
        for name in _FIELDS
    }


def from_values(kind: str, values: Mapping[str, float]) -> Any:
    """Put the numbers together again; None where there are none."""
    if f"{kind}.ring.count" not in values:
        return None

    def summary(hop: str) -> LatencySummary:
        numbers: dict[str, Any] = {name: values[f"{kind}.{hop}.{name}"] for name in _FIELDS}
        return LatencySummary(**numbers)

    return _KINDS[kind](*(summary(hop.name) for hop in dataclasses.fields(_KINDS[kind])))
