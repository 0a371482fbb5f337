"""The producer of asyncio."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from kafka_async._batch import SHORTAGE
from kafka_async._delivery import Outcomes, Unread, is_failure
from kafka_async._native import ffi, lib
from kafka_async._producer import OPEN_LIMIT_S, ProducerCore
from kafka_async._short import short_send
from kafka_async._transaction import send_offsets
from kafka_async._wait import Deadline, check_timeout
from kafka_async.aio._loop import Looped, TaskLock
from kafka_async.errors import DeliveryError
from kafka_async.message import DeliveryReport, Record, RecordMetadata, TopicPartition

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from kafka_async._producer import Blocked
    from kafka_async.aio._consumer import Consumer
    from kafka_async.message import Payload
    from kafka_async.producer import SendOptions


class _LoopOutcomes(Outcomes):
    """Tells outcomes on the event loop."""

    def __init__(self, native: ffi.CData, waits: Looped, unread: Unread) -> None:
        super().__init__(native)
        self._waits = waits
        self._telling = False
        self._all_told = self._retired = False
        self._unread = unread

    def serve(self) -> bool:
        """Tell a batch. Returns whether there may be more."""
        self._telling = True
        try:
            count = self.tell()
        finally:
            self._telling = False
        if count < 0:
            self._all_told = True
            self._end()
        return count > 0

    def retire(self) -> None:
        """Take note that nobody waits for the producer any more."""
        self._retired = True
        self._end()

    def _end(self) -> None:
        if self._all_told and self._retired:
            self._waits.close()

    def is_current(self) -> bool:
        return self._telling

    async def wait(self, deadline: Deadline, *, even_closed: bool) -> int:  # noqa: ARG002 - telling does not wait
        while self.serve():
            if deadline.left() == 0:
                return lib.KA_TIMEOUT
            await asyncio.sleep(0)  # others have their turn
        return lib.KA_OK

    def _complete(self, delivery: Any, metadata: RecordMetadata, report: DeliveryReport | None) -> None:
        if not delivery.done():
            super()._complete(delivery, metadata, report)
        elif report is not None and is_failure(report.error):
            self._unread.add(report)  # whoever awaited it was cancelled


class Delivery(asyncio.Future["RecordMetadata"]):
    """The outcome of one message, as an `asyncio.Future` of `RecordMetadata`.

    A failure in one that is dropped unread counts as told to nobody.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, unread: Unread) -> None:
        super().__init__(loop=loop)
        self._unread = unread

    def __del__(self) -> None:
        """Pass a failure on that nobody has looked at."""
        if self._log_traceback:
            self._log_traceback = False  # it is told by flush() or stop(), and not by the loop
            _pass_on(self, self._unread)


def _pass_on(delivery: asyncio.Future[RecordMetadata], unread: Unread) -> None:
    """Take a failure for one that nobody was told of."""
    if delivery.done() and not delivery.cancelled():
        error = delivery.exception()
        if isinstance(error, DeliveryError) and error.report is not None:
            unread.add(error.report)


