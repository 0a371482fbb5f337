"""Waiting on an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from kafka_async import errors
from kafka_async._native import ffi, lib
from kafka_async._wait import Deadline, Lock, Result

if TYPE_CHECKING:
    from kafka_async._oauth import Tokens

_NOT_YET = (lib.KA_TIMEOUT, lib.KA_INTERRUPTED)


class TaskLock:
    """A lock for tasks, first come, first served, that can be waited for with a limit.

    `asyncio.wait_for` around that of asyncio may lose it, or a cancellation, where the two meet (until Python 3.12).
    """

    def __init__(self) -> None:
        self._held = False
        self._line: deque[asyncio.Future[bool]] = deque()

    def locked(self) -> bool:
        """Tell whether an acquire would wait.

        Returns
        -------
        bool
        """
        return self._held

    async def acquire(self, timeout: float | None = None) -> bool:
        if not self._held:
            self._held = True
            return True
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[bool] = loop.create_future()
        self._line.append(mine)
        timer = None if timeout is None else loop.call_later(timeout, _settle, mine, False)
        try:
            return await mine
        except asyncio.CancelledError:
            if not mine.cancelled() and mine.done() and mine.result():  # it was passed on to us
                self.release()
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def release(self) -> None:
        while self._line:
            if not (following := self._line.popleft()).done():
                following.set_result(True)
                return
        self._held = False


class Looped:
    """Waits on the event loop that runs when it is made, by one bell.

    The bell is armed but for the time between its ring and `_on_ring`, which arms it and then looks at every
    condition that is waited for. So one that was looked at in vain is looked at again after each change.

    Parameters
    ----------
    what : str
        What waits, for errors.
    pulse : float, optional
        Seconds after which every condition is looked at again in any case.

    Raises
    ------
    RuntimeError
        No event loop is running.
    OSError, MemoryError
        There is no file descriptor, or no memory, for the bell.
    """

    awaits = True

    def __init__(self, what: str, pulse: float | None = None) -> None:
        self._what = what
        self._process = os.getpid()
        self._pulse = pulse
        try:
            self.loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(f"no event loop is running: make a {what} of kafka_async.aio in a coroutine") from None
        bell = lib.ka_bell_new()
        if not bell:
            raise MemoryError(f"no memory for the {what}")
        self.bell = ffi.gc(bell, lib.ka_bell_release)
        if lib.ka_bell_descriptor(bell) < 0:
            raise OSError(f"no file descriptor is left for the {what}: close some, or raise the limit (ulimit -n)")
        self._waiting: dict[asyncio.Future[int], Callable[[], int]] = {}
        self._serve: Callable[[], bool] | None = None
        self._attend: Callable[[], object] | None = None

    def open(self, serve: Callable[[], bool] | None = None) -> None:
        """Listen to the bell.

        Parameters
        ----------
        serve : callable, optional
            Is called, too, when it has rung; again soon, if it returns True.

        Raises
        ------
        RuntimeError
            The loop can't watch a file descriptor.
        """
        self._serve = serve
        lib.ka_bell_arm(self.bell)
        try:
            self.loop.add_reader(lib.ka_bell_descriptor(self.bell), self._on_ring)
        except NotImplementedError:
            raise RuntimeError(
                f"{type(self.loop).__name__} can't watch a file descriptor (no add_reader()): use another event loop, "
                "such as asyncio.SelectorEventLoop"
            ) from None

    def attend(self, tokens: Tokens) -> None:
        if not tokens.is_async:
            tokens.start_thread()
            return
        self._attend = tokens.attendant(self.loop, self.bell)
        self.loop.call_soon(self._look)  # it may have been due before the bell was armed

    def is_foreign(self) -> bool:
        """Tell whether this is the child of a fork, where nothing of the parent's is stopped.

        Returns
        -------
        bool
        """
        return self._process != os.getpid()

    def check(self) -> None:
        """Refuse a caller that does not run on this loop.

        Raises
        ------
        RuntimeError
            No event loop runs in this thread, or another one.
        ForkedError
            It belongs to the parent process.
        """
        if asyncio._get_running_loop() is not self.loop:
            if self.is_foreign():
                raise errors.ForkedError(
                    f"this {self._what} belongs to the parent process: make a new one after the fork"
                )
            raise RuntimeError(
                f"this {self._what} belongs to the event loop that it was made on, and that is not the one that "
                "runs here: make one for each loop"
            )

    def close(self) -> None:
        """Watch the bell no more: what it belongs to is closed, and that is the answer to all who wait."""
        self._serve = None  # which knows us
        if not self.loop.is_closed():
            self.loop.remove_reader(lib.ka_bell_descriptor(self.bell))
            self._look()  # it may have rung since the last time
        self._attend = None

    def call(self, function: Callable[[], object]) -> None:
        """Have a function called on the loop; the caller may be the garbage collector, on any thread.

        Parameters
        ----------
        function : callable
        """
        if not self.is_foreign():
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.loop.call_soon_threadsafe(function)

    async def until(
        self,
        block: Callable[[int], int],  # noqa: ARG002 - for threads
        look: Callable[[], int],
        timeout: Deadline | float | None,
    ) -> int:
        self.check()
        deadline = timeout if isinstance(timeout, Deadline) else Deadline(timeout)
        while (status := look()) in _NOT_YET:
            left = deadline.left()
            if left == 0:
                return lib.KA_TIMEOUT
            status = await self._sleep(look, left)
            if status not in _NOT_YET:
                break
        return status

    async def _sleep(self, look: Callable[[], int], left: float | None) -> int:
        future = self.loop.create_future()
        self._waiting[future] = look
        times = [time for time in (left, self._pulse) if time is not None]
        timer = self.loop.call_later(min(times), _settle, future, lib.KA_TIMEOUT) if times else None
        try:
            return int(await future)
        finally:
            del self._waiting[future]
            if timer is not None:
                timer.cancel()

    def _on_ring(self) -> None:
        if lib.ka_bell_arm(self.bell) != lib.KA_OK:
            return  # in a forked child
        self._look()

    def _look(self) -> None:
        if self._attend is not None and not self.loop.is_closed():
            self._attend()
        if self._serve is not None and self._serve() and not self.loop.is_closed():
            self.loop.call_soon(self._look)
        for future, look in list(self._waiting.items()):
            if not future.done() and (status := look()) not in _NOT_YET:
                future.set_result(status)

    def listen(self, command: ffi.CData) -> None:
        lib.ka_command_hang(command, self.bell)

    def caller(self) -> object:
        return asyncio.current_task()

    def lock(self) -> Lock:
        return TaskLock()

    async def shield(self, steps: Coroutine[Any, Any, None], deadline: Deadline | None = None) -> bool:
        task = self.loop.create_task(steps)
        await asyncio.wait(
            {task}, timeout=deadline.left() if deadline else None
        )  # whose own cancellation is not the task's
        if not task.done():
            return not task.cancel()
        task.result()
        return True

    async def finish(self, outcome: object, what: str) -> None:  # noqa: ARG002 - any kind of callback will do
        if inspect.isawaitable(outcome):
            await outcome


def _settle(future: asyncio.Future[Result], result: Result) -> None:
    if not future.done():
        future.set_result(result)
