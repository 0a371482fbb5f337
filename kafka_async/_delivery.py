"""Futures and delivery callbacks, and the one thread of a producer that serves them."""

from __future__ import annotations

import functools
import itertools
import struct
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from types import CoroutineType
from typing import TYPE_CHECKING, NamedTuple, Protocol

from kafka_async import _exit, _log, errors
from kafka_async._native import ffi, lib
from kafka_async._trouble import explained
from kafka_async._wait import Deadline, wait
from kafka_async.message import DeliveryReport, RecordMetadata, unpack_headers

if TYPE_CHECKING:
    OnDelivery = Callable[[DeliveryReport], object]

_RESULT = struct.Struct("=q8xqqd8xii")  # ka_result, but for its bytes and counted_ns
_BATCH = 256
_TOKENS = 2**32 - 1


class Unread:
    """Failures in futures that were dropped unread: as good as never told."""

    def __init__(self) -> None:
        self._born = _exit.forks()
        self._reports: deque[DeliveryReport] = deque()
        self.stopped = False  # nobody will ask any more

    def add(self, report: DeliveryReport) -> None:
        """Take one, if it is a failure.

        Parameters
        ----------
        report : DeliveryReport
            What the future had.
        """
        if not is_failure(report.error) or self._born != _exit.forks():  # of which the parent tells
            return
        if self.stopped:
            _exit.lose(1)
        else:
            self._reports.append(report)

    def __len__(self) -> int:
        """Count them."""
        return len(self._reports)

    def take(self) -> list[DeliveryReport]:
        """Hand them over.

        Returns
        -------
        list of DeliveryReport
        """
        return [self._reports.popleft() for _ in range(len(self._reports))]


class Promise(Protocol):
    """A future, of a thread or of an event loop."""

    def set_result(self, result: RecordMetadata, /) -> None: ...
    def set_exception(self, exception: BaseException, /) -> None: ...


class Waiting(NamedTuple):
    """A message whose outcome somebody waits for."""

    topic: str
    key: bytes | None
    value: bytes | None
    packed_headers: bytes
    callback: OnDelivery | None
    delivery: Promise | None


class Outcomes(ABC):
    """Tells outcomes: completes futures and calls callbacks, in the order of the outcomes.

    It has its own share of the native producer, so a producer that is forgotten leaves no future without
    an end.

    Parameters
    ----------
    native : ka_producer *
        The producer.
    """

    def __init__(self, native: ffi.CData) -> None:
        self._native = ffi.gc(lib.ka_producer_share(native), lib.ka_producer_unshare)
        self._waiting: dict[int, Waiting] = {}
        self._told_failures = 0
        self._counter = itertools.count()
        self._results = ffi.new("ka_result[]", _BATCH)
        self._memory = ffi.buffer(self._results)

    def expect(self, waiting: Waiting) -> int:
        """Register a message that is about to be sent.

        Parameters
        ----------
        waiting : Waiting
            The message.

        Returns
        -------
        int
            Its token.
        """
        token = next(self._counter) % _TOKENS + 1
        while token in self._waiting:  # after 2**32 messages one may still be there
            token = next(self._counter) % _TOKENS + 1
        self._waiting[token] = waiting
        return token

    def forget(self, token: int) -> None:
        """Undo `expect` for a message that was not accepted.

        Parameters
        ----------
        token : int
            What `expect` returned.
        """
        self._waiting.pop(token, None)

    @abstractmethod
    def is_current(self) -> bool:
        """Tell whether the caller runs inside a callback.

        Returns
        -------
        bool
        """

    def pending(self) -> int:
        """Count the messages whose outcome was not told yet.

        Returns
        -------
        int
        """
        return len(self._waiting)

    def untold_failures(self) -> int:
        """Count the failures whose callback or future has not been served.

        Returns
        -------
        int
        """
        return max(0, lib.ka_producer_failed_results(self._native) - self._told_failures)

    @abstractmethod
    async def wait(self, deadline: Deadline, *, even_closed: bool) -> int:
        """Wait until every outcome that is there now has been told.

        Parameters
        ----------
        deadline : Deadline
            When to give up.
        even_closed : bool
            Go on waiting when the producer closes.

        Returns
        -------
        int
            KA_OK, KA_TIMEOUT or KA_CLOSED.
        """

    def tell(self) -> int:
        """Tell what is there, up to a batch.

        Returns
        -------
        int
            How many outcomes; negative: there will be no more.
        """
        count = lib.ka_producer_results(self._native, self._results, _BATCH)
        for result in _RESULT.iter_unpack(self._memory[: max(count, 0) * _RESULT.size]):
            try:
                self._tell(*result)
            except BaseException:
                _log.exception("a delivery callback raised an exception")
        return count

    def _tell(self, token: int, offset: int, timestamp_ms: int, latency_s: float, code: int, partition: int) -> None:
        topic, key, value, packed_headers, callback, delivery = self._waiting[token]
        error = None if code == 0 else explained(describe(code), topic, self._native)
        report = None
        if callback is not None or error is not None:
            report = DeliveryReport(
                topic,
                partition if partition >= 0 else None,
                offset if offset >= 0 else None,
                key,
                value,
                unpack_headers(packed_headers),
                error,
                latency_s,
            )
        if is_failure(error):
            self._told_failures += 1
        try:
            if delivery is not None:
                self._complete(
                    delivery, RecordMetadata(topic, partition, offset if offset >= 0 else None, timestamp_ms), report
                )
        finally:
            try:
                if callback is not None and report is not None:
                    _call(callback, report)
            finally:  # only now: what is being told is still waited for
                self._waiting.pop(token, None)

    def _complete(self, delivery: Promise, metadata: RecordMetadata, report: DeliveryReport | None) -> None:
        if report is None or report.error is None:
            delivery.set_result(metadata)
            return
        error = errors.reworded(errors.DeliveryError, report.error, str(report.error))
        error.failed = 1
        error.report = report
        delivery.set_exception(error)


