"""Futures of concurrent.futures that can be waited for wherever the rest can: beside signals, after a fork.

Imported with the first client: concurrent.futures takes a fifth of what `import kafka_async` would.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar

from kafka_async import _exit, errors
from kafka_async._delivery import Unread
from kafka_async._wait import Deadline, acquire
from kafka_async.message import RecordMetadata

Outcome = TypeVar("Outcome")
_DONE = "FINISHED"  # of a future's _state; ours are never cancelled


class OwnFuture(Future[Outcome]):
    """A future that is completed by a thread of ours.

    Who waits holds no lock that the completing thread needs: an exception that a signal handler raises in the midst
    of ``Condition.__enter__()`` would leave that locked for good. And the wait is one of `_wait.acquire`, since that of
    a condition may sleep through a signal that comes just before.
    """

    def __init__(self) -> None:
        self._born = self._lock_born = _exit.forks()
        self._sleepers: list[threading.Lock] = []
        super().__init__()

    @property
    def _condition(self) -> threading.Condition:
        """Return the lock; in a forked child another one, since a thread of the parent may have held it."""
        if self._lock_born != _exit.forks():
            self._refuse_foreign()
            self._lock, self._lock_born = threading.Condition(), _exit.forks()
        return self._lock

    @_condition.setter
    def _condition(self, lock: threading.Condition) -> None:
        self._lock = lock

    def _refuse_foreign(self) -> None:
        if self._born != _exit.forks() and self._state != _DONE:
            raise errors.ForkedError("this future belongs to the parent process, which alone learns its outcome")

    def __repr__(self) -> str:
        """Tell what it has come to, without its lock."""
        return f"<{type(self).__name__} at {id(self):#x} {self._state.lower()}>"

    def done(self) -> bool:
        """Tell whether it has ended.

        Returns
        -------
        bool
        """
        return self._state == _DONE

    def result(self, timeout: float | None = None) -> Outcome:
        """Wait for the outcome and return it.

        Releases the GIL while it waits; signal handlers run meanwhile.

        Parameters
        ----------
        timeout : float or None, default None
            Seconds; None waits without limit.

        Returns
        -------
        object

        Raises
        ------
        Exception
            What it ended with.
        TimeoutError
            The time is over (``concurrent.futures.TimeoutError``, which is the builtin one from Python 3.11 on).
        ForkedError
            It belongs to the parent process.
        """
        if error := self.exception(timeout):
            try:
                raise error
            finally:
                del self, error  # the traceback would keep them
        return self._result  # type: ignore[return-value] # it is there by now

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the outcome and return its exception.

        Parameters
        ----------
        timeout : float or None, default None
            Seconds; None waits without limit.

        Returns
        -------
        BaseException or None
            None: it ended well.

        Raises
        ------
        TimeoutError, ForkedError
            As `result`.
        """
        self._refuse_foreign()
        if self._state != _DONE:
            self._sleep(Deadline(timeout))
        return self._exception

    def _sleep(self, deadline: Deadline) -> None:
        sleeper = threading.Lock()
        sleeper.acquire()
        # Before the look: either who completes it finds the sleeper, or the look finds it complete.
        self._sleepers.append(sleeper)
        try:
            if self._state != _DONE and not acquire(sleeper, deadline) and self._state != _DONE:
                raise FutureTimeoutError
        finally:
            self._sleepers.remove(sleeper)

    def _invoke_callbacks(self) -> None:
        for sleeper in list(self._sleepers):  # of which each removes itself
            sleeper.release()
        super()._invoke_callbacks()  # type: ignore[misc] # which typeshed leaves out


class Delivery(OwnFuture[RecordMetadata]):
    """The future outcome of one message: a `concurrent.futures.Future` of `RecordMetadata`.

    A message that was not delivered (failed, purged, or dropped by policy) ends it with an exception:
    `DeliveryError` with its ``report``, or `QueueFull` for one that was never accepted. It does end: a message is
    bounded by ``message.timeout.ms``. It is completed on the producer's delivery thread, where functions given to
    ``add_done_callback`` run too. A failure in one that is dropped unread counts as told to nobody.
    """

    def __init__(self, unread: Unread) -> None:
        super().__init__()
        self._unread = unread
        self._seen = False  # or somebody will be called

    def cancel(self) -> bool:
        """Do nothing: a message that was accepted can't be called back.

        Returns
        -------
        bool
            Always False.
        """
        return False

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the outcome and return its exception.

        Parameters
        ----------
        timeout : float or None, default None
            Seconds; None waits without limit.

        Returns
        -------
        BaseException or None
            None: the message was delivered.

        Raises
        ------
        TimeoutError, ForkedError
            As `result`.
        """
        try:
            return super().exception(timeout)
        finally:
            self._seen = self._seen or self.done()

    def add_done_callback(self, fn: Callable[[Future[RecordMetadata]], object]) -> None:
        """Call a function with this future when it ends, at once if it has ended.

        Parameters
        ----------
        fn : callable
            Runs on the producer's delivery thread; what it raises is logged.
        """
        self._seen = True
        super().add_done_callback(fn)

    def __del__(self) -> None:
        """Pass a failure on that nobody has looked at."""
        error = self.__dict__.get("_exception")  # an exception may have ended the constructor
        if isinstance(error, errors.DeliveryError) and not self._seen and error.report is not None:
            self._unread.add(error.report)
