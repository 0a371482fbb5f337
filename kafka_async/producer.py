"""The producer: hand a message over in a microsecond, learn its outcome for certain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

from kafka_async._batch import SHORTAGE
from kafka_async._delivery import Dispatcher, Outcomes
from kafka_async._native import lib
from kafka_async._producer import OPEN_LIMIT_S, ProducerCore
from kafka_async._short import short_send
from kafka_async._transaction import send_offsets
from kafka_async._wait import BLOCKING, Waits, check_timeout, run
from kafka_async.message import Record, TopicPartition

if TYPE_CHECKING:
    from typing_extensions import TypedDict, Unpack

    from kafka_async._delivery import OnDelivery
    from kafka_async._future import Delivery
    from kafka_async.consumer import Consumer
    from kafka_async.message import Headers, Payload

    class SendOptions(TypedDict, total=False):
        """The keyword arguments of `Producer.send`."""

        topic: str | None
        partition: int | None
        timestamp_ms: int | None
        headers: Headers | None
        on_delivery: OnDelivery | None


class Producer(ProducerCore):
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
    on_oauth : callable, optional
        Gives the tokens of SASL/OAUTHBEARER, as ``on_oauth(value)``, where the value is that of
        ``sasl.oauthbearer.config`` (a str, empty by default). It returns an `OAuthToken`, or a tuple like it, and
        runs on a thread of its own, ``kafka_async-oauth``: at first, and again when 80 % of a token's lifetime
        are over. It may take its time, but without a token nothing is sent or read. What it raises is logged
        with its traceback, so its text must hold no secret, and it is called again in 10 s.
    idle : {"warm", "park", "spin"}, optional
        How the worker waits for messages. "warm", the default: while messages come less than 5 ms apart it looks for
        them in short naps, so that ``send`` need not wake it, which takes 10 to 20 % of a core and delays a message
        by 50 to 200 us; else it sleeps. "park": it sleeps at once and every ``send`` to an idle worker makes a
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
        ``transactional.id``; OAUTHBEARER without a source of tokens, or `on_oauth` without OAUTHBEARER.
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

    def _make_waits(self) -> Waits:
        return BLOCKING

    def _make_outcomes(self) -> Outcomes:
        return Dispatcher(self._native)

    def _opened(self) -> None:
        from kafka_async._future import Delivery

        self._new_delivery = partial(Delivery, self._unread)
        run(self._count_default_topic())

    @short_send
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
        if blocked := self._send_record(value, key, **options):
            run(self._unblock(blocked))

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
        delivery = self._new_delivery()
        if blocked := self._send_record(value, key, delivery, **options):
            run(self._unblock(blocked))
        return delivery

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
            An item is of a wrong type or out of range; the text tells its index. None was queued, nor when the
            iterable itself raises, which is passed on.
        TransactionError, ClosedError, ForkedError
            As `send`; ``accepted`` tells how many were accepted before.
        MemoryError
            ``accepted`` tells how many were accepted; without it, none. Where there is no memory for a line of the
            traceback either, Python raises another one, whose ``__context__`` it is.
        """
        begun = self._begin_many(values_or_records, topic)
        if isinstance(begun, int):
            return begun
        try:
            return run(self._send_batch(*begun))
        except SHORTAGE as error:
            raise begun[0].shortage from error

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
        return run(self._ask_partitions(topic, check_timeout(timeout), connect=False))

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
        run(self._warm_up(topics, timeout))

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
        run(self._flush(timeout))

    def purge(self, *, in_flight: bool = False) -> int:
        """Throw away the messages that have not been sent yet.

        Their outcome is "purged". Waits up to a second, with the GIL released, for librdkafka to give them
        back; what a thread of its that sits in name resolution gives back later is counted in
        ``metrics().purged`` alone. A transaction can only be aborted then; what librdkafka holds of it stays until
        that.

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
        return run(self._purge(in_flight))

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
        run(self._transact(lib.KA_INIT, "init_transactions", timeout))

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
        run(self._transact(lib.KA_BEGIN, "begin_transaction", OPEN_LIMIT_S))

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
        run(self._transact(lib.KA_COMMIT, "commit_transaction", timeout))

    def abort_transaction(self, timeout: float | None = 30.0) -> None:
        """Take back everything that was sent in the transaction.

        What is still in the native queue is purged. The rest, which readers with ``isolation.level=read_committed``
        never see, is waited for, without linger. Failures of its messages count as told. Waits with the GIL released.

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
        run(self._transact(lib.KA_ABORT, "abort_transaction", timeout))

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
        run(send_offsets(self._waits, self._native, consumer, offsets, check_timeout(timeout)))

    @contextmanager
    def transaction(self, *, timeout: float | None = 30.0) -> Iterator[None]:
        """Run a block as one transaction: committed at its end, aborted when an exception leaves it.

        An exception that comes during the commit itself, from a signal handler or as a retriable TransactionError,
        leaves its outcome open: ``commit_transaction`` resumes it and tells; running the block again would not.
        Where the abort fails too, the exception that left the block has a note that tells it (from Python 3.11 on), the
        log as well, and the next block begins by aborting.

        Parameters
        ----------
        timeout : float or None, default 30
            Seconds for the commit, and for an abort; None waits without limit.

        Raises
        ------
        TransactionError
            The transaction could not begin or be committed; one that required an abort is aborted.
        """
        steps = self._transaction(timeout)
        run(steps.__aenter__())
        try:
            yield
        except BaseException as error:
            run(steps.__aexit__(type(error), error, error.__traceback__))
            raise
        run(steps.__aexit__(None, None, None))

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
        run(self._stop(timeout))

    def __enter__(self) -> Producer:
        """Use it as a context manager, which stops it at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop. When the block ends by an exception that one is kept, and what was lost is told at exit."""
        run(self._leave(error))
