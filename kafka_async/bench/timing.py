"""Clocks, paces, and what becomes of many times: the same for every client."""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence

Values = dict[str, float]

#: Percentiles that a sample tells, in the order in which a curve is drawn.
PERCENTS = (1, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99, 100)

_SLACK_NS = 1
_PR_SET_TIMERSLACK = 29


def percentiles(times_ns: Sequence[float]) -> Values:
    """Sum up durations.

    Parameters
    ----------
    times_ns : sequence of float
        At least one, in nanoseconds.

    Returns
    -------
    dict of str to float
        ``"p50"`` and so on, in microseconds: the least time that so many per cent do not exceed.
    """
    ordered = sorted(times_ns)
    return {f"p{percent:g}": ordered[math.ceil(len(ordered) * percent / 100) - 1] / 1000 for percent in PERCENTS}


def queued(times_ns: Sequence[int], period_ns: float) -> list[float]:
    """Turn times of calls into latencies of an open loop: a call that overruns makes the next ones begin late.

    What delays the caller between calls (its own timer, another thread that has the GIL) is not the client's.

    Parameters
    ----------
    times_ns : sequence of int
        How long each call took, in order.
    period_ns : float
        When the next one is due.

    Returns
    -------
    list of float
        How long after it was due each had returned.
    """
    latencies, late = [], 0.0
    for took in times_ns:
        latencies.append(late + took)
        late = max(0.0, latencies[-1] - period_ns)
    return latencies


def exact_timers() -> None:
    """Have this thread woken when it is due, not up to 50 us later (Linux)."""
    with contextlib.suppress(OSError, AttributeError, ImportError):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, _SLACK_NS)


def pace(rate: float, seconds: float) -> Iterator[int]:
    """Wait for one moment after the other.

    Parameters
    ----------
    rate : float
        Moments a second.
    seconds : float
        For how long.

    Yields
    ------
    int
        When it was due, as `time.monotonic_ns` counts; at once where that is over.
    """
    begin = time.monotonic_ns()
    for number in range(int(rate * seconds)):
        due = begin + int(number * 1e9 / rate)
        while (left := due - time.monotonic_ns()) > 0:
            time.sleep(left / 1e9)
        yield due


@contextlib.contextmanager
def busy_thread() -> Iterator[None]:
    """Keep a second Python thread computing, so that whoever releases the GIL waits for it."""
    ended = threading.Event()

    def compute() -> None:
        while not ended.is_set():
            sum(range(100))

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def with_cores(measure: Callable[[], Values]) -> Values:
    """Measure, and tell how many cores were busy meanwhile: this process's threads', and the whole machine's.

    Where the machine's are all there are, they limit what came out, and not one thread alone.

    Parameters
    ----------
    measure : callable
        What takes some time.

    Returns
    -------
    dict of str to float
        With ``"own_cores"`` and, on Linux, ``"all_cores"``.
    """
    begin, own, machine = time.perf_counter(), time.process_time(), _machine_s()
    values = measure()
    took = time.perf_counter() - begin
    values["own_cores"] = (time.process_time() - own) / took
    if machine is not None and (now := _machine_s()) is not None:
        values["all_cores"] = (now - machine) / took
    return values


def _machine_s() -> float | None:
    """CPU time that all processes together have used, in seconds."""
    try:
        first = pathlib.Path("/proc/stat").read_text().partition("\n")[0]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq = map(int, first.split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
