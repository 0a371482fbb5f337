"""What both consumers have in common, the blocking one and the one of asyncio."""

from __future__ import annotations

import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from threading import get_ident
from typing import TYPE_CHECKING, NoReturn

from kafka_async import _exit, _log, errors
from kafka_async._block import BlockReader
from kafka_async._columns import learn_names
from kafka_async._fast import Poller, keep
from kafka_async._idle import Idle, native_idle
from kafka_async._native import ffi, lib
from kafka_async._oauth import make_tokens
from kafka_async._partitions import check_partitions, fetch, to_native
from kafka_async._rebalance import Rebalancer
from kafka_async._requests import poll_error, result, settle, state_error
from kafka_async._short import short_poll
from kafka_async._trouble import reason
from kafka_async._wait import Deadline, Waits, check_timeout, micros, owned, wait
from kafka_async.batch import MessageBatch
from kafka_async.config import Config, Value, config_error, fetch_defaults, native_error
from kafka_async.message import Message, TopicPartition, check_partition, check_topic, native_offset

if TYPE_CHECKING:
    from kafka_async._oauth import OnOAuth, OnOAuthAsync
    from kafka_async._rebalance import Callback
    from kafka_async.metrics import ConsumerMetrics

_consumers: weakref.WeakSet[ConsumerCore] = weakref.WeakSet()
_START = {
    "smallest": lib.KA_OFFSET_BEGINNING,
    "earliest": lib.KA_OFFSET_BEGINNING,
    "beginning": lib.KA_OFFSET_BEGINNING,
    "largest": lib.KA_OFFSET_END,
    "latest": lib.KA_OFFSET_END,
    "end": lib.KA_OFFSET_END,
}
_NO_GROUP = "kafka_async.no_group"  # librdkafka wants a name to assign partitions; it is never joined
_COMMAND_TIMEOUT_S = 30.0  # librdkafka's main thread answers at once unless it is broken
_LOOKUP_TIMEOUT_S = 5.0  # of a question to the cluster that has no timeout of its own
_ANSWER_S = 0.05  # how long an answer may come after its time


class _Polling:
    """Stands in for the rows while a thread polls."""

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        raise AssertionError("rows of a poll that is under way")


_NO_ROWS: Iterator[Message] = iter(())  # one that has ended serves all
_PUT_BACK_LIMIT_US = 1_000_000
_POLLING = _Polling()


