"""The producer: hand a message over in a microsecond, learn its outcome for certain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from kafka_async import _exit, _log, _payload, errors
from kafka_async._batch import Batch
from kafka_async._delivery import Delivery, Dispatcher, Unread, Waiting
from kafka_async._failures import Failures
from kafka_async._idle import Idle, native_idle
from kafka_async._native import ffi, lib
from kafka_async._refusal import Limits, no_topic, state_error
from kafka_async._transaction import send_offsets, transact
from kafka_async._wait import Deadline, answer, check_timeout, micros, owned, wait
from kafka_async.config import Config, Value, config_error, native_error
from kafka_async.message import (
    DeliveryReport,
    Record,
    TopicPartition,
    check_topic,
    pack_headers,
)
from kafka_async.metrics import ProducerMetrics, latency_summary

if TYPE_CHECKING:
    from typing_extensions import TypedDict, Unpack

    from kafka_async._delivery import OnDelivery
    from kafka_async.consumer import Consumer
    from kafka_async.message import Headers, Payload

    Partitioner = Callable[[str, Payload, Payload, int], int]
    # Of ka_producer_send_record(), all but the token.
    _Record = tuple[ffi.CData, int, int, int, ffi.CData | bytes, int, ffi.CData | bytes, int, bytes, int]

    class SendOptions(TypedDict, total=False):
        """The keyword arguments of `Producer.send`."""

        topic: str | None
        partition: int | None
        timestamp_ms: int | None
        headers: Headers | None
        on_delivery: OnDelivery | None


_send = lib.ka_producer_send
_send_record = lib.ka_producer_send_record
_NO_TOPIC = -1
_PURGE_LIMIT_S = 1.0
_OPEN_LIMIT_S = 5.0
_POLICIES = {
    "raise": lib.KA_REFUSE,
    "block": lib.KA_REFUSE,
    "drop_new": lib.KA_DROP_NEW,
    "drop_old": lib.KA_DROP_OLD,
}


class Producer:
    """Sends messages through a native queue and worker.

    ``send`` copies a message into the queue and returns; a native thread that never needs the GIL does
    the rest. Every accepted message gets exactly one outcome: delivered, failed or purged. A
    failure that nobody was told about is raised by the next ``flush`` or ``stop``.

    All methods may be called from any thread. It is a context manager that stops it at the end.

    Parameters
    ----------
    bootstrap_servers : str
        ``"host:port,host:port"``.
    topic : str, optional
        Where messages go that name no topic.
    config : mapping, optional
        Any property of librdkafka for a producer; see `kafka_async.config` for our defaults.
    queue_messages : int, default 100,000
        Bound on messages from acceptance to outcome, 1 to 10,000,000.
    queue_bytes : int, default 64 MiB
        Bound on their keys, values and headers, 1 to 2**38 - 1.
    on_full : {"raise", "block", "drop_new", "drop_old"}, default "raise"
        What ``send`` does when a bound is reached: raise `QueueFull`; wait for room; drop the new message;
        or drop the oldest one that librdkafka does not hold yet. librdkafka then holds at most a
        quarter of the bounds, 10,000 messages and 4 MiB; when all others are gone, the new one is dropped.
        Drops are counted in ``metrics().dropped``; of a new message that is dropped only the future of ``submit``
        tells.
    block_timeout : float, optional
        Seconds to wait for room, then `QueueFull`. By default ``message.timeout.ms``.
    partitioner : callable, optional
        ``partitioner(topic, key, value, partition_count) -> int`` chooses the partition of each message that
        names none. It is called by ``send``, in its thread, before the message is queued, with key and
        value as they were given. By default librdkafka's ``partitioner`` property decides.
    idle : {"warm", "park", "spin"}, default "warm"
        How the worker waits for messages. "warm": while messages come less than 5 ms apart it looks for them in
        short naps, so that ``send`` need not wake it, which takes 10 to 20 % of a core and delays a message by
        50 to 200 us; else it sleeps. "park": it sleeps at once and every ``send`` to an idle worker makes a
        system call of 3 to 30 us: the least CPU. "spin": it never sleeps, for the shortest ``send`` and the
        soonest delivery, and takes a whole core, also at rest: not on a machine with few of them.
    cpu : int, optional
        The CPU that the worker is bound to, counted from 0 (Linux only); for "spin", one that nothing else uses.
    log : bool, default True
        librdkafka's log lines go to the logger ``kafka_async``.

    Raises
    ------
    ConfigError
        A property is unknown, invalid, or set by an argument instead; a policy that drops with a
        ``transactional.id``.
    ValueError
        A bound or another argument is out of range.
    KafkaError
        librdkafka could not start.

    Notes
    -----
    Opening does not wait for a broker: an unreachable one shows in the log, and in the failures of
    messages after ``message.timeout.ms`` (librdkafka's default: 300,000). Only with both `partitioner` and
    `topic` it waits up to 5 s for the topic's number of partitions.
    """

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
        idle: Idle = "warm",
        cpu: int | None = None,
        log: bool = True,
    ) -> None:
        if not isinstance(on_full, str) or on_full not in _POLICIES:
            raise ValueError(f"on_full must be one of {', '.join(map(repr, _POLICIES))}, not {on_full!r}")
        if partitioner is not None and not callable(partitioner):
            raise TypeError(f"partitioner must be callable, not {type(partitioner).__name__}")
        _check_range("queue_messages", queue_messages, 10_000_000)
        _check_range("queue_bytes", queue_bytes, 2**38 - 1)
        idling = native_idle(idle, cpu)
        conf = Config(lib.KA_PRODUCER, bootstrap_servers, config, {})
        if on_full.startswith("drop") and conf.get("transactional.id"):
            raise config_error(
                "transactional.id",
                f"config: 'transactional.id' and on_full={on_full!r} exclude each other, since a transaction that "
                "lacks messages must not be committed: use 'raise' or 'block'",
            )
        message_timeout_ms = conf.number("message.timeout.ms", 300_000)
        block_timeout = check_timeout(block_timeout, "block_timeout")
        if block_timeout is None and message_timeout_ms > 0:
            block_timeout = message_timeout_ms / 1000
        max_message = conf.number("message.max.bytes", 1_000_000)
        self._limits = Limits(queue_messages, queue_bytes, max_message, on_full, block_timeout)
        self._partitioner = partitioner
        self._counting: dict[int, ffi.CData] = {}  # topics whose partitions are being counted
        self._stopped = False  # and the caller was told of what was lost
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
            },
        )
        options.idle, options.bound, options.cpu = idling
        native = lib.ka_wait_producer_open(conf.native, options, error)
        if not native:
            raise native_error(error)
        conf.taken()
        self._native = ffi.gc(native, lib.ka_producer_release)
        self._dispatcher = Dispatcher(native)
        self._unread = Unread()
        self._failures = Failures(self._native, self._unread)
        self._topic = topic
        self._default_topic = _NO_TOPIC if topic is None else self._topic_number(topic)
        _exit.watch(self)
        if partitioner is not None:
            self._default_topic_counted(topic)

    def _default_topic_counted(self, topic: str | None) -> None:
        """Let the first message find its partitions; a cluster that is away shows in `send`."""
        if topic is None:
            return
        try:
            self.partitions(topic, timeout=_OPEN_LIMIT_S)
        except errors.KafkaError as error:
            _log.logger.warning("the partitions of topic %s are not known yet: %s", topic, error)

    def send(
        self,
        value: Payload,
        key: Payload = None,
        **options: Unpack[SendOptions],
    ) -> None:
        """Accept a message and return; its outcome comes later.

        Never blocks, does no I/O and never releases the GIL, but for ``on_full="block"`` with a full
        queue, which waits with the GIL released, and the first `on_delivery`, which starts a thread. The
        message is copied before it returns.

        Parameters
        ----------
        value : bytes, str, buffer or None
            The payload: anything with a contiguous buffer, str as UTF-8; None is a tombstone.
        key : bytes, str, buffer or None
            Messages with the same key go to the same partition, in order.
        topic : str, optional
            Instead of the constructor's.
        partition : int, optional
            Instead of the partitioner's choice. One that the topic does not have fails the message later
            (``_UNKNOWN_PARTITION``).
        timestamp_ms : int, optional
            Milliseconds since the epoch, at least 1 (librdkafka takes 0 for "now"); by default the
            time of the call.
        headers : sequence of (str, bytes or str or None), or mapping, optional
            Order and duplicates are kept.
        on_delivery : callable, optional
            Called once with the `DeliveryReport` of this message, on the producer's delivery thread. What it
            raises is logged. A slow one delays the others; messages with `on_delivery` find the queue full
            when those that are outstanding and those whose call is due reach twice the bounds. A message
            that was not accepted has no outcome, and no call.

        Raises
        ------
        QueueFull
            A bound is reached (after `block_timeout` with ``on_full="block"``; inside of `on_delivery` at once,
            since waiting there could wait for itself).
        MessageTooLarge
            Key, value and headers exceed ``message.max.bytes`` (less 36 bytes that Kafka's format takes) or
            `queue_bytes`.
        TypeError, ValueError
            An argument is of a wrong type or out of range; no topic; the partitioner chose no partition.
        TransactionError
            No transaction is open in a transactional producer.
        KafkaError
            With a `partitioner`: the topic's number of partitions is not known (retriable, see `warm_up`).
        ClosedError, ForkedError
            The producer is stopped, or belongs to the parent process.
        """
        # The common case costs one native call and no conversion. Options are collected, since defaults of
        # keyword-only parameters would be looked up one by one, a tenth of the whole call.
        if value.__class__ is bytes and key is None and not options and _send(self._native, value, len(value)) >= 0:
            return
        self._send_record(value, key, **options)

    def submit(
        self,
        value: Payload,
        key: Payload = None,
        **options: Unpack[SendOptions],
    ) -> Delivery:
        """Accept a message and return its outcome as a future.

        As `send` in all else. A failure in a future that is dropped unread counts as told to nobody, so
        ``flush`` or ``stop`` raises it.

        Returns
        -------
        Delivery
            A `concurrent.futures.Future` of `RecordMetadata`. Dropped by ``on_full="drop_new"``: it has ended with
            QueueFull.
        """
        delivery = Delivery(self._unread)
        self._send_record(value, key, delivery, **options)
        return delivery

    def _send_record(
        self,
        value: Payload,
        key: Payload,
        delivery: Delivery | None = None,
        *,
        topic: str | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Headers | None = None,
        on_delivery: OnDelivery | None = None,
    ) -> None:
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
        if delivery is None and on_delivery is None:
            status = _send_record(*record, 0)
            if status != lib.KA_OK:
                status = self._retry(status, record, 0)
        else:
            status = self._send_expecting(record, topic or self._topic or "", key, value, on_delivery, delivery)
        if status < 0:
            raise self._refusal(status, (value_len, key_len, len(packed)))

    def _send_expecting(
        self,
        record: _Record,
        topic: str,
        key: Payload,
        value: Payload,
        on_delivery: OnDelivery | None,
        delivery: Delivery | None,
    ) -> int:
        """Send a message whose outcome somebody waits for."""
        if on_delivery is not None and not callable(on_delivery):
            raise TypeError(f"on_delivery must be callable, not {type(on_delivery).__name__}")
        if self._stopped:
            raise state_error(lib.KA_CLOSED)
        packed = record[8]
        token = self._dispatcher.expect(
            Waiting(topic, _payload.kept(key), _payload.kept(value), packed, on_delivery, delivery)
        )
        # An exception of a signal handler may come after the core has accepted, before its answer is seen here:
        # so no `finally` forgets the token, only an answer that says no.
        status = _send_record(*record, token)
        if status != lib.KA_OK:
            status = self._retry(status, record, token)
        if status != lib.KA_OK:
            self._dispatcher.forget(token)
        if status == lib.KA_DROPPED and delivery is not None:
            delivery.set_exception(self._refusal(lib.KA_FULL, (record[5], record[7], len(packed))))
        return status

    def _retry(self, status: int, record: _Record, token: int) -> int:
        """Wait for room, if that is what the message needs and the policy says."""
        if status != lib.KA_FULL or not self._may_block():
            return status
        deadline = Deadline(self._limits.block_timeout)
        size = record[5] + record[7] + record[9]
        while status == lib.KA_FULL:  # another thread may take the room that was waited for
            try:
                status = self._wait_room(size, token != 0, deadline)
            except BaseException:
                self._dispatcher.forget(token)
                raise
            if status != lib.KA_OK:
                return status
            status = _send_record(*record, token)
        return status

    def _may_block(self) -> bool:
        return self._limits.on_full == "block" and not self._dispatcher.is_current()

    def _wait_room(self, size: int, result: bool, deadline: Deadline) -> int:
        status = wait(lambda timeout_us: lib.ka_wait_producer_room(self._native, size, result, timeout_us), deadline)
        return lib.KA_FULL if status == lib.KA_TIMEOUT else status

    def send_many(self, values_or_records: Iterable[Payload | Record], *, topic: str | None = None) -> int:
        """Accept many messages by one native call, and return how many.

        Blocks and releases the GIL only as `send` does. The messages are gathered into one buffer,
        which crosses at once; for more than 65,536 there are several crossings.

        Parameters
        ----------
        values_or_records : iterable of payloads and `Record`
            What `send` takes as a value; a `Record` has a key, headers, a partition, a timestamp too.
        topic : str, optional
            Instead of the constructor's.

        Returns
        -------
        int
            How many were accepted: all, but for those that a policy dropped, which are counted in
            ``metrics().dropped``.

        Raises
        ------
        QueueFull
            A bound is reached (with ``on_full="block"``, no room came for one message within
            `block_timeout`): ``accepted`` tells how many were accepted, ``errors`` has index and error of
            each other one. From the first that found no room on none is, so order is kept.
        MessageTooLarge
            Some can never be accepted, all others were: ``accepted`` and ``errors`` as above.
        TypeError, ValueError
            An item is of a wrong type or out of range; the text tells its index. None was queued.
        TransactionError, ClosedError, ForkedError
            As `send`; ``accepted`` tells how many were accepted before.
        """
        number = self._default_topic if topic is None else self._topic_number(topic)
        if number == _NO_TOPIC:
            raise no_topic()
        if isinstance(values_or_records, (str, bytes, bytearray, memoryview, Record)):
            raise TypeError(
                f"send_many takes an iterable of values or records, not one {type(values_or_records).__name__}"
            )
        items = values_or_records if isinstance(values_or_records, (list, tuple)) else list(values_or_records)
        choose = None
        if self._partitioner is not None:
            name = topic or self._topic
            choose = lambda key, value: self._choose(name, number, key, value)  # noqa: E731
        batch = Batch(items, choose)
        status = batch.send(self._native, number)
        while status == lib.KA_FULL and self._may_block():
            deadline = Deadline(self._limits.block_timeout)
            blocked = batch.next_item
            while status == lib.KA_FULL and batch.next_item == blocked:
                status = self._wait_room(sum(batch.sizes(blocked)), False, deadline)
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

    def partitions(self, topic: str, timeout: float | None = 5.0) -> int:
        """Ask the cluster for a topic's number of partitions.

        Waits with the GIL released. A topic that is missing is created where the cluster does that
        by itself.

        Parameters
        ----------
        topic : str
            The topic.
        timeout : float or None, default 5
            Seconds; None waits without limit.

        Returns
        -------
        int

        Raises
        ------
        KafkaError
            There is no such topic, it may not be seen, or no answer came in time (retriable).
        ClosedError, ForkedError
            The producer is or was meanwhile stopped, or belongs to the parent process.

        Notes
        -----
        ``rd_kafka_metadata``, on a native control thread.
        """
        return self._ask_partitions(topic, check_timeout(timeout), connect=False)

    def warm_up(self, *topics: str, timeout: float | None = 5.0) -> None:
        """Connect to the leaders of topics, so that the first message is as fast as the thousandth.

        Waits with the GIL released.

        Parameters
        ----------
        *topics : str
            Topics; none given: the constructor's.
        timeout : float or None, default 5
            Seconds for all of them; None waits without limit.

        Raises
        ------
        ValueError
            No topic is given, and the constructor has none.
        KafkaError
            As `partitions`.
        ClosedError, ForkedError
            The producer is or was meanwhile stopped, or belongs to the parent process.

        Notes
        -----
        ``rd_kafka_metadata``, and ``rd_kafka_query_watermark_offsets`` for one partition of each leader, which
        opens the connection that messages will use.
        """
        timeout = check_timeout(timeout)
        if not topics and self._topic is None:
            raise ValueError("no topic: give one to warm_up() or to Producer()")
        deadline = Deadline(timeout)
        for topic in topics or (self._topic,):
            self._ask_partitions(topic or "", deadline.left(), connect=True)

    def _ask_partitions(self, topic: str, timeout: float | None, *, connect: bool) -> int:
        error = ffi.new("ka_error *")
        command = lib.ka_producer_partitions(self._native, self._topic_number(topic), connect, micros(timeout))
        status, count = answer(command, timeout, error)
        if status in (lib.KA_FAILED, lib.KA_TIMEOUT):
            cause = errors.from_native(errors.KafkaError, error)
            if status == lib.KA_TIMEOUT or cause.name == "_TIMED_OUT":
                raise errors.KafkaError(
                    f"topic {topic!r}: the cluster did not answer within {timeout:g} s: is it reachable?",
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
        if command is not None and lib.ka_wait_command(command, 0, error) == lib.KA_TIMEOUT:
            return
        self._counting[number] = owned(lib.ka_producer_partitions(self._native, number, False, micros(_OPEN_LIMIT_S)))

    def flush(self, timeout: float | None = 5.0) -> None:
        """Wait until everything accepted before the call has its outcome, ignoring ``linger.ms``.

        Futures and callbacks of it have run then, too. Releases the GIL while it waits; other threads
        may go on sending.

        Parameters
        ----------
        timeout : float or None, default 5
            Seconds; None waits without limit.

        Raises
        ------
        FlushTimeout
            The time is over; what is outstanding stays queued.
        DeliveryError
            Messages failed that nobody had been told about.
        RuntimeError
            Inside of a delivery callback, which it would wait for.
        ClosedError, ForkedError
            The producer is or was meanwhile stopped, or belongs to the parent process.

        Notes
        -----
        Overriding linger is librdkafka's ``rd_kafka_flush``, run on a native control thread.
        """
        timeout = check_timeout(timeout)
        if self._dispatcher.is_current():
            raise RuntimeError("flush() inside of a delivery callback would wait for that callback itself")
        deadline = Deadline(timeout)
        status = ticket = lib.ka_producer_flush(self._native)
        if ticket > 0:
            status = wait(lambda timeout_us: lib.ka_wait_producer_flush(self._native, ticket, timeout_us), deadline)
        if status == lib.KA_OK:
            status = self._dispatcher.wait(deadline, even_closed=False)
        if status == lib.KA_TIMEOUT:
            outstanding = max(self.metrics().outstanding, self._dispatcher.pending())
            if outstanding:
                raise self._flush_timeout(outstanding, "still queued; flush() again to go on waiting")
            status = lib.KA_OK  # the last outcome came as the time was over
        if status < 0:
            raise state_error(status)
        self._failures.raise_untold()

    def purge(self, *, in_flight: bool = False) -> int:
        """Throw away the messages that have not been sent yet.

        Their outcome is "purged". Waits up to a second, with the GIL released, for librdkafka to give them
        back; what a thread of its that sits in name resolution gives back later is counted in
        ``metrics().purged`` alone. In a transaction, it can only be aborted then.

        Parameters
        ----------
        in_flight : bool, default False
            Also those that were sent and wait for their acknowledgement: they may have reached the
            broker all the same.

        Returns
        -------
        int
            How many were purged.

        Raises
        ------
        ClosedError, ForkedError
            The producer is or was meanwhile stopped, or belongs to the parent process.

        Notes
        -----
        ``rd_kafka_purge``, on a native control thread.
        """
        before = self.metrics().purged
        command = lib.ka_producer_purge(self._native, bool(in_flight))
        status, purged = answer(command, _PURGE_LIMIT_S, ffi.new("ka_error *"))
        if status == lib.KA_TIMEOUT:
            return self.metrics().purged - before
        if status != lib.KA_OK:
            raise state_error(status)
        return purged

    def init_transactions(self, timeout: float | None = 30.0) -> None:
        """Get ready for transactions: fences older producers of the same ``transactional.id``.

        To be called once, before the first transaction. Waits with the GIL released.

        Parameters
        ----------
        timeout : float or None, default 30
            Seconds; None waits without limit.

        Raises
        ------
        TransactionError
            ``retriable``: call it again, also when the time was over.
        ClosedError, ForkedError
            The producer is or was meanwhile stopped, or belongs to the parent process.

        Notes
        -----
        ``rd_kafka_init_transactions``, on a native control thread.
        """
        transact(self._native, lib.KA_INIT, "init_transactions", check_timeout(timeout))

    def begin_transaction(self) -> None:
        """Begin a transaction: all that is sent from now on belongs to it.

        Does not wait for the broker.

        Raises
        ------
        TransactionError
            It is not the moment: one is open, or ``init_transactions`` has not been called.
        ClosedError, ForkedError
            The producer is or was meanwhile stopped, or belongs to the parent process.

        Notes
        -----
        ``rd_kafka_begin_transaction``, on a native control thread.
        """
        transact(self._native, lib.KA_BEGIN, "begin_transaction", _OPEN_LIMIT_S)

    def commit_transaction(self, timeout: float | None = 30.0) -> None:
        """Deliver everything that was sent in the transaction, and make it visible at once.

        From the call on ``send`` raises TransactionError. Waits with the GIL released. A message's own outcome
        ("delivered") tells that it was written; only this call tells that it counts. A call that was left by an
        exception goes on: another one waits for it and tells its result; until then ``begin_transaction`` and
        ``abort_transaction`` are refused. A transaction that is open for longer than ``transaction.timeout.ms`` is
        aborted by the broker, and this producer is fenced.

        Parameters
        ----------
        timeout : float or None, default 30
            Seconds; None waits without limit.

        Raises
        ------
        TransactionError
            ``retriable``: call it again, also when the time was over: it is resumed. ``requires_abort``: a message
            failed or was purged; call ``abort_transaction``.
        ClosedError, ForkedError
            The producer is or was meanwhile stopped, or belongs to the parent process.

        Notes
        -----
        ``rd_kafka_commit_transaction``, on a native control thread.
        """
        transact(self._native, lib.KA_COMMIT, "commit_transaction", check_timeout(timeout))

    def abort_transaction(self, timeout: float | None = 30.0) -> None:
        """Take back everything that was sent in the transaction.

        What had not been sent yet is purged; readers with ``isolation.level=read_committed`` never see the
        rest. Failures of its messages count as told. Waits with the GIL released.

        Parameters
        ----------
        timeout : float or None, default 30
            Seconds; None waits without limit.

        Raises
        ------
        TransactionError
            ``retriable``: call it again, also when the time was over: it is resumed.
        ClosedError, ForkedError
            The producer is or was meanwhile stopped, or belongs to the parent process.

        Notes
        -----
        ``rd_kafka_abort_transaction``, on a native control thread.
        """
        transact(self._native, lib.KA_ABORT, "abort_transaction", check_timeout(timeout))
        self._failures.tell()

    def send_offsets_to_transaction(
        self, consumer: Consumer, offsets: Iterable[TopicPartition] | None = None, timeout: float | None = 5.0
    ) -> None:
        """Commit a consumer's progress as part of the open transaction.

        Either both become visible, what was sent and what was read, or neither does. Waits with the GIL
        released.

        Parameters
        ----------
        consumer : Consumer
            A member of a group, with ``enable.auto.commit=False``.
        offsets : iterable of TopicPartition, optional
            Of each partition the offset of the next message to read. By default the positions of all
            that the consumer has handed out.
        timeout : float or None, default 5
            Seconds; None waits without limit.

        Raises
        ------
        ConfigError
            The consumer commits by itself.
        ConsumerError
            The consumer has no group.
        TransactionError
            ``retriable``: call it again, also when the time was over. ``requires_abort``: the consumer may have lost
            its partitions; call ``abort_transaction``.
        TypeError, ValueError
            An offset is none.
        ClosedError, ForkedError
            The producer or the consumer is stopped, or belongs to the parent process.

        Notes
        -----
        ``rd_kafka_send_offsets_to_transaction``, on a native control thread.
        """
        send_offsets(self._native, consumer, offsets, check_timeout(timeout))

    @contextmanager
    def transaction(self, *, timeout: float | None = 30.0) -> Iterator[None]:
        """Run a block as one transaction: committed at its end, aborted when an exception leaves it.

        An exception that comes during the commit itself, from a signal handler or as a retriable TransactionError,
        leaves its outcome open: ``commit_transaction`` resumes it and tells; running the block again would not.

        Parameters
        ----------
        timeout : float or None, default 30
            Seconds for the commit, and for an abort; None waits without limit.

        Raises
        ------
        TransactionError
            The transaction could not begin or be committed; one that required an abort is aborted.
        """
        self.begin_transaction()
        try:
            yield
        except BaseException:
            self._abort_quietly(timeout)
            raise
        try:
            self.commit_transaction(timeout)
        except errors.TransactionError as error:
            if error.requires_abort:
                self._abort_quietly(timeout)
            raise

    def _abort_quietly(self, timeout: float | None) -> None:
        """Abort because of an error that matters more than one of the abort."""
        try:
            self.abort_transaction(timeout)
        except errors.KafkaError as error:
            _log.logger.error("a transaction that failed could not be aborted either: %s", error)

    def stop(self, timeout: float | None = 5.0) -> None:
        """Refuse new messages, wait for the outcome of all others, and close.

        Releases the GIL while it waits, and ends every ``flush``, blocked ``send`` and other waiting call of
        other threads. A transaction that is open is aborted, a commit that has begun is finished. Once it has
        returned or raised an error, another call does nothing; one that was interrupted by a signal, or runs in
        another thread, can be waited for by calling it again; of several at once the earliest end counts. Inside
        of a delivery callback it does not wait for callbacks.

        Parameters
        ----------
        timeout : float or None, default 5
            Seconds until what has no outcome yet is purged, which may take up to one more; None waits
            without limit (each message is bounded by ``message.timeout.ms``).

        Raises
        ------
        FlushTimeout
            The time was over; ``outstanding`` messages were purged, or their callbacks have not run yet and
            go on in the background. The producer is closed.
        DeliveryError
            Messages failed that nobody had been told about. The producer is closed.
        TransactionError
            A transaction was open, and its messages are aborted; or a commit that had begun did not end in time,
            and its outcome is not known. The producer is closed.

        Notes
        -----
        What librdkafka still has to do to end its threads goes on in the background.
        """
        timeout = check_timeout(timeout)
        if self._stopped or lib.ka_producer_close(self._native, micros(timeout)) == lib.KA_FORKED:
            return
        # The core keeps to the timeout itself; the limit here is for purging that takes long.
        deadline = Deadline(None if timeout is None else timeout + _PURGE_LIMIT_S)
        lost = wait(lambda timeout_us: lib.ka_wait_producer_closed(self._native, timeout_us), deadline)
        told = lib.KA_OK
        if lost >= 0 and not self._dispatcher.is_current():
            told = self._dispatcher.wait(deadline, even_closed=True)
        if self._stopped:  # by another thread, which tells
            return
        self._stopped = self._unread.stopped = True
        _exit.forget(self)
        if lost < 0:
            error: errors.KafkaError = self._flush_timeout(self.metrics().outstanding, "being purged in the background")
        elif lost and lib.ka_producer_transaction(self._native) in (lib.KA_TXN_OPEN, lib.KA_TXN_UNKNOWN):
            error = self._stopped_within(lost)
        elif lost:
            error = self._flush_timeout(lost, "purged")
        elif told != lib.KA_OK:
            error = self._flush_timeout(self._dispatcher.pending(), "their callbacks go on in the background")
        else:
            self._failures.raise_untold()
            return
        self._failures.tell()  # by this error
        raise error

    def _stopped_within(self, messages: int) -> errors.TransactionError:
        if lib.ka_producer_transaction(self._native) == lib.KA_TXN_OPEN:
            text = f"stopped within a transaction: its {messages} messages are aborted"
        else:
            text = (
                f"a transaction of {messages} messages was being ended and did not end in time: whether it was "
                "committed is not known; the next init_transactions() of this transactional.id finishes it"
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
        stats = ffi.new("ka_producer_stats *")
        status = lib.ka_producer_metrics(self._native, stats)
        if status != lib.KA_OK:
            raise state_error(status)
        return ProducerMetrics(
            stats.accepted,
            stats.delivered,
            stats.failed,
            stats.purged,
            stats.dropped,
            stats.outstanding,
            stats.outstanding_bytes,
            latency_summary(stats.send),
            latency_summary(stats.ack),
        )

    def __enter__(self) -> Producer:
        """Use it as a context manager, which stops it at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop. When the block ends by an exception that one is kept, and what was lost is told at exit."""
        try:
            self.stop()
        except (errors.FlushTimeout, errors.DeliveryError, errors.TransactionError) as trouble:
            if error is None:
                raise
            _log.logger.error("the producer stopped because of an exception, and: %s", trouble)
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

    def _refusal(self, status: int, sizes: tuple[int, int, int]) -> Exception:
        return self._limits.refusal(
            status,
            sizes,
            in_callback=self._dispatcher.is_current(),
            transaction=lib.ka_producer_transaction(self._native),
        )

    def _flush_timeout(self, outstanding: int, what: str) -> errors.FlushTimeout:
        error = errors.FlushTimeout(
            f"{outstanding} messages had no outcome when the time was over: {what}",
            code=-185,
            name="_TIMED_OUT",
            retriable=True,
        )
        error.outstanding = outstanding
        error.failed = self._failures.untold() + self._dispatcher.untold_failures()
        return error

    def _begin_exit(self, timeout_s: float) -> None:
        lib.ka_producer_close(self._native, micros(timeout_s))

    def _end_exit(self, timeout_s: float) -> int:
        lost = wait(lambda timeout_us: lib.ka_wait_producer_closed(self._native, timeout_us), timeout_s)
        if lost < 0:
            lost = self.metrics().outstanding
        return lost + self._failures.tell()[0]


def _check_range(name: str, number: int, most: int) -> None:
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{name} must be int, not {type(number).__name__}")
    if not 1 <= number <= most:
        raise ValueError(f"{name} must be from 1 to {most}, not {number}")
