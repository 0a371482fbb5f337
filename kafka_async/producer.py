"""The producer: hand a message over in a microsecond, learn its outcome for certain."""

from __future__ import annotations

import operator
import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from kafka_async import _exit, _log, errors
from kafka_async._native import ffi, lib
from kafka_async._wait import check_timeout, micros, wait
from kafka_async.config import Config, Value, native_error
from kafka_async.message import DeliveryReport, check_topic, pack_headers, unpack_headers
from kafka_async.metrics import ProducerMetrics, latency_summary

if TYPE_CHECKING:
    from typing_extensions import TypedDict, Unpack

    from kafka_async.message import Headers, Payload

    class SendOptions(TypedDict, total=False):
        """The keyword arguments of `Producer.send`."""

        topic: str | None
        partition: int | None
        timestamp_ms: int | None
        headers: Headers | None


_send = lib.ka_producer_send
_KEPT_FAILURES = 1000  # the core's own bound
_NO_TOPIC = -1
_PURGE_LIMIT_S = 1.0


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
    on_full : {"raise", "block"}, default "raise"
        What ``send`` does when a bound is reached: raise `QueueFull`, or wait for room.
    block_timeout : float, optional
        Seconds to wait for room, then `QueueFull`. By default ``message.timeout.ms``.
    log : bool, default True
        librdkafka's log lines go to the logger ``kafka_async``.

    Raises
    ------
    ConfigError
        A property is unknown, invalid, or set by an argument instead.
    ValueError
        A bound or another argument is out of range.
    KafkaError
        librdkafka could not start.

    Notes
    -----
    Opening does not wait for a broker: an unreachable one shows in the log, and in the failures of
    messages after ``message.timeout.ms`` (librdkafka's default: 300,000).
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str | None = None,
        *,
        config: Mapping[str, Value] | None = None,
        queue_messages: int = 100_000,
        queue_bytes: int = 64 * 2**20,
        on_full: Literal["raise", "block"] = "raise",
        block_timeout: float | None = None,
        log: bool = True,
    ) -> None:
        if on_full not in ("raise", "block"):
            raise ValueError(f"on_full must be 'raise' or 'block', not {on_full!r}")
        _check_range("queue_messages", queue_messages, 10_000_000)
        _check_range("queue_bytes", queue_bytes, 2**38 - 1)
        conf = Config(lib.KA_PRODUCER, bootstrap_servers, config, {})
        message_timeout_ms = conf.number("message.timeout.ms", 300_000)
        self._max_message = conf.number("message.max.bytes", 1_000_000)
        self._queue_bytes = queue_bytes
        self._queue_messages = queue_messages
        self._block = on_full == "block"
        self._block_timeout = check_timeout(block_timeout)
        if block_timeout is None and message_timeout_ms > 0:
            self._block_timeout = message_timeout_ms / 1000
        self._stopped = False  # and the caller was told of what was lost
        self._failures: deque[DeliveryReport] = deque(maxlen=_KEPT_FAILURES)
        self._topics: dict[str, int] = {}
        if topic is not None:
            check_topic(topic)
        _exit.check()
        if log:
            _log.start()
        error = ffi.new("ka_error *")
        name = ffi.NULL if topic is None else ffi.new("char[]", topic.encode())
        options = ffi.new("ka_producer_options *", (queue_messages, queue_bytes, bool(log), name))
        native = lib.ka_wait_producer_open(conf.native, options, error)
        if not native:
            raise native_error(error)
        conf.taken()
        self._native = ffi.gc(native, lib.ka_producer_release)
        self._default_topic = _NO_TOPIC if topic is None else self._topic_number(topic)
        _exit.watch(self)

    def send(
        self,
        value: Payload,
        key: Payload = None,
        **options: Unpack[SendOptions],
    ) -> None:
        """Accept a message and return; its outcome comes later.

        Never blocks, does no I/O and never releases the GIL, but for ``on_full="block"`` with a full
        queue, which waits with the GIL released. The message is copied before it returns.

        Parameters
        ----------
        value : bytes, str, buffer or None
            The payload: anything with a contiguous buffer, str as UTF-8; None is a tombstone.
        key : bytes, str, buffer or None
            Messages with the same key go to the same partition, in order.
        topic : str, optional
            Instead of the constructor's.
        partition : int, optional
            Instead of the partitioner's choice.
        timestamp_ms : int, optional
            Milliseconds since the epoch, at least 1 (librdkafka takes 0 for "now"); by default the
            time of the call.
        headers : sequence of (str, bytes or str or None), or mapping, optional
            Order and duplicates are kept.

        Raises
        ------
        QueueFull
            A bound is reached (after `block_timeout` with ``on_full="block"``).
        MessageTooLarge
            Key, value and headers exceed ``message.max.bytes`` (less 36 bytes that Kafka's format takes) or
            `queue_bytes`.
        TypeError, ValueError
            An argument is of a wrong type or out of range; no topic.
        ClosedError, ForkedError
            The producer is stopped, or belongs to the parent process.
        """
        # The common case costs one native call and no conversion. Options are collected, since defaults of
        # keyword-only parameters would be looked up one by one, a tenth of the whole call.
        if value.__class__ is bytes and key is None and not options and _send(self._native, value, len(value)) == 0:
            return
        self._send_record(value, key, **options)

    def _send_record(
        self,
        value: Payload,
        key: Payload,
        *,
        topic: str | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Headers | None = None,
    ) -> None:
        number = self._default_topic if topic is None else self._topic_number(topic)
        if number == _NO_TOPIC:
            raise ValueError("no topic: give one to send() or to Producer()")
        value_at, value_len = _buffer("value", value)
        key_at, key_len = _buffer("key", key)
        packed = pack_headers(headers) if headers else b""
        record = (
            self._native,
            number,
            lib.KA_PARTITION_ANY if partition is None else _integer("partition", partition, 2**31 - 1),
            -1 if timestamp_ms is None else _integer("timestamp_ms", timestamp_ms, 2**63 - 1, least=1),
            value_at,
            value_len,
            key_at,
            key_len,
            packed,
            len(packed),
        )
        status = lib.ka_producer_send_record(*record)
        if status == lib.KA_FULL and self._block:
            status = self._send_blocking(record, value_len + key_len + len(packed))
        if status != lib.KA_OK:
            raise self._refusal(status, value_len, key_len, len(packed))

    def _send_blocking(self, record: tuple[object, ...], size: int) -> int:
        deadline = None if self._block_timeout is None else time.monotonic() + self._block_timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            status = wait(lambda timeout_us: lib.ka_wait_producer_room(self._native, size, timeout_us), left)
            if status != lib.KA_OK:
                return lib.KA_FULL if status == lib.KA_TIMEOUT else status
            # Another thread may have taken the room meanwhile.
            status = lib.ka_producer_send_record(*record)  # type: ignore[arg-type]
            if status != lib.KA_FULL:
                return status

    def flush(self, timeout: float | None = 5.0) -> None:
        """Wait until everything accepted before the call has its outcome, ignoring ``linger.ms``.

        Releases the GIL while it waits; other threads may go on sending.

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
        ClosedError, ForkedError
            The producer is or was meanwhile stopped, or belongs to the parent process.

        Notes
        -----
        Overriding linger is librdkafka's ``rd_kafka_flush``, run on a native control thread.
        """
        check_timeout(timeout)
        ticket = lib.ka_producer_flush(self._native)
        status = ticket
        if ticket > 0:
            status = wait(lambda timeout_us: lib.ka_wait_producer_flush(self._native, ticket, timeout_us), timeout)
        if status == lib.KA_TIMEOUT:
            raise self._flush_timeout(self.metrics().outstanding, "still queued; flush() again to go on waiting")
        if status < 0:
            raise _state_error(status)
        self._raise_failures()

    def stop(self, timeout: float | None = 5.0) -> None:
        """Refuse new messages, wait for the outcome of all others, and close.

        Releases the GIL while it waits, and ends every ``flush`` and blocked ``send`` of other threads.
        Once it has returned or raised an error, another call does nothing; one that was interrupted by
        a signal, or runs in another thread, can be waited for by calling it again.

        Parameters
        ----------
        timeout : float or None, default 5
            Seconds until what has no outcome yet is purged, which may take up to one more; None waits
            without limit (each message is bounded by ``message.timeout.ms``).

        Raises
        ------
        FlushTimeout
            The time was over; ``outstanding`` messages were purged. The producer is closed.
        DeliveryError
            Messages failed that nobody had been told about. The producer is closed.

        Notes
        -----
        What librdkafka still has to do to end its threads goes on in the background.
        """
        check_timeout(timeout)
        if self._stopped or lib.ka_producer_close(self._native, micros(timeout)) == lib.KA_FORKED:
            return
        # The core keeps to the timeout itself; the limit here is for purging that takes long.
        limit = None if timeout is None else timeout + _PURGE_LIMIT_S
        lost = wait(lambda timeout_us: lib.ka_wait_producer_closed(self._native, timeout_us), limit)
        if self._stopped:  # by another thread, which tells
            return
        self._stopped = True
        _exit.forget(self)
        if lost == 0:
            self._raise_failures()
            return
        if lost > 0:
            error = self._flush_timeout(lost, "purged")
        else:
            error = self._flush_timeout(self.metrics().outstanding, "being purged in the background")
        lib.ka_producer_unreported(self._native, error.failed)
        raise error

    def failures(self) -> list[DeliveryReport]:
        """Take the messages that failed, oldest first, payload included.

        Never blocks. At most 1,000 messages or 4 MiB are kept between two calls; ``metrics().failed``
        counts all. What is returned counts as told; failures that were not kept are still raised by
        ``flush`` and ``stop``.

        Returns
        -------
        list of DeliveryReport

        Raises
        ------
        ForkedError
            The producer belongs to the parent process.
        """
        self._unreported()
        fetched = self._collect_failures()
        lib.ka_producer_unreported(self._native, len(fetched))
        reports = [*self._failures, *fetched]
        self._failures.clear()
        return reports

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
            raise _state_error(status)
        return ProducerMetrics(
            stats.accepted,
            stats.delivered,
            stats.failed,
            stats.purged,
            0,
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
        except (errors.FlushTimeout, errors.DeliveryError) as trouble:
            if error is None:
                raise
            _log.logger.error("the producer stopped because of an exception, and: %s", trouble)
            _exit.lose(trouble.failed + getattr(trouble, "outstanding", 0))

    def _topic_number(self, topic: str) -> int:
        number = self._topics.get(topic)
        if number is None:
            check_topic(topic)
            number = lib.ka_producer_topic(self._native, topic.encode())
            if number < 0:
                raise _state_error(number)
            self._topics[topic] = number
        return number

    def _refusal(self, status: int, value_len: int, key_len: int, headers_len: int) -> Exception:
        if status == lib.KA_FULL:
            return errors.QueueFull(
                f"the queue is full ({self._queue_messages} messages or {self._queue_bytes} bytes without an outcome): "
                + (f"no room came within block_timeout={self._block_timeout} s; " if self._block else "")
                + "send again later"
                + ("" if self._block else ", use on_full='block'")
                + ", or raise queue_messages or queue_bytes",
                code=-184,
                name="_QUEUE_FULL",
                retriable=True,
            )
        if status == lib.KA_TOO_LARGE:
            return errors.MessageTooLarge(
                f"key, value and headers are {key_len + value_len + headers_len} bytes: at most "
                f"{self._max_message - lib.KA_WIRE_OVERHEAD} fit into message.max.bytes={self._max_message}, and "
                f"queue_bytes={self._queue_bytes} into the queue",
                code=10,
                name="MSG_SIZE_TOO_LARGE",
            )
        return _state_error(status)

    def _flush_timeout(self, outstanding: int, what: str) -> errors.FlushTimeout:
        error = errors.FlushTimeout(
            f"{outstanding} messages had no outcome when the time was over: {what}",
            code=-185,
            name="_TIMED_OUT",
            retriable=True,
        )
        error.outstanding = outstanding
        error.failed = self._unreported()
        return error

    def _unreported(self) -> int:
        unreported = lib.ka_producer_unreported(self._native, 0)
        if unreported < 0:
            raise _state_error(unreported)
        return unreported

    def _take_unreported(self) -> int:
        """Count the failures that nobody was told of; the caller tells."""
        failed = self._unreported()
        lib.ka_producer_unreported(self._native, failed)
        return failed

    def _raise_failures(self) -> None:
        failed = self._take_unreported()
        if not failed:
            return
        fetched = self._collect_failures()
        self._failures.extend(fetched)
        report = fetched[0] if fetched else None
        cause = report.error if report else None
        error = errors.DeliveryError(
            f"{failed} messages failed; the first: {cause}. failures() has the messages"
            if report
            else f"{failed} more messages failed than could be kept: fetch failures() more often",
            code=cause.code if cause else 0,
            name=cause.name if cause else "",
            retriable=bool(cause and cause.retriable),
        )
        error.failed = failed
        error.report = report
        raise error

    def _collect_failures(self) -> list[DeliveryReport]:
        reports = []
        while failure := lib.ka_producer_failure(self._native):
            reports.append(_report(ffi.gc(failure, lib.ka_failure_free)))
        return reports

    def _begin_exit(self, timeout_s: float) -> None:
        lib.ka_producer_close(self._native, micros(timeout_s))

    def _end_exit(self, timeout_s: float) -> int:
        lost = wait(lambda timeout_us: lib.ka_wait_producer_closed(self._native, timeout_us), timeout_s)
        if lost < 0:
            lost = self.metrics().outstanding
        return lost + self._take_unreported()


def _check_range(name: str, number: int, most: int) -> None:
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{name} must be int, not {type(number).__name__}")
    if not 1 <= number <= most:
        raise ValueError(f"{name} must be from 1 to {most}, not {number}")


def _integer(name: str, number: int, most: int, *, least: int = 0) -> int:
    if isinstance(number, bool):
        raise TypeError(f"{name} must be int, not bool")
    try:
        number = operator.index(number)
    except TypeError:
        raise TypeError(f"{name} must be int, not {type(number).__name__}") from None
    if not least <= number <= most:
        raise ValueError(f"{name} must be from {least} to {most}, not {number}")
    return number


def _buffer(name: str, data: Payload) -> tuple[ffi.CData | bytes, int]:
    """Bring a payload into a form that crosses without a copy, with its length in bytes."""
    if data is None:
        return ffi.NULL, 0
    if isinstance(data, str):
        data = data.encode()
    if isinstance(data, bytes):
        return data, len(data)
    try:
        view = memoryview(data)
    except TypeError:
        raise TypeError(
            f"{name} must be bytes, str, None or have a buffer (bytearray, memoryview, numpy), "
            f"not {type(data).__name__}"
        ) from None
    if not view.c_contiguous:
        raise ValueError(f"{name} is not contiguous in memory: copy it first, e.g. with bytes(...)")
    return (ffi.from_buffer(view), view.nbytes) if view.nbytes else (b"", 0)


def _state_error(status: int) -> Exception:
    if status == lib.KA_FORKED:
        return errors.ForkedError("this producer belongs to the parent process: make a new one after the fork")
    if status == lib.KA_CLOSED:
        return errors.ClosedError("the producer is stopped: make a new one")
    return MemoryError("the native core has no memory")


def _report(failure: ffi.CData) -> DeliveryReport:
    def part(at: ffi.CData, length: int) -> bytes | None:
        return ffi.buffer(at, length)[:] if at != ffi.NULL else None

    native = failure.error
    error = errors.KafkaError(
        f"{ffi.string(native.text).decode(errors='replace')} ({ffi.string(native.name).decode()})",
        code=native.code,
        name=ffi.string(native.name).decode(),
        retriable=bool(native.retriable),
        fatal=bool(native.fatal),
    )
    return DeliveryReport(
        topic=ffi.string(failure.topic).decode(),
        partition=failure.partition if failure.partition >= 0 else None,
        offset=None,
        key=part(failure.key, failure.key_len),
        value=part(failure.value, failure.value_len),
        headers=unpack_headers(part(failure.headers, failure.headers_len)),
        error=error,
        latency_s=failure.latency_s,
    )
