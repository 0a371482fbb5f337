"""How threads wait for work, and which CPU a worker runs on: the arguments `idle` and `cpu`."""

from __future__ import annotations

import os
import threading
from typing import Literal

from kafka_async._native import lib

Idle = Literal["warm", "park", "spin"]

_MODES = {"warm": lib.KA_IDLE_WARM, "park": lib.KA_IDLE_PARK, "spin": lib.KA_IDLE_SPIN}
_MOST_CPUS = 8192  # Linux is built for at most so many


def native_idle(idle: Idle, cpu: int | None) -> tuple[int, bool, int]:
    """Check both arguments and bring them into the core's form.

    Parameters
    ----------
    idle : {"warm", "park", "spin"}
        How to wait.
    cpu : int or None
        The CPU for the worker, counted from 0; None leaves it to the system.

    Returns
    -------
    tuple of (int, bool, int)
        The fields ``idle``, ``bound`` and ``cpu`` of the native options.

    Raises
    ------
    TypeError
        `cpu` is no int.
    ValueError
        There is no such mode, this process may not use that CPU, or the system can't bind threads.
    """
    if not isinstance(idle, str) or idle not in _MODES:
        raise ValueError(f"idle must be 'warm', 'park' or 'spin', not {idle!r}")
    if cpu is None:
        return _MODES[idle], False, 0
    if isinstance(cpu, bool) or not isinstance(cpu, int):
        raise TypeError(f"cpu must be int or None, not {type(cpu).__name__}")
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError("cpu: this system can't bind a thread to a CPU (Linux can): leave it None")
    allowed = _allowed_cpus()
    if cpu not in allowed:
        raise ValueError(f"cpu must be one that this process may use ({_ranges(allowed)}) or None, not {cpu}")
    return _MODES[idle], True, cpu


def _allowed_cpus() -> list[int]:
    """Ask what a thread may be bound to, which may be more than what the calling one is bound to."""
    allowed = os.sched_getaffinity(0)

    def ask() -> None:
        nonlocal allowed
        try:
            os.sched_setaffinity(0, range(_MOST_CPUS))  # of this thread alone
        except OSError:
            return  # forbidden in this sandbox
        allowed = os.sched_getaffinity(0)

    thread = threading.Thread(target=ask, name="kafka_async-cpus")
    thread.start()
    thread.join()
    return sorted(allowed)


def _ranges(numbers: list[int]) -> str:
    """Write ascending numbers as in ``0-3, 8``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)