class Producer(ProducerCore):
    """Sends messages as `kafka_async.Producer` does, for a program of asyncio.

    It belongs to the event loop that it is made on. Outcomes are told there, without a thread of Python's.

    Parameters
    ----------
    bootstrap_servers, topic, config, queue_messages, queue_bytes, partitioner, cpu, log
        As for `kafka_async.Producer`. With both `partitioner` and `topic` the topic's partitions are counted when
        its ``async with`` block begins, or by ``warm_up``.
    on_full : {"raise", "block", "drop_new", "drop_old"}, default "raise"
        As there; "block" makes ``send`` and ``send_many`` await room, in the order of the calls, while
        ``send_nowait`` and ``submit`` raise QueueFull.
    block_timeout : float, optional
        As there.
    on_oauth : callable, optional
        As there; a coroutine function is awaited on the event loop, a plain one runs on a thread.
    idle : {"park", "warm", "spin"}, optional
        As there; "park" by default: what an awaited send costs is the way to the acknowledgement, which naps prolong.

    Raises
    ------
    RuntimeError
        No event loop is running, or it can't watch a file descriptor.
    ConfigError, ValueError, KafkaError
        As `kafka_async.Producer`.

    Notes
    -----
    One eventfd (elsewhere a pipe) rings the event loop, once for a burst of outcomes.
    """

    _idle = "park"
    _waits: Looped
    _outcomes: _LoopOutcomes

    def _make_waits(self) -> Looped:
        return Looped("producer")

    def _make_outcomes(self) -> _LoopOutcomes:
        return _LoopOutcomes(self._native, self._waits, self._unread)

    def _opened(self) -> None:
        self._turn = TaskLock()  # of those that wait for room
        self._waits.open(self._outcomes.serve)
        lib.ka_producer_hang(self._native, self._waits.bell)

    @short_send
    def send_nowait(self, value: Payload, key: Payload = None, **options: Unpack[SendOptions]) -> None:
        """Accept a message and return; as `kafka_async.Producer.send`, but that it never waits. Safe from any thread.

        Raises
        ------
        QueueFull
            A bound is reached, also with ``on_full="block"``.
        MessageTooLarge, TypeError, ValueError, TransactionError, KafkaError, ClosedError, ForkedError
            As there.
        """
        if blocked := self._send_record(value, key, **options):
            self._give_up(blocked)

    def submit(
        self, value: Payload, key: Payload = None, **options: Unpack[SendOptions]
    ) -> asyncio.Future[RecordMetadata]:
        """Accept a message and return its outcome as a future of the event loop.

        Never waits. A future that is cancelled changes nothing about the message; its failure then counts as told to
        nobody.

        Returns
        -------
        asyncio.Future of RecordMetadata
            It ends with `DeliveryError`, or with `QueueFull` for a message that ``on_full="drop_new"`` dropped.

        Raises
        ------
        RuntimeError
            It is called on another event loop, or on none.
        QueueFull, MessageTooLarge, TypeError, ValueError, TransactionError, KafkaError, ClosedError, ForkedError
            As ``send_nowait``.
        """
        self._waits.check()
        delivery = Delivery(self._waits.loop, self._unread)
        if blocked := self._send_record(value, key, delivery, **options):
            self._give_up(blocked)
        return delivery

    async def send(self, value: Payload, key: Payload = None, **options: Unpack[SendOptions]) -> RecordMetadata:
        """Send a message and await its acknowledgement.

        The message is copied when it is accepted: when the coroutine first runs or, with ``on_full="block"`` and a full
        queue, when it has found room. Until then a buffer (bytearray, memoryview, numpy) and the headers must not
        change, since they may be read at any time; pass a copy, ``bytes(...)``, of what is used again sooner.

        A call that is cancelled after the message was accepted leaves it accepted: it has its one outcome in the
        metrics, and a failure of it counts as told to nobody.

        Returns
        -------
        RecordMetadata

        Raises
        ------
        DeliveryError
            The message failed or was purged; its ``report`` tells all.
        RuntimeError
            It is called on another event loop.
        QueueFull, MessageTooLarge, TypeError, ValueError, TransactionError, KafkaError, ClosedError, ForkedError
            As `kafka_async.Producer.send`.
        """
        self._waits.check()
        delivery: asyncio.Future[RecordMetadata] = self._waits.loop.create_future()
        if self._turn.locked():
            await self._in_turn(lambda: self._send_record(value, key, delivery, **options))
        elif blocked := self._send_record(value, key, delivery, **options):
            await self._in_turn(lambda: blocked)
        try:
            return await delivery
        except asyncio.CancelledError:
            _pass_on(delivery, self._unread)  # the outcome and the cancellation came at once
            raise

    async def _in_turn(self, start: Callable[[], Blocked | None]) -> None:
        """Send a message behind those that wait for room already; its time counts from now."""
        deadline = Deadline(self._limits.block_timeout)
        await self._take_turn(deadline)
        try:
            if blocked := start():
                await self._unblock(blocked, deadline)
        finally:
            self._turn.release()

    async def _take_turn(self, deadline: Deadline) -> None:
        if not await self._turn.acquire(deadline.left()):
            raise self._refusal(lib.KA_FULL, (0, 0, 0))

    def _give_up(self, blocked: Blocked) -> None:
        record, token, delivery = blocked
        self._refuse(lib.KA_FULL, record, token, delivery, "this call does not wait: await send()")

    async def send_many(self, values_or_records: Iterable[Payload | Record], *, topic: str | None = None) -> int:
        """Accept many messages by one native call, awaiting room with ``on_full="block"``.

        As `kafka_async.Producer.send_many` in all else: their acknowledgements are not awaited.

        All messages are copied before it awaits room for them: when the coroutine first runs or, with
        ``on_full="block"``, once no earlier call waits for room. Until then the iterable, its buffers (bytearray,
        memoryview, numpy) and its records' headers must not change.

        Returns
        -------
        int
            How many were accepted.
        """
        self._waits.check()
        in_turn = self._limits.on_full == "block"
        if in_turn:
            await self._take_turn(Deadline(self._limits.block_timeout))
        try:
            begun = self._begin_many(values_or_records, topic)
            if isinstance(begun, int):
                return begun
            try:
                return await self._send_batch(*begun)
            except SHORTAGE as error:
                raise begun[0].shortage from error
        finally:
            if in_turn:
                self._turn.release()

    async def partitions(self, topic: str, timeout: float | None = 5.0) -> int:
        """Ask for a topic's number of partitions; see `kafka_async.Producer.partitions`."""
        return await self._ask_partitions(topic, check_timeout(timeout), connect=False)

    async def warm_up(self, *topics: str, timeout: float | None = 5.0) -> None:
        """Connect to the leaders of topics; see `kafka_async.Producer.warm_up`."""
        await self._warm_up(topics, timeout)

    async def flush(self, timeout: float | None = 5.0) -> None:
        """Await the outcome of what was accepted before; see `kafka_async.Producer.flush`."""
        self._waits.check()
        await self._flush(timeout)

    async def purge(self, *, in_flight: bool = False) -> int:
        """Drop what waits to be sent; see `kafka_async.Producer.purge`."""
        return await self._purge(in_flight)

    async def init_transactions(self, timeout: float | None = 30.0) -> None:
        """Get ready for transactions; see `kafka_async.Producer.init_transactions`."""
        await self._transact(lib.KA_INIT, "init_transactions", timeout)

    async def begin_transaction(self) -> None:
        """Begin a transaction; see `kafka_async.Producer.begin_transaction`."""
        await self._transact(lib.KA_BEGIN, "begin_transaction", OPEN_LIMIT_S)

    async def commit_transaction(self, timeout: float | None = 30.0) -> None:
        """Commit the transaction; see `kafka_async.Producer.commit_transaction`."""
        await self._transact(lib.KA_COMMIT, "commit_transaction", timeout)

    async def abort_transaction(self, timeout: float | None = 30.0) -> None:
        """Abort the transaction; see `kafka_async.Producer.abort_transaction`."""
        await self._transact(lib.KA_ABORT, "abort_transaction", timeout)

    async def send_offsets_to_transaction(
        self, consumer: Consumer, offsets: Iterable[TopicPartition] | None = None, timeout: float | None = 5.0
    ) -> None:
        """Commit a consumer's progress with the transaction; see `kafka_async.Producer.send_offsets_to_transaction`."""
        await send_offsets(self._waits, self._native, consumer, offsets, check_timeout(timeout))

    @asynccontextmanager
    async def transaction(self, *, timeout: float | None = 30.0) -> AsyncIterator[None]:
        """Run a block as one transaction; see `kafka_async.Producer.transaction`."""
        async with self._transaction(timeout):
            yield

    async def stop(self, timeout: float | None = 5.0) -> None:
        """Refuse new messages, await the outcome of all others, and close; see `kafka_async.Producer.stop`."""
        await self._stop(timeout)

    async def __aenter__(self) -> Self:
        """Use it as an asynchronous context manager, which stops it at the end."""
        try:
            await self._count_default_topic()
        except BaseException as error:
            await self._leave(error)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop. When the block ends by an exception that one is kept, and what was lost is told at exit."""
        await self._leave(error)

    def __del__(self) -> None:
        """Warn of one that was not stopped; it closes in the background."""
        if not self._stopped and not self._waits.is_foreign():
            warnings.warn(f"a producer was not stopped: {self!r}", ResourceWarning, stacklevel=1, source=self)
            self._waits.call(self._outcomes.retire)

    async def _stop(self, timeout: float | None) -> None:
        if self._waits.is_foreign():
            return
        self._waits.check()
        try:
            await super()._stop(timeout)
        finally:
            if self._stopped:
                self._outcomes.retire()

    def _end_exit(self, timeout_s: float) -> int:
        return super()._end_exit(timeout_s) + self._outcomes.untold_failures()
