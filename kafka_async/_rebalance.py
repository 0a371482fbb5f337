"""Rebalance callbacks: which one, when, and on whose thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from kafka_async import _log
from kafka_async._native import ffi, lib
from kafka_async._partitions import fetch
from kafka_async.message import TopicPartition

if TYPE_CHECKING:
    from kafka_async._consumer import ConsumerCore
    from kafka_async._wait import Deadline, Waits

    Callback: TypeAlias = Callable[[Any, list[TopicPartition]], object]


class Rebalancer:
    """Runs the application's callbacks, one at a time.

    They run inside a poll, or inside `stop` and `unsubscribe`; a second thread waits for its turn.

    Parameters
    ----------
    waits : Waits
        How to wait.
    on_assign, on_revoke, on_lost : callable or None
        As in `Consumer`.
    """

    def __init__(
        self, waits: Waits, on_assign: Callback | None, on_revoke: Callback | None, on_lost: Callback | None
    ) -> None:
        for name, callback in (("on_assign", on_assign), ("on_revoke", on_revoke), ("on_lost", on_lost)):
            if callback is not None and not callable(callback):
                raise TypeError(f"{name} must be callable or None, not {type(callback).__name__}")
        on_lost = on_lost or on_revoke
        self._callbacks = {lib.KA_ON_ASSIGN: on_assign, lib.KA_ON_REVOKE: on_revoke, lib.KA_ON_LOST: on_lost}
        self._waits = waits
        self._lock = waits.lock()  # held while one runs
        self._runner: object = None  # who runs it

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
            The caller is running a callback.
        """
        if self._runner is not None and self._runner == self._waits.caller():
            raise RuntimeError(f"{what} can't be called from within a rebalance callback")

    def leave(self) -> None:
        """Take nobody for one that runs a callback: a forked child refuses everything for another reason."""
        self._runner = None

    async def run_due(self, consumer: ConsumerCore) -> None:
        """Run the callback that the core says is due, and let the rebalance go on.

        Parameters
        ----------
        consumer : ConsumerCore
            Given to the callback.
        """
        await self._lock.acquire(None)
        try:
            kind, partitions = _due(consumer)
            if kind:  # else it is closed, or another poll, which was cancelled, has brought it about
                await self._complete(kind, consumer, partitions)
        finally:
            self._lock.release()

    async def give_up(self, consumer: ConsumerCore, deadline: Deadline) -> None:
        """Run ``on_revoke`` for everything that is assigned, and ``on_lost`` for what no poll has told of.

        Both on the calling thread.

        Parameters
        ----------
        consumer : ConsumerCore
            Retired, so that nothing more of it is handed out.
        deadline : Deadline
            How long another caller's callback may still take, and one that is awaited.
        """
        if not self.mask():
            return
        if not await self._lock.acquire(deadline.left()):
            _log.note("a rebalance callback that another thread or task runs has not ended: no other is called")
        elif not await self._waits.shield(self._give_up(consumer), deadline):
            _log.note("a rebalance callback had not ended when the time was over: it was cancelled")

    async def _give_up(self, consumer: ConsumerCore) -> None:
        try:
            kind, lost = _due(consumer)
            if kind == lib.KA_ON_LOST:
                await self._complete(kind, consumer, lost)
            if self._callbacks[lib.KA_ON_REVOKE] is not None and (partitions := consumer.assignment()):
                await self._run(lib.KA_ON_REVOKE, consumer, partitions)
        finally:
            self._lock.release()

    async def _complete(self, kind: int, consumer: ConsumerCore, partitions: list[TopicPartition]) -> None:
        try:
            await self._run(kind, consumer, partitions)
        finally:
            lib.ka_consumer_rebalanced(consumer._native)

    async def _run(self, kind: int, consumer: ConsumerCore, partitions: list[TopicPartition]) -> None:
        callback = self._callbacks[kind]
        assert callback is not None  # the core tells of these only
        self._runner = self._waits.caller()
        try:
            await self._waits.finish(callback(consumer, partitions), f"rebalance callback {callback!r}")
        finally:
            self._runner = None


def _due(consumer: ConsumerCore) -> tuple[int, list[TopicPartition]]:
    """Tell which callback is due, 0 for none, and for which partitions."""
    kind = ffi.new("int32_t *")
    found = fetch(lambda out, size: lib.ka_consumer_rebalance(consumer._native, kind, out, size))
    return (0, []) if isinstance(found, int) else (kind[0], found[0])
