"""SIGINT and SIGTERM: the first asks for a clean end, the second gives up waiting for it.

Raising from a handler is safe only where nothing is half done, so the first signal raises `Stopped` only
inside ``with signals.raising:``; elsewhere the command looks at ``signals.received``.
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any


class Stopped(BaseException):
    """A signal asks for the end. Not an Exception, as KeyboardInterrupt is none.

    Attributes
    ----------
    status : int
        The exit status that tells of the signal, as shells count it.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.status = 128 + signum


class Signals:
    """Handlers for the time of a command.

    Attributes
    ----------
    received : int or None
        The first signal that came.
    raising : context manager
        In here the first signal raises `Stopped`, also one that came before.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.raising = _Raising(self)
        self._before: dict[int, Any] = {}

    @property
    def status(self) -> int:
        """The exit status: 0 without a signal."""
        return 128 + self.received if self.received else 0

    def __enter__(self) -> Signals:
        """Install the handlers."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Put back what was there."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        again = self.received is not None
        if not again:
            self.received = number
        if again or self.raising.active:
            raise Stopped(number)


class _Raising:
    """What ``with signals.raising:`` enters; not a generator, since it surrounds every write."""

    def __init__(self, signals: Signals) -> None:
        self.active = False
        self._signals = signals

    def __enter__(self) -> None:
        self.active = True
        # After that: a signal is seen either here or by the handler, never by neither.
        if self._signals.received:
            self.active = False
            raise Stopped(self._signals.received)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.active = False
