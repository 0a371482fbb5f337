"""Waiting in native code so that signals, timeouts and stop() end it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Coroutine
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from kafka_async._native import ffi, lib

if TYPE_CHECKING:
    from kafka_async._oauth import Tokens

# A signal that arrives inside the native wait ends it at once. One that arrives just before, or that
# the kernel gave to another thread, does not; the main thread, which runs the handlers, therefore
# comes back this often.
_SLICE_S = 0.004
Result = TypeVar("Result")
_LONG_S = 1e9  # 30 years: what is longer would overflow


def check_timeout(timeout: float | None, name: str = "timeout") -> float | None:
    """Refuse a timeout that makes no sense.

    Parameters
    ----------
    timeout : float or None
        Seconds; None waits without limit.
    name : str, default "timeout"
        What to call it in an error.

    Returns
    -------
    float or None
        The same, or 30 years.

    Raises
    ------
    TypeError
        It is no number.
    ValueError
        It is negative or NaN.
    """
    if timeout is None:
        return None
    if not isinstance(timeout, (int, float)):
        raise TypeError(f"{name} must be seconds as a number or None, not {type(timeout).__name__}")
    if timeout < 0 or timeout != timeout:  # NaN
        raise ValueError(f"{name} must be >= 0 seconds, or None for no limit, not {timeout}")
    return min(timeout, _LONG_S)


def micros(timeout: float | None) -> int:
    """Turn seconds into the core's microseconds, None into its "no limit".

    Parameters
    ----------
    timeout : float or None
        Seconds.

    Returns
    -------
    int
    """
    return -1 if timeout is None else math.ceil(timeout * 1e6)


class Deadline:
    """The end of the time that several steps share.

    Parameters
    ----------
    timeout : float or None
        Seconds from now; None: there is no end.
    """

    __slots__ = ("_end",)

    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None else time.monotonic() + timeout

    def left(self) -> float | None:
        """Tell how much time is left.

        Returns
        -------
        float or None
            Seconds, 0 when it is over; None without an end.
        """
        if self._end is None:
            return None
        left = self._end - time.monotonic()
        return left if left > 0 else 0.0  # a call of max() would slow polls that find nothing


def wait(call: Callable[[int], int], timeout: Deadline | float | None) -> int:
    """Wait with a native call until it answers or the time is over.

    A signal handler that returns resumes the wait for the time left; one that raises ends it.

    Parameters
    ----------
    call : callable
        Takes microseconds and returns a status of the core. It releases the GIL.
    timeout : Deadline, float or None
        An end that is shared, or seconds; None waits without limit.

    Returns
    -------
    int
        The answer, or KA_TIMEOUT.
    """
    deadline = timeout if isinstance(timeout, Deadline) else Deadline(timeout)
    sliced = threading.current_thread() is threading.main_thread()
    left = deadline.left()
    while True:
        last = not sliced or (left is not None and left <= _SLICE_S)
        status = call(micros(left if last else _SLICE_S))
        if status not in (lib.KA_TIMEOUT, lib.KA_INTERRUPTED):
            return status
        left = left and deadline.left()  # no look at the clock without a limit, nor after a wait of 0
        if left == 0:
            return lib.KA_TIMEOUT


def acquire(lock: threading.Lock, timeout: Deadline | float | None) -> bool:
    """Acquire a lock; as `wait` does, so that signal handlers run in time.

    Parameters
    ----------
    lock : threading.Lock
    timeout : Deadline, float or None
        An end that is shared, or seconds; None waits without limit.

    Returns
    -------
    bool
        Whether it is acquired.
    """
    deadline = timeout if isinstance(timeout, Deadline) else Deadline(timeout)
    sliced = threading.current_thread() is threading.main_thread()
    while True:
        left = deadline.left()
        most = _SLICE_S if sliced else _LONG_S
        if lock.acquire(timeout=most if left is None else min(left, most)):
            return True
        if deadline.left() == 0:
            return False


def owned(command: ffi.CData) -> ffi.CData:
    """Have a command released when nobody holds it any more.

    Parameters
    ----------
    command : ka_command *
        As the core returned it; NULL: the core had no memory.

    Returns
    -------
    ka_command *
        The same, to be held instead.

    Raises
    ------
    MemoryError
        There is no command.
    """
    if not command:
        raise MemoryError("the native core has no memory")
    return ffi.gc(command, lib.ka_command_release)


class Waits(Protocol):
    """How the core's coroutines wait: on the calling thread, or on an event loop."""

    awaits: bool  # a coroutine that a callback returns

    def attend(self, tokens: Tokens) -> None:
        """Have the application asked for tokens from now on."""

    async def until(
        self, block: Callable[[int], int], look: Callable[[], int], timeout: Deadline | float | None
    ) -> int:
        """Wait for something native, by one of its two calls.

        Parameters
        ----------
        block : callable
            ka_wait_*: takes microseconds, and waits with the GIL released.
        look : callable
            ka_try_*: looks once.
        timeout : Deadline, float or None
            As for `wait`.

        Returns
        -------
        int
            The answer, or KA_TIMEOUT.
        """

    def listen(self, command: ffi.CData) -> None:
        """Take note of a command whose answer is waited for from now on."""

    def caller(self) -> object:
        """Tell who is calling: the thread, or the task."""

    def lock(self) -> Lock:
        """Make a lock that a caller holds while it waits for other things."""

    async def shield(self, steps: Coroutine[Any, Any, None], deadline: Deadline | None = None) -> bool:
        """Run steps that must come to their end, even if who waits for them goes away.

        Parameters
        ----------
        steps : coroutine
            What to run.
        deadline : Deadline, optional
            When to cancel what is awaited; what blocks can't be.

        Returns
        -------
        bool
            Whether they came to their end.
        """

    async def finish(self, outcome: object, what: str) -> None:
        """See to the end of what a callback returned, in case that is a coroutine.

        Parameters
        ----------
        outcome : object
            What it returned.
        what : str
            The callback, for errors.
        """


