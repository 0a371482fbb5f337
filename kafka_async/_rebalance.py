"""Rebalance callbacks: which one, when, and on whose thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from kafka_async import _log
from kafka_async._native import ffi, lib
from kafka_async._partitions import fetch
from kafka_async.message import TopicPartition

if TYPE_CHECKING:
    from kafka_async._wait import Deadline
    from kafka_async.consumer import Consumer

    Callback: TypeAlias = Callable[[Consumer, list[TopicPartition]], object]


class Rebalancer:
    """Runs the application's callbacks, one at a time.

    They run inside a poll, or inside `stop` and `unsubscribe`; a second thread waits for its turn.

    Parameters
    ----------
    on_assign, on_revoke, on_lost : callable or None
        As in `Consumer`.
    """

    def __init__(self, on_assign: Callback | None, on_revoke: Callback | None, on_lost: Callback | None) -> None:
        for name, callback in (("on_assign", on_assign), ("on_revoke", on_revoke), ("on_lost", on_lost)):
            if callback is not None and not callable(callback):
                raise TypeError(f"{name} must be callable or None, not {type(callback).__name__}")
        on_lost = on_lost or on_revoke
        self._callbacks = {lib.KA_ON_ASSIGN: on_assign, lib.KA_ON_REVOKE: on_revoke, lib.KA_ON_LOST: on_lost}
        self._lock = threading.Lock()  # held while one runs
        self._running_on: int | None = None

    def mask(self) -> int:
        """Tell which rebalances the application wants to see.

        Returns
        -------
        int
            KA_ON_* together.
        """
        return sum(kind for kind, callback in self._callbacks.items() if callback is not None)

    def refuse_inside(self, what: str) -> None:
        """Refuse what would wait for itself.

        Parameters
        ----------
        what : str
            What was called.

        Raises
        ------
        RuntimeError
            The calling thread is running a callback.
        """
        if self._running_on == threading.get_ident():
            raise RuntimeError(f"{what} can't be called from within a rebalance callback")

    def run_due(self, consumer: Consumer) -> None:
        """Run the callback that the core says is due, and let the rebalance go on.

        Parameters
        ----------
        consumer : Consumer
            Given to the callback.
        """
        kind, partitions = _due(consumer)
        if not kind:
            return  # closed meanwhile
        with self._lock:
            self._complete(kind, consumer, partitions)

    def give_up(self, consumer: Consumer, deadline: Deadline) -> None:
        """Run ``on_revoke`` for everything that is assigned, and ``on_lost`` for what no poll has told of.

        Both on the calling thread.

        Parameters
        ----------
        consumer : Consumer
            Retired, so that nothing more of it is handed out.
        deadline : Deadline
            How long another thread's callback may still take.
        """
        if not self.mask():
            return
        left = deadline.left()
        if not self._lock.acquire(timeout=-1 if left is None else left):
            _log.logger.warning("a rebalance callback of another thread has not returned: no other is called")
            return
        try:
            kind, lost = _due(consumer)
            if kind == lib.KA_ON_LOST:
                self._complete(kind, consumer, lost)
            if self._callbacks[lib.KA_ON_REVOKE] is not None and (partitions := consumer.assignment()):
                self._run(lib.KA_ON_REVOKE, consumer, partitions)
        finally:
            self._lock.release()

    def _complete(self, kind: int, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        try:
            self._run(kind, consumer, partitions)
        finally:
            lib.ka_consumer_rebalanced(consumer._native)

    def _run(self, kind: int, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        callback = self._callbacks[kind]
        assert callback is not None  # the core tells of these only
        self._running_on = threading.get_ident()
        try:
            callback(consumer, partitions)
        finally:
            self._running_on = None


def _due(consumer: Consumer) -> tuple[int, list[TopicPartition]]:
    """Tell which callback is due, 0 for none, and for which partitions."""
    kind = ffi.new("int32_t *")
    found = fetch(lambda out, size: lib.ka_consumer_rebalance(consumer._native, kind, out, size))
    return (0, []) if isinstance(found, int) else (kind[0], found[0])
