"""The consumer: messages that native code has fetched already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Literal, overload

from kafka_async import errors
from kafka_async._consumer import ConsumerCore, owned_messages
from kafka_async._short import short_poll
from kafka_async._wait import BLOCKING, Waits, check_timeout, run
from kafka_async.batch import MessageBatch
from kafka_async.message import Message, TopicPartition

if TYPE_CHECKING:
    from concurrent.futures import Future


class Consumer(ConsumerCore):
    """Reads messages that a native worker fetched ahead.

    One thread polls at a time; everything else is safe from any. It is a context manager
    that stops it at the end, and an iterator that ends when it is stopped.

    With a `group_id` it is a member of that group, and at-least-once by default: a message counts as
    processed when the next one is asked for, and what was processed is committed every
    ``auto.commit.interval.ms`` and by ``stop``. With ``enable.auto.commit`` False nothing is committed but by
    ``commit``. Without a `group_id` it reads every partition of its topics from ``auto.offset.reset``, knows no
    group on the broker, and commits nothing.

    A member that does not poll for ``max.poll.interval.ms`` leaves its group, also a static one of a classic group, so
    that others go on with its partitions. Its next poll calls `on_lost`, raises ConsumerError
    (``_MAX_POLL_EXCEEDED``), and joins again.
    Heartbeats are native: however busy Python is, a member that polls stays one.

    Parameters
    ----------
    bootstrap_servers : str
        ``"host:port,host:port"``.
    topics : str or iterable of str, optional
        What to read. With a group, a name that begins with ``^`` is a regular expression.
    group_id : str, optional
        The consumer group.
    config : mapping, optional
        Any property of librdkafka for a consumer; see `kafka_async.config` for our defaults.
    prefetch_messages : int, default 100,000
        About how many messages are fetched ahead, 2 to 10,000,000.
    prefetch_bytes : int, default 64 MiB
        The same in bytes, 2048 to 2 GiB.
    on_assign, on_revoke, on_lost : callable, optional
        Rebalance callbacks, called as ``callback(consumer, partitions)`` with a list of TopicPartition on the
        polling thread, inside a poll. `on_assign`: before the first message; a ``seek`` in it sets the
        start. `on_revoke`: before partitions are given up; it may ``commit``. Their offsets are our positions, which a
        ``stop`` by an exception or from another thread has set back to the message in hand. After
        it nothing of them is handed out. Also called by ``unsubscribe`` and ``stop``, on their caller's
        thread. `on_lost`: they belong to others already, and commits of them fail; without it `on_revoke` is called
        instead. An exception ends the poll after the rebalance went on. With a callback a rebalance waits for the
        next poll; without one it never waits.
    on_oauth : callable, optional
        Gives the tokens of SASL/OAUTHBEARER, as ``on_oauth(value)``, where the value is that of
        ``sasl.oauthbearer.config`` (a str, empty by default). It returns an `OAuthToken`, or a tuple like it, and
        runs on a thread of its own, ``kafka_async-oauth``: at first, and again when 80 % of a token's lifetime
        are over. It may take its time, but without a token nothing is read. What it raises is logged
        with its traceback, so its text must hold no secret, and it is called again in 10 s; a poll raises
        ConsumerError, unless the last token is still good.
    idle : {"warm", "park", "spin"}, default "warm"
        How a poll waits for a message. "warm" and "park" sleep, which proved best for both CPU and latency.
        "spin" does not: messages come some 10 to 100 us sooner, and the polling thread takes a whole core as long
        as it waits. The worker, which fetches, sleeps in every mode.
    cpu : int, optional
        The CPU that the worker is bound to, counted from 0 (Linux only).
    log : bool, default True
        librdkafka's log lines go to the logger ``kafka_async``.

    Raises
    ------
    ConfigError
        A property is unknown, invalid, or set by an argument instead; OAUTHBEARER without a source of tokens, or
        `on_oauth` without OAUTHBEARER.
    ValueError
        An argument is out of range.
    KafkaError
        librdkafka could not start.

    Notes
    -----
    Half of each prefetch bound is given to librdkafka (``queued.min.messages``,
    ``queued.max.messages.kbytes``), half to our own ring; librdkafka may overshoot its half by one
    fetch response a broker. That is what compresses to 1/128 of `prefetch_bytes` (``fetch.max.bytes``), or one
    batch where it is larger: data that compress 128 times take at most `prefetch_bytes` more.
    """

    def _make_waits(self) -> Waits:
        return BLOCKING

    def _opened(self) -> None:
        from kafka_async._completer import Completer

        self._completer = Completer(self)
        if self._topics is not None:
            self.subscribe(self._topics)

    def _refill(self, timeout: float | None) -> int:
        return run(self._take(self._take_block, check_timeout(timeout)))

    def poll_batch(self, max_messages: int = 500, timeout: float | None = 0.1) -> MessageBatch:
        """Return the next messages together, as soon as there is one.

        Cheaper for each message than `poll_message`, most of all when columns are read. One native call, which
        does not release the GIL when there is something. The whole batch counts as processed when the next message or
        batch is asked for.

        Parameters
        ----------
        max_messages : int, default 500
            1 to 1,000,000. A batch ends sooner where it has 1 MiB, and before what a poll raises.
        timeout : float or None, default 0.1
            Seconds; 0 never waits, None waits without limit. Looked at only when it has to wait.

        Returns
        -------
        MessageBatch
            Empty when there was nothing in time.

        Raises
        ------
        TypeError, ValueError
            `max_messages` is no int or out of range; `timeout` as for `poll_message`.
        ConsumerError, PartitionEnd, RuntimeError, ClosedError, ForkedError, Exception
            As `poll_message`.
        """
        out = owned_messages()
        try:
            return run(self._poll_batch(max_messages, timeout, out))
        except BaseException:
            self._put_back(out)
            raise

    def __iter__(self) -> Iterator[Message]:
        """Iterate over messages as they come, until the consumer is stopped."""
        return self

    @short_poll
    def __next__(self) -> Message:
        """Wait for the next message."""
        try:
            message = self.poll_message(None)
        except errors.ClosedError:
            raise StopIteration from None
        assert message is not None  # without a limit the wait ends with a message or an error
        return message

    def subscribe(self, topics: str | Iterable[str]) -> None:
        """Read these topics instead of what was read before.

        Waits, GIL released, for librdkafka to take it, not for messages or for the group. In a group,
        partitions of topics that are there no more are read until the group has taken them back.

        Parameters
        ----------
        topics : str or iterable of str
            With a group, a name that begins with ``^`` is a regular expression.

        Raises
        ------
        ConsumerError
            librdkafka refuses it; a regular expression without a group.
        RuntimeError
            It is called from within a rebalance callback.
        ClosedError, ForkedError
            The consumer is stopped, or belongs to the parent process.
        """
        run(self._subscribe(topics))

    def unsubscribe(self) -> None:
        """Read nothing any more; in a group, leave it.

        Calls `on_revoke` first, on the calling thread. What was handed out counts as processed if that is the
        polling thread.

        Raises
        ------
        RuntimeError
            It is called from within a rebalance callback.
        ClosedError, ForkedError
            The consumer is stopped, or belongs to the parent process.
        Exception
            What `on_revoke` raised.
        """
        run(self._unsubscribe())

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read exactly these partitions instead of what was read before.

        Ends a subscription as ``unsubscribe`` does. Waits, GIL released, for librdkafka to take it, not for
        messages.

        Parameters
        ----------
        partitions : iterable of TopicPartition
            Where the offset is None, reading begins at what the group committed, or without a group
            where ``auto.offset.reset`` says. ``"end"``, ``("tail", n)`` and ``("timestamp", ms)`` mean the log as it is
            now: they are looked up first, for at most 5 s.

        Raises
        ------
        TypeError, ValueError
            An entry is no TopicPartition, its partition or offset is out of range, or a partition is
            there twice. Reading goes on as before.
        ConsumerError
            An offset was not found in time, or there is no such partition; reading goes on as before. librdkafka
            refuses it; nothing is read from then on.
        RuntimeError
            It is called from within a rebalance callback.
        ClosedError, ForkedError
            The consumer is stopped, or belongs to the parent process.
        """
        run(self._assign(partitions))

    def incremental_assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read these partitions too.

        Waits, GIL released, for librdkafka to take it.

        Parameters
        ----------
        partitions : iterable of TopicPartition
            As for ``assign``.

        Raises
        ------
        TypeError, ValueError
            As ``assign``.
        ConsumerError
            One is read already, or topics are subscribed to. Nothing has changed.
        ClosedError, ForkedError
            The consumer is stopped, or belongs to the parent process.
        """
        run(self._incremental_assign(partitions))

    def incremental_unassign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read these partitions no more.

        Waits, GIL released, for librdkafka to take it. What was prefetched of them is discarded.

        Parameters
        ----------
        partitions : iterable of TopicPartition
            Their offsets are ignored.

        Raises
        ------
        TypeError, ValueError
            As ``assign``.
        ConsumerError
            One is not read, or topics are subscribed to. Nothing has changed.
        ClosedError, ForkedError
            The consumer is stopped, or belongs to the parent process.
        """
        run(self._incremental_unassign(partitions))

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Hand out nothing of these partitions until they are resumed.

        At once, whatever was prefetched; that is discarded and fetched again later. They stay assigned and
        keep their positions; a rebalance that takes one away ends its pause. Waits, GIL released, for the worker.

        Parameters
        ----------
        partitions : iterable of TopicPartition
            Their offsets are ignored.

        Raises
        ------
        TypeError, ValueError
            As ``assign``.
        ConsumerError
            One is not assigned. None was paused.
        ClosedError, ForkedError
            The consumer is stopped, or belongs to the parent process.
        """
        run(self._pause(partitions, 1))

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Go on with paused partitions, at our positions.

        Waits, GIL released, for the worker.

        Parameters
        ----------
        partitions : iterable of TopicPartition
            Their offsets are ignored; one that is not paused stays as it is.

        Raises
        ------
        TypeError, ValueError
            As ``assign``.
        ConsumerError
            One is not assigned. None was resumed.
        ClosedError, ForkedError
            The consumer is stopped, or belongs to the parent process.
        """
        run(self._pause(partitions, 0))

    def seek(self, partition: TopicPartition, timeout: float | None = 5.0) -> None:
        """Go on reading a partition at another offset.

        At once: what was prefetched of it is discarded. The other partitions are not concerned. One that ran out of
        time or was cancelled may still be done, later.

        Parameters
        ----------
        partition : TopicPartition
            With an offset of any kind.
        timeout : float or None, default 5
            Seconds to look up ``"end"``, ``("tail", n)``, ``("timestamp", ms)``, or ``"stored"``, as they are now;
            nothing else waits for the broker.

        Raises
        ------
        TypeError, ValueError
            It is no TopicPartition, has no offset, or one out of range.
        ConsumerError
            It is not assigned, or the offset was not found in time.
        ClosedError, ForkedError
            The consumer is stopped, or belongs to the parent process.
        """
        run(self._seek(partition, timeout))

    @overload
    def commit(
        self,
        message: Message | None = ...,
        *,
        offsets: Iterable[TopicPartition] | Mapping[TopicPartition, int] | None = ...,
        asynchronous: Literal[False] = ...,
        timeout: float | None = ...,
    ) -> list[TopicPartition]: ...
    @overload
    def commit(
        self,
        message: Message | None = ...,
        *,
        offsets: Iterable[TopicPartition] | Mapping[TopicPartition, int] | None = ...,
        asynchronous: Literal[True],
        timeout: float | None = ...,
    ) -> Future[list[TopicPartition]]: ...
    def commit(
        self,
        message: Message | None = None,
        *,
        offsets: Iterable[TopicPartition] | Mapping[TopicPartition, int] | None = None,
        asynchronous: bool = False,
        timeout: float | None = 5.0,
    ) -> list[TopicPartition] | Future[list[TopicPartition]]:
        """Commit offsets to the group.

        Without `message` and `offsets`: of each assigned partition the position, so that everything handed out
        counts as processed, or what ``store`` was told of it.

        Waits for the answer, GIL released, unless `asynchronous`. Safe in a rebalance callback.

        Parameters
        ----------
        message : Message, optional
            Commit this one and those before it in its partition.
        offsets : iterable of TopicPartition, or mapping of TopicPartition to int, optional
            Commit these: each the offset of the next message to process.
        asynchronous : bool, default False
            Return a future at once. It is completed by a thread of its own.
        timeout : float or None, default 5
            Seconds. Past it the commit goes on, with nobody told how it ended.

        Returns
        -------
        list of TopicPartition, or concurrent.futures.Future of it
            What was committed; empty when there was nothing to commit.

        Raises
        ------
        TypeError, ValueError
            Both `message` and `offsets` are given, or one is none.
        ConsumerError
            Kafka refuses it (the group may have given the partition to another member), there was no answer in
            time, or there is no group.
        ClosedError, ForkedError
            The consumer is stopped, or belongs to the parent process.
        """
        command, timeout = self._begin_commit(message, offsets, timeout, patient=bool(asynchronous))
        if asynchronous:
            return self._completer.future(command, timeout)
        return run(self._result(command, timeout))

    def committed(self, partitions: Iterable[TopicPartition], timeout: float | None = 5.0) -> list[TopicPartition]:
        """Ask what the group has committed.

        Waits for the broker, GIL released.

        Parameters
        ----------
        partitions : iterable of TopicPartition
            Their offsets are ignored.
        timeout : float or None, default 5
            Seconds.

        Returns
        -------
        list of TopicPartition
            In the order asked; offset None: nothing.

        Raises
        ------
        TypeError, ValueError
            As ``assign``.
        ConsumerError
            There was no answer in time, Kafka refuses it, or there is no group.
        ClosedError, ForkedError
            The consumer is stopped, or belongs to the parent process.
        """
        return run(self._committed(partitions, timeout))

    def watermarks(self, topic: str, partition: int, timeout: float | None = 5.0) -> tuple[int, int]:
        """Ask where the log of a partition begins and ends.

        Waits for the broker, GIL released.

        Parameters
        ----------
        topic : str
        partition : int
        timeout : float or None, default 5
            Seconds.

        Returns
        -------
        tuple of int
            The offset of the first message, and that of the next one to be written (under ``read_committed``, of the
            first one of an open transaction).

        Raises
        ------
        TypeError, ValueError
            As ``assign``.
        ConsumerError
            There was no answer in time, or there is no such partition.
        ClosedError, ForkedError
            The consumer is stopped, or belongs to the parent process.
        """
        return run(self._watermarks(topic, partition, timeout))

    def offsets_for_times(
        self, partitions: Iterable[TopicPartition], timeout: float | None = 5.0
    ) -> list[TopicPartition]:
        """Ask for the first message of each partition that is not older than a time.

        Waits for the broker, GIL released.

        Parameters
        ----------
        partitions : iterable of TopicPartition
            The offset of each is a time in milliseconds since the epoch.
        timeout : float or None, default 5
            Seconds.

        Returns
        -------
        list of TopicPartition
            In the order asked; offset None: all messages are older.

        Raises
        ------
        TypeError, ValueError
            As ``assign``; a time is no int of at least 0.
        ConsumerError
            There was no answer in time, or there is no such partition.
        ClosedError, ForkedError
            The consumer is stopped, or belongs to the parent process.
        """
        return run(self._offsets_for_times(partitions, timeout))

    def lag(self, timeout: float | None = None) -> dict[TopicPartition, int]:
        """Tell how many messages of the assigned partitions were not handed out yet.

        In offsets, as everywhere in Kafka: what compaction removed and the marks of transactions count, too, so it
        may not come down to 0. The end of each is that of the last fetch, which costs no request. Under
        ``read_committed`` librdkafka does not tell the end of what is committed, and with a `timeout` it should be
        of now: then the broker is asked, GIL released.

        Parameters
        ----------
        timeout : float or None
            Seconds to ask the broker; None: 5 if it has to be asked.

        Returns
        -------
        dict of TopicPartition to int
            Keys have no offset. A partition of which nothing is known yet is left out.

        Raises
        ------
        ConsumerError
            The broker did not answer in time.
        ClosedError, ForkedError
            The consumer is stopped, or belongs to the parent process.
        """
        return run(self._lag(timeout))

    def stop(self, timeout: float | None = 5.0) -> None:
        """Stop reading, commit what was processed, leave the group.

        A second call does nothing, but that it waits for the end of one that a signal interrupted, or that another
        thread has begun to close by. Called by the polling thread, the message in hand counts as
        processed; called by another, it does not and will be seen again. Calls `on_revoke` for what is assigned, and
        `on_lost` for what was lost since the last poll, on the calling thread. Waits with the GIL released; a poll of
        another thread ends with ClosedError, its iteration ends.

        Parameters
        ----------
        timeout : float or None, default 5
            Seconds. Past it, closing goes on in the background and a warning is logged.

        Raises
        ------
        RuntimeError
            It is called from within a rebalance callback.
        Exception
            What a callback raised, after the end of closing.
        """
        run(self._stop(check_timeout(timeout), self._polled_here()))

    def __enter__(self) -> Consumer:
        """Use it as a context manager, which stops it at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop; when the block ends by an exception, the message in hand is not committed."""
        run(self._leave(error))
