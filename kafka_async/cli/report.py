"""The demo's last lines: counts, speed, latencies, and a verdict."""

from __future__ import annotations

from kafka_async.cli.anatomy import Part, consumer_parts, draw, producer_parts
from kafka_async.cli.exchange import Exchange
from kafka_async.cli.histogram import Latencies
from kafka_async.cli.terminal import Screen, duration, megabytes
from kafka_async.metrics import LatencySummary


def report(screen: Screen, exchange: Exchange, *, complete: bool) -> bool:
    """Print what happened.

    Parameters
    ----------
    screen : Screen
        Where to.
    exchange : Exchange
        After its run.
    complete : bool
        False: it was ended early, so what is not received is not lost.

    Returns
    -------
    bool
        True: every message came back unchanged, once and in order.
    """
    verdict = _faults(exchange, complete=complete)
    _counts(screen, exchange, complete=complete)
    _latencies(screen, exchange)
    if not complete:
        screen.out("ended early: what was on its way is not counted as lost", "yellow")
    if verdict:
        screen.out(f"FAILED: {', '.join(verdict)}", "bold red")
    elif complete:
        screen.out("every message came back unchanged, once, and in its partition's order", "bold green")
    return not verdict


def _counts(screen: Screen, exchange: Exchange, *, complete: bool) -> None:
    verifier = exchange.verifier
    lines = [
        ("sent", exchange.sent),
        ("delivered", exchange.metrics.delivered),
        ("received", verifier.received),
        ("lost" if complete else "on the way", exchange.sent - verifier.distinct),
        ("duplicated", verifier.duplicated),
        ("out of order", verifier.out_of_order),
        ("altered", verifier.altered),
    ]
    screen.out()
    for name, count in lines:
        screen.out(f"{name:<13}{count:>12,}")
    rate = verifier.received / exchange.seconds if exchange.seconds else 0.0
    amount = megabytes(rate * exchange.plan.size)
    screen.out(f"{'messages/s':<13}{rate:>12,.0f}   {amount}/s, {exchange.seconds:.2f} s in all")


def _latencies(screen: Screen, exchange: Exchange) -> None:
    screen.out()
    screen.out(f"{'latency':<16}{'p50':>9}{'p90':>9}{'p99':>9}{'p99.9':>9}{'max':>9}", "bold")
    _latency_row(screen, "send call", _summary(exchange.send_call))
    _latency_row(screen, "acknowledgement", exchange.metrics.ack_latency)
    _latency_row(screen, "end to end", _summary(exchange.end_to_end))
    screen.out()
    if exchange.plan.rate:
        screen.out(f"sending fell behind its schedule by {duration(exchange.late_ns / 1e9)} at most")
    else:
        screen.out("at full speed, waiting behind other messages included; --rate 2000 shows a steady load")
    if exchange.end_to_end.count:
        screen.out()
        screen.out("end to end, messages by latency", "bold")
        for line in exchange.end_to_end.draw():
            screen.out(line)
        screen.out()
    _anatomy(screen, "from send to its acknowledgement", producer_parts(exchange.metrics.hops))
    _anatomy(
        screen, "from a message's timestamp (in ms) to poll_message", consumer_parts(exchange.consumer_metrics.hops)
    )


def _anatomy(screen: Screen, way: str, parts: list[Part]) -> None:
    if lines := draw(parts):
        screen.out(f"where the time goes {way}, marks included", "bold")
        for line in lines:
            screen.out(line)
        screen.out()


def _latency_row(screen: Screen, name: str, summary: LatencySummary) -> None:
    times = (summary.p50, summary.p90, summary.p99, summary.p999, summary.max)
    screen.out(f"{name:<16}" + "".join(f"{duration(time):>9}" for time in times))


def _summary(latencies: Latencies) -> LatencySummary:
    p50, p90, p99, p999 = map(latencies.percentile, (50, 90, 99, 99.9))
    return LatencySummary(latencies.count, 0.0, p50, p90, p99, p999, latencies.max_ns / 1e9)


def _faults(exchange: Exchange, *, complete: bool) -> list[str]:
    verifier = exchange.verifier
    lost = exchange.sent - verifier.distinct if complete else 0
    counts = {
        "lost": lost,
        "duplicated": verifier.duplicated,
        "out of order": verifier.out_of_order,
        "altered": verifier.altered,
    }
    faults = [f"{count:,} {name}" for name, count in counts.items() if count]
    unsent = exchange.plan.messages - exchange.sent
    if complete and unsent:
        faults.append(f"{unsent:,} never sent")
    return faults + ([exchange.trouble] if exchange.trouble else [])