class Lock(Protocol):
    """What `Waits.lock` makes."""

    async def acquire(self, timeout: float | None) -> bool:
        """Wait for it so many seconds, None: without limit. Returns whether it was acquired."""

    def release(self) -> None:
        """Let the next one have it."""


class _ThreadLock:
    def __init__(self) -> None:
        self._lock = threading.Lock()

    async def acquire(self, timeout: float | None) -> bool:
        return acquire(self._lock, timeout)

    def release(self) -> None:
        self._lock.release()


class _Blocking:
    awaits = False

    def attend(self, tokens: Tokens) -> None:
        tokens.start_thread()

    async def until(
        self,
        block: Callable[[int], int],
        look: Callable[[], int],  # noqa: ARG002 - for event loops
        timeout: Deadline | float | None,
    ) -> int:
        return wait(block, timeout)

    def listen(self, command: ffi.CData) -> None: ...

    def caller(self) -> object:
        return threading.get_ident()

    def lock(self) -> Lock:
        return _ThreadLock()

    async def shield(self, steps: Coroutine[Any, Any, None], deadline: Deadline | None = None) -> bool:  # noqa: ARG002
        await steps
        return True

    async def finish(self, outcome: object, what: str) -> None:
        if isinstance(outcome, CoroutineType):
            outcome.close()
            raise TypeError(f"{what} is a coroutine function, which nothing awaits here: give a plain one")


BLOCKING: Waits = _Blocking()


def run(steps: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine that waits by `BLOCKING` alone, so that it never hands control back before its end.

    Parameters
    ----------
    steps : coroutine
        Of the core.

    Returns
    -------
    object
        What it returns.
    """
    try:
        steps.send(None)
    except StopIteration as end:
        result: Result = end.value
        return result
    raise AssertionError("it waited for an event loop")


async def await_answer(waits: Waits, command: ffi.CData, timeout: Deadline | float | None, error: ffi.CData) -> int:
    """Wait for the answer to a command.

    Parameters
    ----------
    waits : Waits
        How.
    command : ka_command *
        Owned by the caller.
    timeout : Deadline, float or None
        As for `wait`.
    error : ka_error *
        Filled when the status is KA_FAILED.

    Returns
    -------
    int
        The status.
    """
    waits.listen(command)
    return await waits.until(
        lambda timeout_us: lib.ka_wait_command(command, timeout_us, error),
        lambda: lib.ka_try_command(command, error),
        timeout,
    )


async def answer(waits: Waits, command: ffi.CData, timeout: float | None, error: ffi.CData) -> tuple[int, int]:
    """Wait for the answer to a command, which goes on without a listener when the time is over.

    Parameters
    ----------
    waits : Waits
        How.
    command : ka_command *
        Is released here.
    timeout : float or None
        Seconds; None waits without limit.
    error : ka_error *
        Filled when the status is KA_FAILED.

    Returns
    -------
    tuple of int
        Status and, with KA_OK, the value.

    Raises
    ------
    MemoryError
        There is no command.
    """
    command = owned(command)
    status = await await_answer(waits, command, timeout, error)
    return status, lib.ka_command_value(command) if status == lib.KA_OK else 0