class Dispatcher(Outcomes):
    """Tells them on a thread of its own, which starts with the first message that wants a result."""

    def __init__(self, native: ffi.CData) -> None:
        super().__init__(native)
        self._starter = threading.Lock()  # who gets it starts the thread; nobody waits for it
        self._thread: threading.Thread | None = None

    def expect(self, waiting: Waiting) -> int:
        if self._thread is None and self._starter.acquire(blocking=False):
            try:
                self._start()
            except BaseException:
                self._starter.release()
                raise
        return super().expect(waiting)

    def _start(self) -> None:
        _exit.check()
        thread = threading.Thread(target=self._run, name="kafka_async-delivery", daemon=True)
        self._thread = thread  # before it runs: callbacks may come while start() waits
        try:
            thread.start()
        except RuntimeError:
            self._thread = None
            raise
        _exit.watch(self)

    def is_current(self) -> bool:
        return self._thread is not None and self._thread.ident == threading.get_ident()

    async def wait(self, deadline: Deadline, *, even_closed: bool) -> int:
        if self._thread is None:
            return lib.KA_OK
        count = lib.ka_producer_announced(self._native)
        return wait(
            lambda timeout_us: lib.ka_wait_producer_told(self._native, count, even_closed, timeout_us), deadline
        )

    def _run(self) -> None:
        lib.ka_thread_name(b"ka-delivery")
        while (count := self.tell()) >= 0:
            if count == 0:
                lib.ka_wait_producer_results(self._native, -1)
        _exit.forget(self)

    def _begin_exit(self, timeout_s: float) -> None:
        """Do nothing: its producer closes."""

    def _end_exit(self, timeout_s: float) -> int:
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self.untold_failures()


def is_failure(error: errors.KafkaError | None) -> bool:
    """Tell whether a message failed; a purged one did not.

    Parameters
    ----------
    error : KafkaError or None
        Of its outcome.

    Returns
    -------
    bool
    """
    return error is not None and not error.name.startswith("_PURGE")


def _call(callback: OnDelivery, report: DeliveryReport) -> None:
    if isinstance(coroutine := callback(report), CoroutineType):
        coroutine.close()
        raise not_awaited(callback)


def not_awaited(callback: OnDelivery) -> TypeError:
    """Make the error for a callback that would have to be awaited.

    Parameters
    ----------
    callback : callable
        What was given.

    Returns
    -------
    TypeError
    """
    return TypeError(f"on_delivery {callback!r} is a coroutine function, which nothing awaits: give a plain one")


def describe(code: int) -> errors.KafkaError:
    """Make an error of librdkafka's code.

    Parameters
    ----------
    code : int
        Of a message's outcome.

    Returns
    -------
    KafkaError
        A new one at each call: exceptions carry the traceback of where they were raised.
    """
    known = _known(code)
    return errors.reworded(errors.KafkaError, known, str(known))


@functools.cache
def _known(code: int) -> errors.KafkaError:
    error = ffi.new("ka_error *")
    lib.ka_error_describe(code, error)
    return errors.from_native(errors.KafkaError, error)