class ConsumerCore(Poller, ABC):
    """What the consumer does, whether its calls block or are awaited.

    Its coroutines wait by `Waits` alone.
    """

    _caller: Callable[[], object] = staticmethod(get_ident)  # who polls, and stops
    _closed = True  # until it is open
    _closing = False

    def __init__(
        self,
        bootstrap_servers: str,
        topics: str | Iterable[str] | None = None,
        *,
        group_id: str | None = None,
        config: Mapping[str, Value] | None = None,
        prefetch_messages: int = 100_000,
        prefetch_bytes: int = 64 * 2**20,
        on_assign: Callback | None = None,
        on_revoke: Callback | None = None,
        on_lost: Callback | None = None,
        on_oauth: OnOAuth | OnOAuthAsync | None = None,
        idle: Idle = "warm",
        cpu: int | None = None,
        log: bool = True,
    ) -> None:
        import kafka_async.metrics  # noqa: F401 - takes milliseconds: now, not in the first metrics()

        self._waits = self._make_waits()
        _check_prefetch(prefetch_messages, prefetch_bytes)
        if group_id is not None and (not isinstance(group_id, str) or not group_id):
            raise ValueError(f"group_id must be a name or None, not {group_id!r}")
        self._rebalancer = Rebalancer(self._waits, on_assign, on_revoke, on_lost)
        idling = native_idle(idle, cpu)
        self._topics = None if topics is None else _names(topics, group_id)  # to subscribe to
        conf = _config(bootstrap_servers, group_id, config, prefetch_messages, prefetch_bytes)
        self._tokens = make_tokens(conf, on_oauth, self._waits)
        options = {
            "prefetch_messages": prefetch_messages - prefetch_messages // 2,
            "prefetch_bytes": prefetch_bytes - prefetch_bytes // 2,
            "log": bool(log),
            "group": group_id is not None,
            "store_offsets": group_id is not None and conf.get("enable.auto.commit") == "true",
            "default_offset": _START.get(conf.get("auto.offset.reset") or "largest", lib.KA_OFFSET_STORED),
            "callbacks": self._rebalancer.mask(),
            "oauth": self._tokens.native if self._tokens else ffi.NULL,
            **dict(zip(("idle", "bound", "cpu"), idling, strict=True)),
        }
        self._committed_only = conf.get("isolation.level") == "read_committed"
        _exit.check()
        if log:
            _log.start()
        self._error = ffi.new("ka_error *")
        native = lib.ka_wait_consumer_open(conf.native, ffi.new("ka_consumer_options *", options), self._error)
        if not native:
            raise native_error(self._error)
        conf.taken()
        self._native = ffi.gc(native, lib.ka_consumer_release)
        self._kept = keep(self._native)  # beside finalizers of a cycle that it is collected in
        self._group_id = group_id
        self._auto_commit = bool(options["store_offsets"])
        self._reset = "beginning" if options["default_offset"] == lib.KA_OFFSET_BEGINNING else "end"
        self._subscription: list[str] = []
        self._where = ffi.new("ka_partition *")
        self._block = BlockReader(self._native)
        self._shared = self._block.shared
        self._rows = _NO_ROWS
        self._handed = 0  # our copy of the block's word
        self._generation = -1
        self._poller = None  # who has the last message in hand
        self._shorten(self._shared, _POLLING, self._caller)
        _consumers.add(self)
        _exit.watch(self)
        if self._tokens:
            self._waits.attend(self._tokens)
        self._opened()
        self._closed = False

    @abstractmethod
    def _make_waits(self) -> Waits:
        """Make what its coroutines wait by."""

    @abstractmethod
    def _opened(self) -> None:
        """Do what remains to be done when the native consumer is there."""

    @short_poll
    def poll_message(self, timeout: float | None = 0.1) -> Message | None:
        """Return the next message.

        Does not release the GIL when a message is there; when there is none it waits with the GIL
        released, until one comes, the time is over, or another thread calls ``stop``.

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
        ConsumerError
            Something that the application should know: without a group an unknown topic (it is read
            once it appears), no authorization, a fatal error; a certificate, a password or a protocol that keeps
            the cluster away, once for each such mistake (polling goes on, and so does connecting). Transient
            trouble is logged and survived.
            In a group or by ``assign`` a missing topic is waited for. Corrupt data: `partition` tells where; of
            that partition nothing more is read until it is assigned anew or sought past it, the others go on.
        PartitionEnd
            With ``enable.partition.eof``: a partition is read to its end.
        TypeError, ValueError
            `timeout` is no number, negative or NaN, where it is looked at.
        RuntimeError
            Another thread is polling, or it is called from within a rebalance callback.
        ClosedError, ForkedError
            The consumer is stopped, or belongs to the parent process.
        Exception
            What a rebalance callback raised.
        """
        rows: Iterator[Message] = _POLLING
        poller = self._caller()
        try:
            # One step of the interpreter, so that of two threads one sees the other.
            rows, self._rows = self._rows, _POLLING
            if rows is _POLLING:
                self._refuse_poll()
            while True:
                # No call between the row and its return: a signal's exception must not come between.
                for message in rows:
                    # The order of the next lines is the contract with the native side: see "The block" in
                    # csrc/ka_consumer.h.
                    self._poller = poller
                    self._handed = handed = self._handed + 1
                    self._shared[0] = handed
                    if self._shared[1] == self._generation:
                        return message
                    # Until that is decided it is as if it had not been taken: a signal's exception may come.
                    rows, self._handed, generation = iter((message,)), handed - 1, self._shared[1]
                    if lib.ka_consumer_keep(self._native):
                        self._generation = generation
                    else:
                        rows = _NO_ROWS
                    break
                else:
                    rows = _NO_ROWS
                    if not (count := self._refill(timeout)):
                        return None
                    rows = self._block.messages(count)
        except MemoryError:
            # A row that could not be made has moved some of its columns on. What is not handed out comes again.
            if rows is not _POLLING:
                rows = _NO_ROWS
            raise
        finally:
            if rows is not _POLLING:
                self._rows = rows

    @abstractmethod
    def _refill(self, timeout: float | None) -> int:
        """Take the next block. Returns how many messages; 0: none came in time."""

    async def _poll_batch(self, max_messages: int, timeout: float | None, out: ffi.CData) -> MessageBatch:
        """Take the next batch.

        Who calls makes its owner, by `owned_messages`, and has what an exception kept from being returned come again:
        `_put_back`.
        """
        if isinstance(max_messages, bool) or not isinstance(max_messages, int):
            raise TypeError(f"max_messages must be int, not {type(max_messages).__name__}")
        if not 1 <= max_messages <= 1_000_000:
            raise ValueError(f"max_messages must be from 1 to 1,000,000, not {max_messages}")
        rows: Iterator[Message] = _POLLING
        try:
            rows, self._rows = self._rows, _POLLING
            if rows is _POLLING:
                self._refuse_poll()
            rows = _NO_ROWS  # what is left of them comes with the batch
            taken = await self._take(
                lambda: lib.ka_consumer_take_messages(self._native, max_messages, out, self._error, self._where),
                check_timeout(timeout),
            )
            if not taken:
                return MessageBatch()
            self._poller = self._caller()
            messages = ffi.gc(out[0], lambda _: out)  # keeps its owner
            learn_names(self._block.topics, messages.top, self._native)
            return MessageBatch(messages, self._block.topics)
        finally:
            if rows is not _POLLING:
                self._rows = rows

    def _put_back(self, out: ffi.CData) -> None:
        """Have a batch that was taken come again, since an exception kept it from being returned."""
        if out[0] != ffi.NULL:
            command = owned(lib.ka_consumer_put_back(self._native))
            while lib.ka_wait_command(command, _PUT_BACK_LIMIT_US, self._error) == lib.KA_INTERRUPTED:
                pass

    def _refuse_poll(self) -> NoReturn:
        self._refuse_foreign()  # in the parent that thread polls
        self._rebalancer.refuse_inside("poll")
        raise RuntimeError("another thread is polling this consumer: poll from one thread at a time")

    def _take_block(self) -> int:
        self._generation = self._shared[1]
        return lib.ka_consumer_take(self._native, self._error, self._where)

    async def _take(self, take: Callable[[], int], timeout: Deadline | float | None) -> int:
        """Take what comes next, waiting for it. Returns how many messages; 0: none came in time."""
        self._rebalancer.refuse_inside("poll")  # one that stop() or unsubscribe() runs
        deadline = timeout if isinstance(timeout, Deadline) else None  # a block that is there needs no clock
        while True:
            count = take()
            self._handed = 0  # in the block too
            if count > 0:
                return count
            if count == lib.KA_REBALANCE:
                await self._waits.shield(self._rebalancer.run_due(self))
                continue
            if count < 0:
                raise poll_error(count, self._error, self._where)
            if deadline is None:
                deadline = Deadline(timeout)  # type: ignore[arg-type]
            status = await self._waits.until(
                lambda timeout_us: lib.ka_wait_consumer_ready(self._native, timeout_us),
                lambda: lib.ka_try_consumer_ready(self._native),
                deadline,
            )
            if status == lib.KA_TIMEOUT:
                return 0
            if status != lib.KA_OK:
                raise poll_error(status, self._error, self._where)

    async def _subscribe(self, topics: str | Iterable[str]) -> None:
        self._rebalancer.refuse_inside("subscribe")
        names = _names(topics, self._group_id)
        texts = [ffi.new("char[]", name.encode()) for name in names]
        array = ffi.new("const char *[]", texts)
        try:
            await result(self._waits, lib.ka_consumer_subscribe(self._native, array, len(names)), _COMMAND_TIMEOUT_S)
        except errors.ConsumerError as error:
            raise errors.reworded(errors.ConsumerError, error, f"subscribe to {names}: {error}") from None
        self._subscription = names

    async def _unsubscribe(self) -> None:
        self._refuse_foreign()
        self._rebalancer.refuse_inside("unsubscribe")
        try:
            if self._group_id is not None and self._subscription:
                lib.ka_consumer_retire(self._native, self._polled_here(), 0)
                await self._rebalancer.give_up(self, Deadline(_COMMAND_TIMEOUT_S))
        finally:
            none = ffi.new("const char *[]", 1)
            await result(self._waits, lib.ka_consumer_subscribe(self._native, none, 0), _COMMAND_TIMEOUT_S)
            self._subscription = []

    def subscription(self) -> list[str]:
        """Tell what was subscribed to.

        Returns
        -------
        list of str
            Empty after ``assign`` and ``unsubscribe``.
        """
        return list(self._subscription)

    async def _assign(self, partitions: Iterable[TopicPartition]) -> None:
        self._rebalancer.refuse_inside("assign")
        array = to_native(items := await self._located(check_partitions(partitions)))
        if self._group_id is not None and self._subscription:
            await self._unsubscribe()
        await result(
            self._waits, lib.ka_consumer_assign(self._native, lib.KA_REPLACE, array, len(items)), _COMMAND_TIMEOUT_S
        )
        self._subscription = []

    async def _incremental_assign(self, partitions: Iterable[TopicPartition]) -> None:
        await self._change(lib.KA_ADD, await self._located(check_partitions(partitions)))

    async def _incremental_unassign(self, partitions: Iterable[TopicPartition]) -> None:
        await self._change(lib.KA_REMOVE, [item._replace(offset=None) for item in check_partitions(partitions)])

    def _refuse_foreign(self) -> None:
        if lib.ka_consumer_assignment(self._native, ffi.NULL, 0) == lib.KA_FORKED:
            raise state_error(lib.KA_FORKED)

    async def _change(self, how: int, items: list[TopicPartition]) -> None:
        self._refuse_foreign()
        self._rebalancer.refuse_inside("incremental assignment")
        if self._subscription:
            raise errors.ConsumerError(
                "topics are subscribed to, so partitions are assigned for you: call assign() or unsubscribe() first",
                code=-172,
                name="_STATE",
            )
        array = to_native(items)
        await result(self._waits, lib.ka_consumer_assign(self._native, how, array, len(items)), _COMMAND_TIMEOUT_S)

    async def _pause(self, partitions: Iterable[TopicPartition], pause: int) -> None:
        items = [item._replace(offset=None) for item in check_partitions(partitions)]
        array = to_native(items)
        await result(self._waits, lib.ka_consumer_pause(self._native, pause, array, len(items)), _COMMAND_TIMEOUT_S)

    async def _seek(self, partition: TopicPartition, timeout: float | None) -> None:
        item = check_partition(partition)
        if item.offset is None:
            raise ValueError(f"{item!r}: seek needs an offset")
        timeout = check_timeout(timeout)
        if item.offset == "stored":
            (found,) = await self._committed([item], timeout)
            item = item._replace(offset=self._reset) if found.offset is None else found
        (item,) = await self._located([item], timeout)
        array = to_native([item])
        await result(self._waits, lib.ka_consumer_seek(self._native, array), _COMMAND_TIMEOUT_S)

    async def _located(
        self, items: list[TopicPartition], timeout: float | None = _LOOKUP_TIMEOUT_S
    ) -> list[TopicPartition]:
        """Replace times, ends and tails by the offsets that they are now.

        librdkafka would look later, of a paused partition much later, and pass over what was written until then.
        """
        deadline = Deadline(timeout)
        counts = {i: count for i, item in enumerate(items) if (count := _tail(item)) is not None}
        times = {i: item._replace(offset=time) for i, item in enumerate(items) if (time := _time(item)) is not None}
        found = await self._find(times, deadline)
        ends = {i: items[i]._replace(offset="end") for i in counts} | {
            i: items[i]._replace(offset="end") for i, offset in found.items() if offset is None
        }
        found |= await self._find(ends, deadline)
        begins = {i: items[i]._replace(offset="beginning") for i, count in counts.items() if count}
        for i, begin in (await self._find(begins, deadline)).items():
            found[i] = max(begin or 0, (found[i] or 0) - counts[i])
        return [item._replace(offset=found[i]) if i in found else item for i, item in enumerate(items)]

    async def _find(self, times: dict[int, TopicPartition], deadline: Deadline) -> dict[int, int | None]:
        """Ask for the first offsets at or after these times, of which "beginning" and "end" are two."""
        if not times:
            return {}
        found = await self._ask(lib.KA_ASK_TIMES, list(times.values()), deadline.left())
        return {i: at.offset if isinstance(at.offset, int) else None for i, at in zip(times, found, strict=True)}

    def assignment(self) -> list[TopicPartition]:
        """Tell which partitions are read now.

        Never blocks.

        Returns
        -------
        list of TopicPartition
            The offset is our position, that of the next message to hand out; None before the first.

        Raises
        ------
        ForkedError
            The consumer belongs to the parent process.
        """
        found = fetch(lambda out, size: lib.ka_consumer_assignment(self._native, out, size))
        if isinstance(found, int):
            raise state_error(found)
        return found[0]

    def position(self, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Tell where reading goes on: our position, not that of what is prefetched.

        Never blocks.

        Parameters
        ----------
        partitions : iterable of TopicPartition
            Their offsets are ignored.

        Returns
        -------
        list of TopicPartition
            In the order asked. The offset is that of the last message handed out + 1, or what was sought to; None:
            nothing was handed out yet, or it is not assigned.

        Raises
        ------
        TypeError, ValueError
            As ``assign``.
        ForkedError
            The consumer belongs to the parent process.
        """
        positions = {item[:2]: item for item in self.assignment()}
        return [positions.get(item[:2], item._replace(offset=None)) for item in check_partitions(partitions)]

    def store(self, message: Message) -> None:
        """Tell that a message is processed, for a commit to come.

        For ``enable.auto.commit`` False, where messages are not done with in their order of hand-out: the next
        ``commit`` without arguments commits of this partition what was stored last, and not the position. With
        ``enable.auto.commit`` every message counts as processed when the next one is asked for, and this only tells
        so earlier. Never blocks.

        Parameters
        ----------
        message : Message
            Of a partition that is assigned; the messages before it count as processed too.

        Raises
        ------
        TypeError
            It is no Message.
        ConsumerError
            Its partition is not assigned any more, or there is no group.
        ForkedError
            The consumer belongs to the parent process.
        """
        array = to_native([self._after(message)])
        status = lib.ka_consumer_store(self._native, array)
        if status == lib.KA_INVALID:
            raise errors.ConsumerError(
                f"partition {message.partition} of topic {message.topic!r} is not assigned to this consumer (any more)",
                code=-172,
                name="_STATE",
            )
        if status != lib.KA_OK:
            raise state_error(status)

    def _begin_commit(
        self,
        message: Message | None,
        offsets: Iterable[TopicPartition] | Mapping[TopicPartition, int] | None,
        timeout: float | None,
        *,
        patient: bool,
    ) -> tuple[ffi.CData, float | None]:
        """Start a commit; patient: closing waits for it. Returns its command, and the time it has."""
        self._refuse_foreign()
        self._need_group("commit")
        timeout = check_timeout(timeout)
        if message is not None and offsets is not None:
            raise ValueError("give a message or offsets, not both")
        items = [self._after(message)] if message is not None else _offsets(offsets)
        array = ffi.NULL if items is None else to_native(items)
        command = lib.ka_consumer_commit(self._native, array, len(items or ()), patient)
        return command, timeout

    def _after(self, message: Message) -> TopicPartition:
        self._need_group("store")
        if not isinstance(message, Message):
            raise TypeError(f"message must be a Message, not {type(message).__name__}")
        return TopicPartition(message.topic, message.partition, message.offset + 1)

    async def _committed(self, partitions: Iterable[TopicPartition], timeout: float | None) -> list[TopicPartition]:
        self._need_group("committed")
        return await self._ask(
            lib.KA_ASK_COMMITTED, [item._replace(offset=None) for item in check_partitions(partitions)], timeout
        )

    async def _watermarks(self, topic: str, partition: int, timeout: float | None) -> tuple[int, int]:
        low, high = await self._ask(
            lib.KA_ASK_WATERMARKS, check_partitions([TopicPartition(topic, partition)]), timeout
        )
        assert isinstance(low.offset, int)
        assert isinstance(high.offset, int)
        return low.offset, high.offset

    async def _offsets_for_times(
        self, partitions: Iterable[TopicPartition], timeout: float | None
    ) -> list[TopicPartition]:
        items = check_partitions(partitions)
        for item in items:
            _milliseconds(item, item.offset)
        return await self._ask(lib.KA_ASK_TIMES, items, timeout)

    async def _lag(self, timeout: float | None) -> dict[TopicPartition, int]:
        timeout = check_timeout(timeout)
        if timeout is None and not self._committed_only:
            lags = await result(self._waits, lib.ka_consumer_lag(self._native), _COMMAND_TIMEOUT_S)
        else:
            lags = await self._ask(lib.KA_ASK_LAG, [], _LOOKUP_TIMEOUT_S if timeout is None else timeout)
        return {item._replace(offset=None): item.offset for item in lags if isinstance(item.offset, int)}

    async def _ask(self, what: int, items: list[TopicPartition], timeout: float | None) -> list[TopicPartition]:
        timeout = check_timeout(timeout)
        array = to_native(items)
        command = lib.ka_consumer_ask(self._native, what, array, len(items), micros(timeout))
        # That nothing came is told a little after that time.
        return await self._result(command, timeout, Deadline(None if timeout is None else timeout + _ANSWER_S))

    async def _result(
        self, command: ffi.CData, timeout: float | None, deadline: Deadline | None = None
    ) -> list[TopicPartition]:
        """Wait for what only the cluster can answer."""
        try:
            return await result(self._waits, command, timeout, deadline)
        except errors.ConsumerError as error:
            if error.name != "_TIMED_OUT" or not (why := reason(lib.ka_consumer_trouble, self._native)):
                raise
            raise errors.reworded(errors.ConsumerError, error, f"{error}{why}") from None

    def _need_group(self, what: str) -> None:
        if self._group_id is None:
            raise errors.ConsumerError(f"{what} needs a group: give group_id", code=-179, name="_UNKNOWN_GROUP")

    def metrics(self) -> ConsumerMetrics:
        """Take a snapshot of counters and latencies.

        Never blocks. Valid after ``stop`` too.

        Returns
        -------
        ConsumerMetrics

        Raises
        ------
        ForkedError
            The consumer belongs to the parent process.
        """
        from kafka_async.metrics import consumer_metrics

        stats = ffi.new("ka_consumer_stats *")
        status = lib.ka_consumer_metrics(self._native, stats)
        if status != lib.KA_OK:
            raise state_error(status)
        return consumer_metrics(stats)

    async def _stop(self, timeout: float | None, store_last: bool) -> None:
        self._rebalancer.refuse_inside("stop")
        deadline = Deadline(timeout)
        if lib.ka_consumer_retire(self._native, store_last, 1) != lib.KA_OK:  # or made by the parent process
            if self._closing and not self._closed:  # another thread is at it, or was driven away by a signal
                await self._await_closed(deadline, timeout)
            return
        try:
            if self._group_id is not None and self._subscription:
                await self._rebalancer.give_up(self, deadline)
        finally:
            await self._close(deadline, timeout, store_last)

    async def _close(self, deadline: Deadline, timeout: float | None, store_last: bool) -> None:
        self._closing = True
        lib.ka_consumer_close(self._native, store_last)
        await self._await_closed(deadline, timeout)

    async def _await_closed(self, deadline: Deadline, timeout: float | None) -> None:
        status = await self._waits.until(
            lambda timeout_us: lib.ka_wait_consumer_closed(self._native, timeout_us),
            lambda: lib.ka_try_consumer_closed(self._native),
            deadline,
        )
        if status == lib.KA_TIMEOUT:
            _log.note("the consumer has not left its group after %s s; it goes on in the background", timeout)
        _exit.forget(self)
        self._closed = True

    def _polled_here(self) -> bool:
        """Tell whether the caller is done with the message in hand."""
        return self._poller == self._caller()

    async def _leave(self, error: BaseException | None) -> None:
        """Stop at the end of a ``with`` block; after an exception the message in hand is not committed."""
        try:
            await self._stop(5.0, error is None and self._polled_here())
        except Exception:
            if error is None:
                raise
            _log.logger().exception("stopping after %s met another exception", type(error).__name__)

    async def _group_for(self, timeout: float | None) -> ffi.CData:
        """Find what a transaction has to know of the group: an answered command."""
        self._need_group("send_offsets_to_transaction")
        if self._auto_commit:
            raise config_error(
                "enable.auto.commit",
                "config: 'enable.auto.commit' must be False for a consumer whose offsets are sent to a transaction",
            )
        command = owned(lib.ka_consumer_group(self._native))
        await settle(self._waits, command, timeout)
        return command

    def _begin_exit(self, timeout_s: float) -> None:  # noqa: ARG002 - a consumer's end has no limit of its own
        lib.ka_consumer_close(self._native, 0)

    def _end_exit(self, timeout_s: float) -> int:
        wait(lambda timeout_us: lib.ka_wait_consumer_closed(self._native, timeout_us), timeout_s)
        return 0


def _after_fork_in_child() -> None:
    for consumer in list(_consumers):
        consumer._generation = -1  # so that the next poll asks the core, which refuses
        consumer._rebalancer.leave()


os.register_at_fork(after_in_child=_after_fork_in_child)


def owned_messages() -> ffi.CData:
    """Make the owner of a native batch, before there is one that may lack the memory for it.

    Returns
    -------
    ka_messages **
        Its batch, once it is set, is freed with it.
    """
    return ffi.gc(ffi.new("ka_messages **"), lib.ka_messages_free)


def _check_prefetch(messages: int, size: int) -> None:
    for name, number, least, most in (
        ("prefetch_messages", messages, 2, 10_000_000),
        ("prefetch_bytes", size, 2048, 2**31),
    ):
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"{name} must be int, not {type(number).__name__}")
        if not least <= number <= most:
            raise ValueError(f"{name} must be from {least} to {most}, not {number}")


def _config(
    bootstrap_servers: str,
    group_id: str | None,
    config: Mapping[str, Value] | None,
    prefetch_messages: int,
    prefetch_bytes: int,
) -> Config:
    if config is not None and not isinstance(config, Mapping):
        raise TypeError(f"config must be a mapping of property to value, not {type(config).__name__}")
    forced: dict[str, Value] = {
        "group.id": group_id or _NO_GROUP,
        "enable.auto.offset.store": False,
        "queued.min.messages": prefetch_messages // 2,
        "queued.max.messages.kbytes": prefetch_bytes // 2 // 1024,
    }
    if config and config.get("group.protocol") == "consumer":
        _check_consumer_protocol(lib.ka_librdkafka_version_linked())
    if group_id is None:
        if config and str(config.get("enable.auto.commit", "false")).lower() == "true":
            raise errors.ConfigError("config: 'enable.auto.commit' needs a group: give group_id")
        forced["enable.auto.commit"] = False
    defaults = fetch_defaults(prefetch_bytes)
    if config and "message.max.bytes" in config:
        del defaults["fetch.max.bytes"]  # librdkafka fits it to that
    conf = Config(lib.KA_CONSUMER, bootstrap_servers, config, forced, defaults)
    if not (config and "metadata.max.age.ms" in config):
        conf.keep_metadata()
    return conf


def _check_consumer_protocol(version: int) -> None:
    """Before 2.12 librdkafka's consumer protocol was a preview, or not there."""
    if version < 0x020C0000:
        linked = ffi.string(lib.ka_librdkafka_version()).decode()
        raise config_error(
            "group.protocol",
            f"config: 'group.protocol' \"consumer\" needs librdkafka 2.12 or later, and this is {linked}: "
            "build with the bundled one, or leave it out",
        )


def _names(topics: str | Iterable[str], group_id: str | None) -> list[str]:
    if isinstance(topics, bytes) or not isinstance(topics, Iterable):
        raise TypeError(f"topics must be str or an iterable of str, not {type(topics).__name__}")
    names = [topics] if isinstance(topics, str) else list(topics)
    if not names:
        raise ValueError("no topic to read: use unsubscribe() to read nothing")
    for name in names:
        if not isinstance(name, str) or not name.startswith("^"):
            check_topic(name)
        elif "\0" in name:
            raise ValueError(f"topic {name!r:.80}: it holds a NUL")
        elif group_id is None:
            raise errors.ConsumerError(f"topic {name!r}: a regular expression needs a group_id")
    return names


def _time(item: TopicPartition) -> int | None:
    """Return the time that an offset stands for, None: it is another kind."""
    match item.offset:
        case ("timestamp", time):
            return _milliseconds(item, time)
    return None


def _tail(item: TopicPartition) -> int | None:
    """Return how far before the end an offset lies, None: it is another kind."""
    match item.offset:
        case "end":
            return 0
        case ("tail", count):
            native_offset(item.offset)
            return count
    return None


def _milliseconds(item: TopicPartition, time: object) -> int:
    if isinstance(time, bool) or not isinstance(time, int) or not 0 <= time < 2**63:
        raise ValueError(f"{item!r}: a time must be milliseconds since the epoch, an int of at least 0")
    return time


def _offsets(
    offsets: Iterable[TopicPartition] | Mapping[TopicPartition, int] | None,
) -> list[TopicPartition] | None:
    if offsets is None:
        return None
    if isinstance(offsets, Mapping):
        offsets = [check_partition(item)._replace(offset=offset) for item, offset in offsets.items()]
    items = check_partitions(offsets)
    for item in items:
        if isinstance(item.offset, bool) or not isinstance(item.offset, int) or not 0 <= item.offset < 2**63:
            raise ValueError(f"{item!r}: to be committed it needs the offset of the next message to process")
    return items
