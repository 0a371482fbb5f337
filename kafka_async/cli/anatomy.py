"""Where the time of a message goes, drawn as one bar for each percentile."""

from __future__ import annotations

from collections.abc import Sequence

from kafka_async.cli.terminal import duration
from kafka_async.metrics import ConsumerHops, LatencySummary, ProducerHops

_WIDTH = 48
_SHADES = "█▓▒░"
PERCENTILES = {"p50": "p50", "p90": "p90", "p99": "p99", "p99.9": "p999"}

Part = tuple[str, LatencySummary]


def producer_parts(hops: ProducerHops) -> list[Part]:
    """List the parts of the way from acceptance to delivery.

    Parameters
    ----------
    hops : ProducerHops
        Of a producer.

    Returns
    -------
    list of (str, LatencySummary)
        In their order.
    """
    return [
        ("native queue", hops.ring),
        ("librdkafka's queue", hops.queue),
        ("network and broker", hops.wire),
        ("until counted", hops.report),
    ]


def consumer_parts(hops: ConsumerHops) -> list[Part]:
    """List the parts of the way from a record's timestamp to the application.

    Parameters
    ----------
    hops : ConsumerHops
        Of a consumer.

    Returns
    -------
    list of (str, LatencySummary)
        In their order.
    """
    return [("until it arrives", hops.arrival), ("native queue", hops.ring), ("until handed out", hops.block)]


def draw(parts: Sequence[Part]) -> list[str]:
    """Draw a bar for each percentile: its shades are the shares of that percentile of the parts.

    Parameters
    ----------
    parts : sequence of (str, LatencySummary)
        Up to four, each with its name.

    Returns
    -------
    list of str
        A line for each percentile, ended by the sum of its parts, and one that explains the shades. None where
        nothing was measured.
    """
    if not any(summary.count for _, summary in parts):
        return []
    lines = []
    for title, name in PERCENTILES.items():
        times = [getattr(summary, name) for _, summary in parts]
        lines.append(f"{title:<6}{_bar(times):<{_WIDTH}}{duration(sum(times)):>10}")
    return [*lines, "      " + "   ".join(f"{shade} {name}" for shade, (name, _) in zip(_SHADES, parts, strict=False))]


def _bar(times: Sequence[float]) -> str:
    """Round the places where parts meet, not the parts: so the bar is full and no part is off by more than one."""
    whole = sum(times) or 1.0
    ends = [round(_WIDTH * sum(times[: number + 1]) / whole) for number in range(len(times))]
    return "".join(shade * (end - begin) for shade, begin, end in zip(_SHADES, [0, *ends[:-1]], ends, strict=False))
