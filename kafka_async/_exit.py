"""Objects that are still open when the interpreter, or a forked child, ends; and whose child this is."""

from __future__ import annotations

import atexit
import os
import sys
import time
import weakref
from typing import Protocol

from kafka_async import _wait, errors
from kafka_async._native import lib

_EXIT_TIMEOUT_S = 5.0  # for all objects together
_PURGE_LIMIT_S = 1.0  # and for librdkafka to give back what had no outcome until then


class Closable(Protocol):
    """What `watch` takes."""

    def _begin_exit(self, timeout_s: float) -> None:
        """Begin to close, without waiting."""

    def _end_exit(self, timeout_s: float) -> int:
        """Wait for the end of closing; return how many messages were lost."""


_open: weakref.WeakSet[Closable] = weakref.WeakSet()
_ended = False  # nobody would close what is opened from now on
_lost = 0  # messages whose loss could not be raised
_told = 0  # of them, and of those that the core lost
_hooked_child = False
_forks = 0  # how often this process was forked off


def forks() -> int:
    """Tell how often this process was forked off: what was made at another number is the parent's.

    Returns
    -------
    int
    """
    return _forks


def check() -> None:
    """Refuse to open an object that nobody would close.

    Raises
    ------
    ClosedError
        The interpreter is past closing what is open.
    """
    if _ended:
        raise errors.ClosedError("the interpreter is ending: nothing that is opened now would be flushed")


def lose(messages: int) -> None:
    """Count messages whose loss could not be raised, to be told at exit.

    Parameters
    ----------
    messages : int
        How many.
    """
    global _lost
    _lost += messages


def watch(closable: Closable) -> None:
    """See to it that an object is closed when the process ends.

    Parameters
    ----------
    closable : Closable
        A producer or consumer that has just been opened.
    """
    _open.add(closable)
    _hook_multiprocessing()


def forget(closable: Closable) -> None:
    """Undo `watch` for an object that was stopped.

    Parameters
    ----------
    closable : Closable
        The same object.
    """
    _open.discard(closable)


def close_all() -> None:
    """Close what is open and say on stderr what was lost.

    Waits up to 5 s for all objects together, those included that were garbage collected without
    being stopped. An interrupt ends the wait.
    """
    global _ended, _told
    _ended = True
    deadline = time.monotonic() + _EXIT_TIMEOUT_S
    remaining = list(_open)
    _open.clear()
    interrupted = False
    try:
        for closable in remaining:
            closable._begin_exit(_EXIT_TIMEOUT_S)
        while remaining:
            lose(remaining[-1]._end_exit(max(0.0, deadline + _PURGE_LIMIT_S - time.monotonic())))
            remaining.pop()
        _wait.wait(lib.ka_wait_workers, max(0.0, deadline - time.monotonic()) + 0.5)
    except KeyboardInterrupt:
        interrupted = True
        for closable in remaining:
            lose(closable._end_exit(0))
    lost = _lost + lib.ka_lost_messages() - _told
    _told += lost  # a child that multiprocessing spawned comes here by its finalizers and by atexit
    if lost:
        print(
            f"kafka_async: {lost} message{'s were' if lost > 1 else ' was'} lost: failed with nobody told, or not "
            f"delivered {'before the interrupt' if interrupted else f'within {_EXIT_TIMEOUT_S:g} s of the end'}. "
            "Call stop() to wait longer and to be told.",
            file=sys.stderr,
            flush=True,
        )


def _hook_multiprocessing() -> None:
    """Children of multiprocessing end by ``os._exit`` after its own finalizers, and run no atexit."""
    global _hooked_child
    process = sys.modules.get("multiprocessing.process")
    if _hooked_child or process is None or process.parent_process() is None:
        return
    from multiprocessing.util import Finalize

    Finalize(None, close_all, exitpriority=0)
    _hooked_child = True


def _after_fork_in_child() -> None:
    global _open, _ended, _lost, _told, _hooked_child, _forks
    _forks += 1
    _open = weakref.WeakSet()
    _ended = _hooked_child = False
    _lost = _told = 0


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(close_all)
