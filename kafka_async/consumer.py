"""The consumer: messages that native code has fetched already."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType

from kafka_async import _exit, _log, errors
from kafka_async._block import BlockReader
from kafka_async._idle import Idle, native_idle
from kafka_async._native import ffi, lib
from kafka_async._wait import Deadline, answer, check_timeout, owned, wait
from kafka_async.config import Config, Value, config_error, native_error
from kafka_async.message import Message, TopicPartition, check_partition, native_offset
from kafka_async.metrics import ConsumerMetrics, latency_summary

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


class Consumer:
    """Reads messages that a native worker fetched ahead.

    One thread polls at a time; ``stop`` and ``metrics`` are safe from any. It is a context manager
    that stops it at the end, and an iterator that ends when it is stopped.

    With a `group_id` it is a member of that group, and at-least-once by default: a message counts as
    processed when the next one is asked for, and what was processed is committed every
    ``auto.commit.interval.ms`` and by ``stop``. Without one it reads every partition of its topics
    from ``auto.offset.reset``, knows no group on the broker, and commits nothing.

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
        A property is unknown, invalid, or set by an argument instead.
    ValueError
        An argument is out of range.
    KafkaError
        librdkafka could not start.

    Notes
    -----
    Half of each prefetch bound is given to librdkafka (``queued.min.messages``,
    ``queued.max.messages.kbytes``), half to our own ring; librdkafka may overshoot its half by one
    fetch response a broker.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topics: str | Iterable[str] | None = None,
        *,
        group_id: str | None = None,
        config: Mapping[str, Value] | None = None,
        prefetch_messages: int = 100_000,
        prefetch_bytes: int = 64 * 2**20,
        idle: Idle = "warm",
        cpu: int | None = None,
        log: bool = True,
    ) -> None:
        _check_prefetch(prefetch_messages, prefetch_bytes)
        if group_id is not None and (not isinstance(group_id, str) or not group_id):
            raise ValueError(f"group_id must be a name or None, not {group_id!r}")
        idling = native_idle(idle, cpu)
        names = None if topics is None else _names(topics, group_id)
        conf = _config(bootstrap_servers, group_id, config, prefetch_messages, prefetch_bytes)
        options = {
            "prefetch_messages": prefetch_messages - prefetch_messages // 2,
            "prefetch_bytes": prefetch_bytes - prefetch_bytes // 2,
            "log": bool(log),
            "group": group_id is not None,
            "store_offsets": group_id is not None and conf.get("enable.auto.commit") == "true",
            "default_offset": _START.get(conf.get("auto.offset.reset") or "largest", lib.KA_OFFSET_STORED),
            **dict(zip(("idle", "bound", "cpu"), idling, strict=True)),
        }
        _exit.check()
        if log:
            _log.start()
        self._error = ffi.new("ka_error *")
        native = lib.ka_wait_consumer_open(conf.native, ffi.new("ka_consumer_options *", options), self._error)
        if not native:
            raise native_error(self._error)
        conf.taken()
        self._native = ffi.gc(native, lib.ka_consumer_release)
        self._group_id = group_id
        self._auto_commit = bool(options["store_offsets"])
        self._subscription: list[str] = []
        self._where = ffi.new("ka_partition *")
        self._block = BlockReader(self._native)
        self._shared = self._block.shared
        self._rows: Iterator[Message] = iter(())
        self._handed = 0  # our copy of the block's word
        self._generation = -1
        self._poller: int | None = None  # the thread that polled last
        _exit.watch(self)
        if names is not None:
            self.subscribe(names)

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
            once it appears), no authorization, a fatal error. Transient trouble is logged and survived.
            In a group or by ``assign`` a missing topic is waited for.
        PartitionEnd
            With ``enable.partition.eof``: a partition is read to its end.
        RuntimeError
            Another thread is polling.
        ClosedError, ForkedError
            The consumer is stopped, or belongs to the parent process.
        """
        while True:
            # No call between the row and its return: a signal's exception must not come between.
            for message in self._rows:
                # The order of the next lines is the contract with the native side: see "The block" in
                # csrc/ka_consumer.h.
                self._handed = handed = self._handed + 1
                self._shared[0] = handed
                if self._shared[1] == self._generation:
                    return message
                self._shared[0] = self._handed = handed - 1
                break
            if not self._fill(check_timeout(timeout)):
                return None

    def _fill(self, timeout: float | None) -> bool:
        """Take the next block, waiting for it. False: none came in time."""
        self._poller = threading.get_ident()
        deadline: Deadline | None = None  # a block that is there needs no clock
        while True:
            self._generation = self._shared[1]
            self._rows = iter(())
            count = lib.ka_consumer_take(self._native, self._error, self._where)
            self._handed = 0  # in the block too
            if count > 0:
                self._rows = self._block.messages(count)
                return True
            if count < 0:
                raise self._poll_error(count)
            deadline = deadline or Deadline(timeout)
            status = wait(lambda timeout_us: lib.ka_wait_consumer_ready(self._native, timeout_us), deadline)
            if status == lib.KA_TIMEOUT:
                return False
            if status != lib.KA_OK:
                raise self._poll_error(status)

    def __iter__(self) -> Iterator[Message]:
        """Iterate over messages as they come, until the consumer is stopped."""
        return self

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

        Waits, GIL released, for librdkafka to take it, not for messages or for the group.

        Parameters
        ----------
        topics : str or iterable of str
            With a group, a name that begins with ``^`` is a regular expression.

        Raises
        ------
        ConsumerError
            librdkafka refuses it; a regular expression without a group.
        ClosedError, ForkedError
            The consumer is stopped, or belongs to the parent process.
        """
        names = _names(topics, self._group_id)
        texts = [ffi.new("char[]", name.encode()) for name in names]
        array = ffi.new("const char *[]", texts)
        self._command(lib.ka_consumer_subscribe(self._native, array, len(names)))
        self._subscription = names

    def unsubscribe(self) -> None:
        """Read nothing any more; in a group, leave it.

        Raises
        ------
        ClosedError, ForkedError
            The consumer is stopped, or belongs to the parent process.
        """
        self._command(lib.ka_consumer_subscribe(self._native, ffi.new("const char *[]", 1), 0))
        self._subscription = []

    def subscription(self) -> list[str]:
        """Tell what was subscribed to.

        Returns
        -------
        list of str
            Empty after ``assign`` and ``unsubscribe``.
        """
        return list(self._subscription)

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        """Read exactly these partitions instead of what was read before.

        Waits, GIL released, for librdkafka to take it, not for messages.

        Parameters
        ----------
        partitions : sequence of TopicPartition
            Where the offset is None, reading begins at what the group committed, or without a group
            where ``auto.offset.reset`` says.

        Raises
        ------
        TypeError, ValueError
            An entry is no TopicPartition, its partition or offset is out of range, or a partition is
            there twice. Reading goes on as before.
        ConsumerError
            librdkafka refuses it. Nothing is read from then on.
        ClosedError, ForkedError
            The consumer is stopped, or belongs to the parent process.
        """
        checked = [check_partition(item) for item in partitions]
        if len({item[:2] for item in checked}) < len(checked):
            raise ValueError("a partition is there twice")
        array = _array(len(checked))
        texts = []
        for native, (topic, number, offset) in zip(array, checked, strict=False):  # the array is never empty
            texts.append(ffi.new("char[]", topic.encode()))
            native.topic, native.partition, native.offset = texts[-1], number, native_offset(offset)
        self._command(lib.ka_consumer_assign(self._native, array, len(checked)))
        self._subscription = []

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
        size = 0
        while (count := lib.ka_consumer_assignment(self._native, array := _array(size), size)) > size:
            size = count
        if count < 0:
            raise _state_error(count)
        return [
            TopicPartition(
                ffi.string(native.topic).decode(), native.partition, native.offset if native.offset >= 0 else None
            )
            for native in array[0:count]
        ]

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
        stats = ffi.new("ka_consumer_stats *")
        status = lib.ka_consumer_metrics(self._native, stats)
        if status != lib.KA_OK:
            raise _state_error(status)
        return ConsumerMetrics(
            stats.received,
            stats.handed_out,
            stats.purged,
            stats.prefetched,
            stats.prefetched_bytes,
            latency_summary(stats.age),
        )

    def stop(self, timeout: float | None = 5.0) -> None:
        """Stop reading, commit what was processed, leave the group.

        A second call does nothing. Called by the polling thread, the message in hand counts as
        processed; called by another, it does not and will be seen again. Waits with the GIL
        released; a poll of another thread ends with ClosedError, its iteration ends.

        Parameters
        ----------
        timeout : float or None, default 5
            Seconds. Past it, closing goes on in the background and a warning is logged.
        """
        self._stop(check_timeout(timeout), self._poller == threading.get_ident())

    def _stop(self, timeout: float | None, store_last: bool) -> None:
        if lib.ka_consumer_close(self._native, store_last) != lib.KA_OK:
            return  # stopped before, or made by the parent process
        self._rows = iter(())
        status = wait(lambda timeout_us: lib.ka_wait_consumer_closed(self._native, timeout_us), timeout)
        if status == lib.KA_TIMEOUT:
            _log.logger.warning("the consumer has not left its group after %s s; it goes on in the background", timeout)
        _exit.forget(self)

    def __enter__(self) -> Consumer:
        """Use it as a context manager, which stops it at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop; when the block ends by an exception, the message in hand is not committed."""
        self._stop(5.0, error is None and self._poller == threading.get_ident())

    def _group_for(self, timeout: float | None) -> ffi.CData:
        """Find what a transaction has to know of the group: an answered command."""
        if self._group_id is None:
            raise errors.ConsumerError("a consumer without a group_id has no offsets to commit: give it one")
        if self._auto_commit:
            raise config_error(
                "enable.auto.commit",
                "config: 'enable.auto.commit' must be False for a consumer whose offsets are sent to a transaction",
            )
        command = owned(lib.ka_consumer_group(self._native))
        status = wait(lambda timeout_us: lib.ka_wait_command(command, timeout_us, self._error), timeout)
        self._check_answer(status)
        return command

    def _command(self, command: ffi.CData) -> None:
        status, _ = answer(command, _COMMAND_TIMEOUT_S, self._error)
        self._check_answer(status)

    def _check_answer(self, status: int) -> None:
        if status == lib.KA_FAILED:
            raise errors.from_native(errors.ConsumerError, self._error)
        if status == lib.KA_TIMEOUT:
            raise errors.ConsumerError("librdkafka does not answer", code=-185, name="_TIMED_OUT", retriable=True)
        if status != lib.KA_OK:
            raise _state_error(status)

    def _poll_error(self, status: int) -> Exception:
        if status == lib.KA_BUSY:
            return RuntimeError("another thread is polling this consumer: poll from one thread at a time")
        if status != lib.KA_FAILED:
            return _state_error(status)
        end = ffi.string(self._error.name) == b"_PARTITION_EOF"
        error = errors.from_native(errors.PartitionEnd if end else errors.ConsumerError, self._error)
        if self._where.topic != ffi.NULL:
            offset = self._where.offset
            error.partition = TopicPartition(
                ffi.string(self._where.topic).decode(), self._where.partition, offset if offset >= 0 else None
            )
        return error

    def _begin_exit(self, timeout_s: float) -> None:  # noqa: ARG002 - a consumer's end has no limit of its own
        lib.ka_consumer_close(self._native, 0)

    def _end_exit(self, timeout_s: float) -> int:
        wait(lambda timeout_us: lib.ka_wait_consumer_closed(self._native, timeout_us), timeout_s)
        return 0


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
    forced: dict[str, Value] = {
        "group.id": group_id or _NO_GROUP,
        "enable.auto.offset.store": False,
        "queued.min.messages": prefetch_messages // 2,
        "queued.max.messages.kbytes": prefetch_bytes // 2 // 1024,
    }
    if group_id is None:
        if config and str(config.get("enable.auto.commit", "false")).lower() == "true":
            raise errors.ConfigError("config: 'enable.auto.commit' needs a group: give group_id")
        forced["enable.auto.commit"] = False
    return Config(lib.KA_CONSUMER, bootstrap_servers, config, forced)


def _names(topics: str | Iterable[str], group_id: str | None) -> list[str]:
    if isinstance(topics, bytes) or not isinstance(topics, Iterable):
        raise TypeError(f"topics must be str or an iterable of str, not {type(topics).__name__}")
    names = [topics] if isinstance(topics, str) else list(topics)
    if not names:
        raise ValueError("no topic to read: use unsubscribe() to read nothing")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"a topic must be str, not {type(name).__name__}")
        if not name or "\0" in name:
            raise ValueError(f"topic {name!r:.80}: it is empty or holds a NUL")
        if name.startswith("^") and group_id is None:
            raise errors.ConsumerError(f"topic {name!r}: a regular expression needs a group_id")
    return names


def _array(size: int) -> ffi.CData:
    return ffi.new("ka_partition[]", size or 1)


def _state_error(status: int) -> Exception:
    if status == lib.KA_FORKED:
        return errors.ForkedError("this consumer belongs to the parent process: make a new one after the fork")
    if status == lib.KA_CLOSED:
        return errors.ClosedError("the consumer is stopped: make a new one")
    return MemoryError("the native core has no memory")
