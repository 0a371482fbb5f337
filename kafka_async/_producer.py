"""What both producers have in common, the blocking one and the one of asyncio."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Literal, NamedTuple

from kafka_async import _exit, _log, _payload, errors
from kafka_async._batch import Batch
from kafka_async._delivery import Outcomes, Promise, Unread, Waiting, not_awaited
from kafka_async._failures import Failures
from kafka_async._fast import Sender
from kafka_async._idle import Idle, native_idle
from kafka_async._native import ffi, lib
from kafka_async._oauth import make_tokens
from kafka_async._refusal import Limits, no_topic, state_error
from kafka_async._transaction import transact
from kafka_async._trouble import reason
from kafka_async._wait import Deadline, Waits, answer, check_timeout, micros, owned, wait
from kafka_async.config import Config, Value, config_error, native_error
from kafka_async.message import (
    DeliveryReport,
    Record,
    check_topic,
    pack_headers,
)

if TYPE_CHECKING:
    from kafka_async._delivery import OnDelivery
    from kafka_async._oauth import OnOAuth, OnOAuthAsync
    from kafka_async.message import Headers, Payload
    from kafka_async.metrics import ProducerMetrics

    Partitioner = Callable[[str, Payload, Payload, int], int]
    # Of ka_producer_send_record(), all but the token.
    _Record = tuple[ffi.CData, int, int, int, ffi.CData | bytes, int, ffi.CData | bytes, int, bytes, int]

_send_record = lib.ka_producer_send_record
_NO_TOPIC = -1
_CO_COROUTINE = 0x80  # of inspect, which takes long to import
_PURGE_LIMIT_S = 1.0
OPEN_LIMIT_S = 5.0
_POLICIES = {
    "raise": lib.KA_REFUSE,
    "block": lib.KA_REFUSE,
    "drop_new": lib.KA_DROP_NEW,
    "drop_old": lib.KA_DROP_OLD,
}


class Blocked(NamedTuple):
    """A message that waits for room; it is accepted or forgotten by ``_unblock``."""

    record: _Record
    token: int
    delivery: Promise | None


class ProducerCore(Sender, ABC):
    """What the producer does, whether its calls block or are awaited.

    Its coroutines wait by `Waits` alone.
    """

    _idle: Idle = "warm"  # by default
    _stopped = True  # and the caller was told of what was lost; until it is open

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str | None = None,
        *,
        config: Mapping[str, Value] | None = None,
        queue_messages: int = 100_000,
        queue_bytes: int = 64 * 2**20,
        on_full: Literal["raise", "block", "drop_new", "drop_old"] = "raise",
        block_timeout: float | None = None,
        partitioner: Partitioner | None = None,
        on_oauth: OnOAuth | OnOAuthAsync | None = None,
        idle: Idle | None = None,
        cpu: int | None = None,
        log: bool = True,
    ) -> None:
        import kafka_async.metrics  # noqa: F401 - takes milliseconds: now, not in the first metrics()

        self._waits = self._make_waits()
        if not isinstance(on_full, str) or on_full not in _POLICIES:
            raise ValueError(f"on_full must be one of {', '.join(map(repr, _POLICIES))}, not {on_full!r}")
        if partitioner is not None and not callable(partitioner):
            raise TypeError(f"partitioner must be callable, not {type(partitioner).__name__}")
        _check_range("queue_messages", queue_messages, 10_000_000)
        _check_range("queue_bytes", queue_bytes, 2**38 - 1)
        idling = native_idle(self._idle if idle is None else idle, cpu)
        conf = Config(lib.KA_PRODUCER, bootstrap_servers, config, {})
        self._transactional_id = conf.get("transactional.id")
        if on_full.startswith("drop") and self._transactional_id:
            raise config_error(
                "transactional.id",
                f"config: 'transactional.id' and on_full={on_full!r} exclude each other, since a transaction that "
                "lacks messages must not be committed: use 'raise' or 'block'",
            )
        message_timeout_ms = conf.number("message.timeout.ms", 300_000)
        block_timeout = check_timeout(block_timeout, "block_timeout")
        if block_timeout is None and message_timeout_ms > 0:
            block_timeout = message_timeout_ms / 1000
        self._tokens = make_tokens(conf, on_oauth, self._waits)
        max_message = conf.number("message.max.bytes", 1_000_000)
        self._limits = Limits(queue_messages, queue_bytes, max_message, on_full, block_timeout)
        self._partitioner = partitioner
        self._purged_before: int | None = None  # closing
        self._left_open = False  # a transaction, by an abort that failed
        self._counting: dict[int, ffi.CData] = {}  # topics whose partitions are being counted
        self._topics: dict[str, int] = {}
        if topic is not None:
            check_topic(topic)
        _exit.check()
        if log:
            _log.start()
        error = ffi.new("ka_error *")
        # With a partitioner, the core's short send has no topic, and refuses.
        name = ffi.NULL if topic is None or partitioner is not None else ffi.new("char[]", topic.encode())
        options = ffi.new(
            "ka_producer_options *",
            {
                "queue_messages": queue_messages,
                "queue_bytes": queue_bytes,
                "log": bool(log),
                "on_full": _POLICIES[on_full],
                "count_partitions": partitioner is not None,
                "topic": name,
                "oauth": self._tokens.native if self._tokens else ffi.NULL,
            },
        )
        options.idle, options.bound, options.cpu = idling
        native = lib.ka_wait_producer_open(conf.native, options, error)
        if not native:
            raise native_error(error)
        conf.taken()
        self._native = ffi.gc(native, lib.ka_producer_release)
        calls = (ffi.addressof(lib, name) for name in ("ka_producer_send", "ka_producer_send_values"))
        self._attach(self._native, *(int(ffi.cast("intptr_t", address)) for address in (native, *calls)))
        self._unread = Unread()
        self._outcomes = self._make_outcomes()
        self._failures = Failures(self._native, self._unread)
        self._topic = topic
        self._default_topic = _NO_TOPIC if topic is None else self._topic_number(topic)
        _exit.watch(self)
        if self._tokens:
            self._waits.attend(self._tokens)
        self._opened()
        self._stopped = False

    @abstractmethod
    def _make_waits(self) -> Waits:
        """Make what its coroutines wait by."""

    @abstractmethod
    def _make_outcomes(self) -> Outcomes:
        """Make what tells of outcomes."""

    @abstractmethod
    def _opened(self) -> None:
        """Do what remains to be done when the native producer is there."""

    async def _count_default_topic(self) -> None:
        """Let the first message find its partitions; a cluster that is away shows in `send`."""
        if self._partitioner is None or self._topic is None:
            return
        try:
            await self._ask_partitions(self._topic, OPEN_LIMIT_S, connect=False)
        except errors.KafkaError as error:
            _log.note("the partitions of topic %s are not known yet: %s", self._topic, error)

    def _send_record(
        self,
        value: Payload,
        key: Payload,
        delivery: Promise | None = None,
        *,
        topic: str | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Headers | None = None,
        on_delivery: OnDelivery | None = None,
    ) -> Blocked | None:
        """Send a message that is more than bytes. Returns it if it has to wait for room."""
        number = self._default_topic if topic is None else self._topic_number(topic)
        if number == _NO_TOPIC:
            raise no_topic()
        # bytes, the common case, need no call.
        value_at, value_len = (value, len(value)) if value.__class__ is bytes else _payload.cross("value", value)
        key_at, key_len = (ffi.NULL, 0) if key is None else _payload.cross("key", key)
        packed = pack_headers(headers) if headers else b""
        if partition is not None:
            partition = _payload.integer("partition", partition, 2**31 - 1)
        elif self._partitioner is not None:
            partition = self._choose(topic or self._topic, number, key, value)
        if timestamp_ms is not None:
            timestamp_ms = _payload.integer("timestamp_ms", timestamp_ms, 2**63 - 1, least=1)
        record = (
            self._native,
            number,
            -1 if partition is None else partition,  # KA_PARTITION_ANY
            -1 if timestamp_ms is None else timestamp_ms,
            value_at,
            value_len,
            key_at,
            key_len,
            packed,
            len(packed),
        )
        token = 0
        if delivery is not None or on_delivery is not None:
            token = self._expect(topic or self._topic or "", key, value, packed, on_delivery, delivery)
        # An exception of a signal handler may come after the core has accepted, before its answer is seen here:
        # so no `finally` forgets the token, only an answer that says no.
        status = _send_record(*record, token)
        if status == lib.KA_OK:
            return None
        if status == lib.KA_FULL and self._may_block():
            return Blocked(record, token, delivery)
        self._refuse(status, record, token, delivery)
        return None

    def _expect(
        self,
        topic: str,
        key: Payload,
        value: Payload,
        packed: bytes,
        on_delivery: OnDelivery | None,
        delivery: Promise | None,
    ) -> int:
        """Take note of a message whose outcome somebody waits for. Returns its token."""
        if on_delivery is not None:
            if not callable(on_delivery):
                raise TypeError(f"on_delivery must be callable, not {type(on_delivery).__name__}")
            code = getattr(on_delivery, "__code__", None)
            if code is not None and code.co_flags & _CO_COROUTINE:
                raise not_awaited(on_delivery)
        if self._stopped:
            raise state_error(lib.KA_CLOSED)
        return self._outcomes.expect(
            Waiting(topic, _payload.kept(key), _payload.kept(value), packed, on_delivery, delivery)
        )

    def _refuse(
        self, status: int, record: _Record, token: int, delivery: Promise | None, no_wait: str | None = None
    ) -> None:
        """Tell that a message was not accepted."""
        if token:
            self._outcomes.forget(token)
        sizes = (record[5], record[7], record[9])
        if status == lib.KA_DROPPED and delivery is not None:
            delivery.set_exception(self._refusal(lib.KA_FULL, sizes))
        if status < 0:
            raise self._refusal(status, sizes, no_wait)

    async def _unblock(self, blocked: Blocked, deadline: Deadline | None = None) -> None:
        """Send a message when there is room for it."""
        record, token, delivery = blocked
        deadline = deadline or Deadline(self._limits.block_timeout)
        status = lib.KA_FULL
        while status == lib.KA_FULL:  # another sender may take the room that was waited for
            try:
                status = await self._wait_room(record[5] + record[7] + record[9], token != 0, deadline)
            except BaseException:
                self._outcomes.forget(token)
                raise
            if status != lib.KA_OK:
                break
            status = _send_record(*record, token)
        if status != lib.KA_OK:
            self._refuse(status, record, token, delivery)

    def _may_block(self) -> bool:
        return self._limits.on_full == "block" and not self._outcomes.is_current()

    async def _wait_room(self, size: int, result: bool, deadline: Deadline) -> int:
        status = await self._waits.until(
            lambda timeout_us: lib.ka_wait_producer_room(self._native, size, result, timeout_us),
            lambda: lib.ka_try_producer_room(self._native, size, result),
            deadline,
        )
        return lib.KA_FULL if status == lib.KA_TIMEOUT else status

    def _begin_many(self, values_or_records: Iterable[Payload | Record], topic: str | None) -> int | tuple[Batch, int]:
        """Send as many as are given, and return that; or gather them for `_send_batch`."""
        number = self._default_topic if topic is None else self._topic_number(topic)
        if number == _NO_TOPIC:
            raise no_topic()
        if isinstance(values_or_records, (str, bytes, bytearray, memoryview, Record)):
            raise TypeError(
                f"send_many takes an iterable of values or records, not one {type(values_or_records).__name__}"
            )
        items = values_or_records if isinstance(values_or_records, (list, tuple)) else list(values_or_records)
        choose = None
        if self._partitioner is None:
            accepted = self._send_values(number, items)
            if accepted is not None:
                return accepted
        else:
            name = topic or self._topic
            choose = lambda key, value: self._choose(name, number, key, value)  # noqa: E731
        return Batch(items, choose), number

    async def _send_batch(self, batch: Batch, number: int) -> int:
        """Send what was gathered for a topic's number. Who calls raises its `shortage` instead of a MemoryError."""
        status = batch.send(self._native, number)
        while status == lib.KA_FULL and self._may_block():
            deadline = Deadline(self._limits.block_timeout)
            blocked = batch.next_item
            while status == lib.KA_FULL and batch.next_item == blocked:
                status = await self._wait_room(sum(batch.sizes(blocked)), False, deadline)
                if status != lib.KA_OK:
                    raise self._batch_error(batch, status)
                status = batch.send(self._native, number)
        refused = batch.refused()
        if status != lib.KA_OK or refused:
            raise self._batch_error(batch, status if status != lib.KA_OK else refused[0][1])
        return batch.accepted

    def _batch_error(self, batch: Batch, status: int) -> Exception:
        refused: list[tuple[int, errors.KafkaError]] = []
        for index, code in batch.refused():
            error = self._refusal(code, batch.sizes(index))
            if isinstance(error, errors.KafkaError):
                refused.append((index, error))
        sizes = batch.sizes(min(batch.next_item, batch.count - 1)) if batch.count else (0, 0, 0)
        error = refused[0][1] if status == lib.KA_TOO_LARGE else self._refusal(status, sizes)
        if isinstance(error, (errors.QueueFull, errors.MessageTooLarge)):
            if status == lib.KA_FULL:
                refused += [(index, error) for index in range(batch.next_item, batch.count)]
            error.errors = refused
        if isinstance(error, (errors.QueueFull, errors.MessageTooLarge, errors.ClosedError, errors.TransactionError)):
            error.accepted = batch.accepted
        return error

    async def _warm_up(self, topics: tuple[str, ...], timeout: float | None) -> None:
        timeout = check_timeout(timeout)
        if not topics and self._topic is None:
            raise ValueError("no topic: give one to warm_up() or to Producer()")
        deadline = Deadline(timeout)
        for topic in topics or (self._topic,):
            await self._ask_partitions(topic or "", deadline.left(), connect=True)

    async def _ask_partitions(self, topic: str, timeout: float | None, *, connect: bool) -> int:
        error = ffi.new("ka_error *")
        command = lib.ka_producer_partitions(self._native, self._topic_number(topic), connect, micros(timeout))
        status, count = await answer(self._waits, command, timeout, error)
        if status in (lib.KA_FAILED, lib.KA_TIMEOUT):
            cause = errors.from_native(errors.KafkaError, error)
            if status == lib.KA_TIMEOUT or cause.name == "_TIMED_OUT":
                why = reason(lib.ka_producer_trouble, self._native) or ": is it reachable?"
                raise errors.KafkaError(
                    f"topic {topic!r}: the cluster did not answer within {timeout:.3g} s{why}",
                    code=-185,
                    name="_TIMED_OUT",
                    retriable=True,
                )
            raise errors.reworded(errors.KafkaError, cause, f"topic {topic!r}: {cause}")
        if status != lib.KA_OK:
            raise state_error(status)
        return count

    def _choose(self, topic: str | None, number: int, key: Payload, value: Payload) -> int:
        """Let the application's partitioner choose."""
        assert self._partitioner is not None
        assert topic is not None
        count = lib.ka_producer_partition_count(self._native, number)
        if count <= 0:
            self._count_in_background(number)
            raise errors.KafkaError(
                f"the number of partitions of topic {topic!r} is not known yet: call warm_up({topic!r}) first, "
                "or send again later",
                code=-191,
                name="_WAIT_CACHE",
                retriable=True,
            )
        partition = _payload.integer("the partitioner's choice", self._partitioner(topic, key, value, count), 2**31 - 1)
        if partition >= count:
            raise ValueError(
                f"the partitioner's choice must be below {count}, the number of partitions, not {partition}"
            )
        return partition

    def _count_in_background(self, number: int) -> None:
        error = ffi.new("ka_error *")
        command = self._counting.get(number)
        if command is not None and lib.ka_try_command(command, error) == lib.KA_TIMEOUT:
            return
        self._counting[number] = owned(lib.ka_producer_partitions(self._native, number, False, micros(OPEN_LIMIT_S)))

    async def _flush(self, timeout: float | None) -> None:
        timeout = check_timeout(timeout)
        if self._outcomes.is_current():
            raise RuntimeError("flush() inside of a delivery callback would wait for that callback itself")
        deadline = Deadline(timeout)
        status = ticket = lib.ka_producer_flush(self._native)
        if ticket > 0:
            status = await self._waits.until(
                lambda timeout_us: lib.ka_wait_producer_flush(self._native, ticket, timeout_us),
                lambda: lib.ka_try_producer_flush(self._native, ticket),
                deadline,
            )
        if status == lib.KA_OK:
            status = await self._outcomes.wait(deadline, even_closed=False)
        if status == lib.KA_TIMEOUT:
            outstanding = max(self.metrics().outstanding, self._outcomes.pending())
            if outstanding:
                raise self._flush_timeout(outstanding, "still queued; flush() again to go on waiting")
            status = lib.KA_OK  # the last outcome came as the time was over
        if status < 0:
            raise state_error(status)
        self._failures.raise_untold()

    async def _purge(self, in_flight: bool) -> int:
        before = self.metrics().purged
        command = lib.ka_producer_purge(self._native, bool(in_flight))
        status, purged = await answer(self._waits, command, _PURGE_LIMIT_S, ffi.new("ka_error *"))
        if status == lib.KA_TIMEOUT:
            return self.metrics().purged - before
        if status != lib.KA_OK:
            raise state_error(status)
        return purged

    async def _transact(self, what: int, name: str, timeout: float | None) -> None:
        await transact(self._waits, self._native, what, name, check_timeout(timeout), self._transactional_id)
        self._left_open = False
        if what == lib.KA_ABORT:
            self._failures.tell()

    @asynccontextmanager
    async def _transaction(self, timeout: float | None) -> AsyncIterator[None]:
        if self._left_open:  # by a block before
            await self._transact(lib.KA_ABORT, "abort_transaction", timeout)
        await self._transact(lib.KA_BEGIN, "begin_transaction", OPEN_LIMIT_S)
        try:
            yield
        except BaseException as error:
            await self._abort_quietly(error, timeout)
            raise
        try:
            await self._transact(lib.KA_COMMIT, "commit_transaction", timeout)
        except errors.TransactionError as error:
            if error.requires_abort:
                await self._abort_quietly(error, timeout)
            raise

    async def _abort_quietly(self, because: BaseException, timeout: float | None) -> None:
        """Abort because of an error that matters more than one of the abort, which becomes a note of it."""
        self._left_open = True  # also when another exception drives us away
        try:
            await self._transact(lib.KA_ABORT, "abort_transaction", timeout)
        except errors.KafkaError as error:
            self._left_open = not error.fatal
            text = f"the transaction that this ended could not be aborted: {error}"
            _log.logger().error("%s", text)
            if sys.version_info >= (3, 11):
                because.add_note(text)

    async def _stop(self, timeout: float | None) -> None:
        timeout = check_timeout(timeout)
        if self._stopped or not self._begin_close(timeout):
            return
        # The core keeps to the timeout itself; the limit here is for purging that takes long.
        deadline = Deadline(None if timeout is None else timeout + _PURGE_LIMIT_S)
        lost = await self._waits.until(
            lambda timeout_us: lib.ka_wait_producer_closed(self._native, timeout_us),
            lambda: lib.ka_try_producer_closed(self._native),
            deadline,
        )
        told = lib.KA_OK
        if lost >= 0 and not self._outcomes.is_current():
            told = await self._outcomes.wait(deadline, even_closed=True)
        if self._stopped:  # by another thread, which tells
            return
        self._stopped = self._unread.stopped = True
        _exit.forget(self)
        if lost < 0:
            error: errors.KafkaError = self._flush_timeout(self._purged_closing(), "being purged in the background")
        elif lost and lib.ka_producer_transaction(self._native) in (lib.KA_TXN_OPEN, lib.KA_TXN_UNKNOWN):
            error = self._stopped_within(lost)
        elif lost:
            error = self._flush_timeout(lost, "purged")
        elif told != lib.KA_OK:
            error = self._flush_timeout(self._outcomes.pending(), "their callbacks go on in the background")
        else:
            self._failures.raise_untold()
            return
        self._failures.tell()  # by this error
        raise error

    def _begin_close(self, timeout: float | None) -> bool:
        """Close. Returns whether it is ours to close."""
        if self._purged_before is None:
            with suppress(errors.ForkedError):
                self._purged_before = self.metrics().purged
        return bool(lib.ka_producer_close(self._native, micros(timeout)) != lib.KA_FORKED)

    def _purged_closing(self) -> int:
        """Count what closing purges, whether it is through with that or not."""
        now = self.metrics()
        return now.outstanding + now.purged - (self._purged_before or 0)

    def _stopped_within(self, messages: int) -> errors.TransactionError:
        if lib.ka_producer_transaction(self._native) == lib.KA_TXN_OPEN:
            text = f"stopped within a transaction: its {messages} messages are aborted"
        else:
            text = (
                f"the end of a transaction of {messages} messages failed or was not over in time: whether it was "
                "committed is not known here; the next init_transactions() of this transactional.id finishes it"
            )
        return errors.TransactionError(text, name="_STATE", code=-172)

    def failures(self) -> list[DeliveryReport]:
        """Take the messages that failed, oldest first, payload included.

        Never blocks. At most 1,000 messages or 4 MiB are kept between two calls; ``metrics().failed``
        counts all. What is returned counts as told; failures that were not kept are still raised by
        ``flush`` and ``stop``. Messages whose future or callback told of their failure are not repeated here.

        Returns
        -------
        list of DeliveryReport

        Raises
        ------
        ForkedError
            The producer belongs to the parent process.
        """
        return self._failures.fetch()

    def metrics(self) -> ProducerMetrics:
        """Take one consistent snapshot of counters and latencies.

        Never blocks. Valid after ``stop`` too.

        Returns
        -------
        ProducerMetrics

        Raises
        ------
        ForkedError
            The producer belongs to the parent process.
        """
        from kafka_async.metrics import producer_metrics

        stats = ffi.new("ka_producer_stats *")
        status = lib.ka_producer_metrics(self._native, stats)
        if status != lib.KA_OK:
            raise state_error(status)
        return producer_metrics(stats)

    async def _leave(self, error: BaseException | None) -> None:
        """Stop at the end of a ``with`` block. An exception that ends it is kept, and what was lost is told at exit."""
        try:
            await self._stop(5.0)
        except (errors.FlushTimeout, errors.DeliveryError, errors.TransactionError) as trouble:
            if error is None:
                raise
            _log.note("the producer stopped because of an exception, and: %s", trouble, level=40)
            _exit.lose(getattr(trouble, "failed", 0) + getattr(trouble, "outstanding", 0))

    def _topic_number(self, topic: str) -> int:
        number = self._topics.get(topic)
        if number is None:
            check_topic(topic)
            number = lib.ka_producer_topic(self._native, topic.encode())
            if number < 0:
                raise state_error(number)
            self._topics[topic] = number
        return number

    def _refusal(self, status: int, sizes: tuple[int, int, int], no_wait: str | None = None) -> Exception:
        if self._outcomes.is_current():
            no_wait = "a delivery callback does not wait"
        return self._limits.refusal(
            status, sizes, no_wait=no_wait, transaction=lib.ka_producer_transaction(self._native)
        )

    def _flush_timeout(self, outstanding: int, what: str) -> errors.FlushTimeout:
        error = errors.FlushTimeout(
            f"{outstanding} messages had no outcome when the time was over: {what}"
            f"{reason(lib.ka_producer_trouble, self._native)}",
            code=-185,
            name="_TIMED_OUT",
            retriable=True,
        )
        error.outstanding = outstanding
        error.failed = self._failures.untold() + self._outcomes.untold_failures()
        return error

    def _begin_exit(self, timeout_s: float) -> None:
        self._begin_close(timeout_s)

    def _end_exit(self, timeout_s: float) -> int:
        lost = wait(lambda timeout_us: lib.ka_wait_producer_closed(self._native, timeout_us), timeout_s)
        if lost < 0:
            lost = self._purged_closing()
        return lost + self._failures.tell()[0]


ProducerCore._send_record.__qualname__ = "send"  # for a TypeError about its arguments


def _check_range(name: str, number: int, most: int) -> None:
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{name} must be int, not {type(number).__name__}")
    if not 1 <= number <= most:
        raise ValueError(f"{name} must be from 1 to {most}, not {number}")
