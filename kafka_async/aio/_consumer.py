"""The consumer of asyncio."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from kafka_async import errors
from kafka_async._consumer import ConsumerCore, owned_messages
from kafka_async._native import lib
from kafka_async._wait import Deadline, check_timeout
from kafka_async.aio._loop import Looped
from kafka_async.batch import MessageBatch
from kafka_async.message import Message, TopicPartition

if TYPE_CHECKING:
    from typing_extensions import Self

_PULSE_S = 0.2  # a poll that is awaited counts as one, as long as the loop turns


class Consumer(ConsumerCore):
    """Reads messages as `kafka_async.Consumer` does, for a program of asyncio.

    It belongs to the event loop that it is made on. One task polls at a time. It is an asynchronous context manager
    that stops it at the end, and an asynchronous iterator that ends when it is stopped. Messages that are there are
    handed out without giving way to other tasks, up to 256 of them.

    Parameters
    ----------
    bootstrap_servers, topics, group_id, config, prefetch_messages, prefetch_bytes, idle, cpu, log
        As for `kafka_async.Consumer`. Topics are subscribed to when its ``async with`` block begins, or by the first
        poll.
    on_assign, on_revoke, on_lost : callable, optional
        As there; they may be coroutine functions, which are awaited inside of the poll.
    on_oauth : callable, optional
        As there; a coroutine function is awaited on the event loop, a plain one runs on a thread.

    Raises
    ------
    RuntimeError
        No event loop is running, or it can't watch a file descriptor.
    ConfigError, ValueError, KafkaError
        As `kafka_async.Consumer`.
    """

    _waits: Looped

    def _make_waits(self) -> Looped:
        return Looped("consumer", _PULSE_S)

    def _opened(self) -> None:
        self._filling = False
        self._stopping: asyncio.Task[None] | None = None
        self._stop_told = False  # what was raised
        self._waits.open()
        lib.ka_consumer_hang(self._native, self._waits.bell)

    def _caller(self) -> object:
        """Tell which task is calling; it must run on the owner's loop."""
        task = asyncio.current_task(self._waits.loop)
        if task is None:
            self._waits.check()
        return task

    def _refill(self, timeout: float | None) -> int:  # noqa: ARG002 - it is awaited elsewhere
        return 0

    async def _start(self) -> None:
        if self._topics is not None:
            topics, self._topics = self._topics, None
            await self._subscribe(topics)

    async def poll_message(self, timeout: float | None = 0.1) -> Message | None:  # type: ignore[override]
        """Return the next message, awaiting it if there is none.

        A call that is cancelled takes no message. A rebalance callback that it was awaiting goes on to its end, and
        the next poll awaits that, however short its `timeout` is.

        Parameters
        ----------
        timeout : float or None, default 0.1
            Seconds; 0 never waits, None waits without limit. Looked at only when it has to wait.

        Returns
        -------
        Message or None
            None: there was none in time.

        Raises
        ------
        RuntimeError
            Another task is polling; it is called from within a rebalance callback, or on another event loop.
        TypeError, ValueError, ConsumerError, PartitionEnd, ClosedError, ForkedError, Exception
            As `kafka_async.Consumer.poll_message`.
        """
        message = super().poll_message(0)  # of the block in hand
        return await self._await_message(timeout) if message is None else message

    async def _await_message(self, timeout: float | None) -> Message | None:
        deadline = Deadline(check_timeout(timeout))
        while await self._fill(deadline):
            if (message := super().poll_message(0)) is not None:
                return message
        return None

    async def _fill(self, deadline: Deadline) -> bool:
        """Await the next block."""
        self._claim()
        try:
            await self._start()
            count = await self._take(self._take_block, deadline)
            if count:
                self._rows = self._block.messages(count)
            await asyncio.sleep(0)  # others have their turn; who is cancelled by them finds the rows next time
            return count > 0
        finally:
            self._filling = False

    def _claim(self) -> None:
        self._waits.check()
        self._rebalancer.refuse_inside("poll")
        if self._filling:
            raise RuntimeError("another task is polling this consumer: poll from one task at a time")
        self._filling = True

    async def poll_batch(self, max_messages: int = 500, timeout: float | None = 0.1) -> MessageBatch:
        """Return the next messages together, as soon as there is one; see `kafka_async.Consumer.poll_batch`."""
        self._claim()
        out = owned_messages()
        try:
            await self._start()
            await asyncio.sleep(0)
            return await self._poll_batch(max_messages, timeout, out)
        except BaseException:
            self._put_back(out)
            raise
        finally:
            self._filling = False

    def __aiter__(self) -> Self:
        """Iterate over messages as they come, until the consumer is stopped."""
        return self

    async def __anext__(self) -> Message:
        """Await the next message."""
        message = super().poll_message(0)  # a coroutine less than poll_message()
        if message is None:
            try:
                message = await self._await_message(None)
            except errors.ClosedError:
                raise StopAsyncIteration from None
        assert message is not None  # without a limit the wait ends with a message or an error
        return message

    async def subscribe(self, topics: str | Iterable[str]) -> None:
        """Read these topics instead of what was read before; see `kafka_async.Consumer.subscribe`."""
        self._topics = None
        await self._subscribe(topics)

    async def unsubscribe(self) -> None:
        """Read nothing any more; in a group, leave it; see `kafka_async.Consumer.unsubscribe`."""
        self._topics = None
        await self._unsubscribe()

    async def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read exactly these partitions; see `kafka_async.Consumer.assign`."""
        self._topics = None
        await self._assign(partitions)

    async def incremental_assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read these partitions too; see `kafka_async.Consumer.incremental_assign`."""
        await self._incremental_assign(partitions)

    async def incremental_unassign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read these partitions no more; see `kafka_async.Consumer.incremental_unassign`."""
        await self._incremental_unassign(partitions)

    async def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Hand out nothing of these partitions until they are resumed; see `kafka_async.Consumer.pause`."""
        await self._pause(partitions, 1)

    async def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Go on with paused partitions; see `kafka_async.Consumer.resume`."""
        await self._pause(partitions, 0)

    async def seek(self, partition: TopicPartition, timeout: float | None = 5.0) -> None:
        """Go on reading a partition at another offset; see `kafka_async.Consumer.seek`."""
        await self._seek(partition, timeout)

    async def commit(
        self,
        message: Message | None = None,
        *,
        offsets: Iterable[TopicPartition] | Mapping[TopicPartition, int] | None = None,
        timeout: float | None = 5.0,
    ) -> list[TopicPartition]:
        """Commit offsets to the group, and await the answer; see `kafka_async.Consumer.commit`.

        It has no `asynchronous`: make a task of it instead.
        """
        command, timeout = self._begin_commit(message, offsets, timeout, patient=True)
        return await self._result(command, timeout)

    async def committed(
        self, partitions: Iterable[TopicPartition], timeout: float | None = 5.0
    ) -> list[TopicPartition]:
        """Ask what the group has committed; see `kafka_async.Consumer.committed`."""
        return await self._committed(partitions, timeout)

    async def watermarks(self, topic: str, partition: int, timeout: float | None = 5.0) -> tuple[int, int]:
        """Ask where the log of a partition begins and ends; see `kafka_async.Consumer.watermarks`."""
        return await self._watermarks(topic, partition, timeout)

    async def offsets_for_times(
        self, partitions: Iterable[TopicPartition], timeout: float | None = 5.0
    ) -> list[TopicPartition]:
        """Ask for the first messages that are not older than times; see `kafka_async.Consumer.offsets_for_times`."""
        return await self._offsets_for_times(partitions, timeout)

    async def lag(self, timeout: float | None = None) -> dict[TopicPartition, int]:
        """Tell how many messages were not handed out yet; see `kafka_async.Consumer.lag`."""
        return await self._lag(timeout)

    async def stop(self, timeout: float | None = 5.0) -> None:
        """Stop reading, commit what was processed, leave the group; see `kafka_async.Consumer.stop`.

        The message in hand counts as processed unless another task polled it that goes on, or that failed. A call is
        another task's as a task of its own and, until Python 3.11, in `asyncio.wait_for`: give `timeout` instead. A
        callback that is being awaited when the time is over is cancelled.
        """
        await self._stop(check_timeout(timeout), self._polled_here())

    async def _stop(self, timeout: float | None, store_last: bool) -> None:
        if self._waits.is_foreign():
            return
        self._waits.check()
        self._rebalancer.refuse_inside("stop")
        if self._stopping is None:
            self._stopping = self._waits.loop.create_task(super()._stop(timeout, store_last))
        await asyncio.wait({self._stopping})  # who is cancelled leaves it to others
        if not self._stop_told:
            self._stop_told = True
            self._stopping.result()

    def _polled_here(self) -> bool:
        # A task that has ended, such as that of asyncio.wait_for(), has passed its message on.
        poller = self._poller
        if not isinstance(poller, asyncio.Task) or poller is asyncio.current_task():
            return True
        return (
            poller.done() and not poller.cancelled() and poller._exception is None
        )  # exception() would mark it as seen

    async def _close(self, deadline: Deadline, timeout: float | None, store_last: bool) -> None:
        await super()._close(deadline, timeout, store_last)
        self._waits.close()

    async def __aenter__(self) -> Self:
        """Use it as an asynchronous context manager, which stops it at the end."""
        try:
            await self._start()
        except BaseException as error:
            await self._leave(error)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop; when the block ends by an exception, the message in hand is not committed."""
        await self._leave(error)

    def __del__(self) -> None:
        """Warn of one that was not stopped; it closes in the background."""
        if not self._closed and not self._waits.is_foreign():
            warnings.warn(f"a consumer was not stopped: {self!r}", ResourceWarning, stacklevel=1, source=self)
            self._waits.call(self._waits.close)
