"""Failures of a producer: which were told, and the messages that are kept for the application."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from kafka_async import errors
from kafka_async._native import ffi, lib
from kafka_async._refusal import state_error
from kafka_async._trouble import explained
from kafka_async.message import DeliveryReport, unpack_headers

if TYPE_CHECKING:
    from kafka_async._delivery import Unread

_KEPT = 1000  # the core's own bound


class Failures:
    """Sees to it that every failure without a callback or future is told once.

    The core counts those and keeps their messages, within bounds. What was collected from it counts
    as told, here under one lock, since several threads may tell.

    Parameters
    ----------
    native : ka_producer *
        The producer.
    unread : Unread
        Failures that a future told to nobody.
    """

    def __init__(self, native: ffi.CData, unread: Unread) -> None:
        self._native = native
        self._unread = unread
        self._kept: deque[DeliveryReport] = deque(maxlen=_KEPT)  # told, and not fetched
        self._lock = threading.RLock()  # a signal handler may interrupt its holder

    def untold(self) -> int:
        """Count the failures that nobody was told of.

        Returns
        -------
        int

        Raises
        ------
        ForkedError
            The producer belongs to the parent process.
        """
        untold = lib.ka_producer_unreported(self._native, 0)
        if untold < 0:
            raise state_error(untold)
        return untold + len(self._unread)

    def fetch(self) -> list[DeliveryReport]:
        """Take all messages that are kept.

        Returns
        -------
        list of DeliveryReport

        Raises
        ------
        ForkedError
            The producer belongs to the parent process.
        """
        self.untold()
        with self._lock:
            collected = self._collect()
            lib.ka_producer_unreported(self._native, len(collected))
            reports = [*self._kept, *collected, *self._unread.take()]
            self._kept.clear()
        return reports

    def tell(self) -> tuple[int, list[DeliveryReport]]:
        """Count the failures that nobody was told of, for a caller that tells; `fetch` can still have them.

        Returns
        -------
        tuple
            How many, and the messages that were kept of them.
        """
        collected: list[DeliveryReport] = []
        self.untold()
        with self._lock:
            while more := self._collect():
                # One may be kept and not counted yet, or counted since: so again, until there is none.
                lib.ka_producer_unreported(self._native, len(more))
                collected += more
            not_kept = lib.ka_producer_unreported(self._native, 0)
            lib.ka_producer_unreported(self._native, not_kept)
            collected += self._unread.take()
            self._kept.extend(collected)
        return not_kept + len(collected), collected

    def raise_untold(self) -> None:
        """Tell by an exception, if there is something to tell.

        Raises
        ------
        DeliveryError
            Messages failed that nobody had been told about.
        """
        failed, collected = self.tell()
        if not failed:
            return
        report = collected[0] if collected else None
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

    def _collect(self) -> list[DeliveryReport]:
        reports = []
        while failure := lib.ka_producer_failure(self._native):
            reports.append(self._report(ffi.gc(failure, lib.ka_failure_free)))
        return reports

    def _report(self, failure: ffi.CData) -> DeliveryReport:
        topic = ffi.string(failure.topic).decode()
        return DeliveryReport(
            topic=topic,
            partition=failure.partition if failure.partition >= 0 else None,
            offset=None,
            key=_part(failure.key, failure.key_len),
            value=_part(failure.value, failure.value_len),
            headers=unpack_headers(_part(failure.headers, failure.headers_len)),
            error=explained(errors.from_native(errors.KafkaError, failure.error), topic, self._native),
            latency_s=failure.latency_s,
        )


def _part(at: ffi.CData, length: int) -> bytes | None:
    return ffi.buffer(at, length)[:] if at != ffi.NULL else None
