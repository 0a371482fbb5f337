"""Answers to a consumer's questions, as futures. Imported with the first consumer, as `_future` is."""

from __future__ import annotations

import queue
import threading
import weakref
from concurrent.futures import Future
from typing import TypeAlias

from kafka_async._future import OwnFuture
from kafka_async._native import ffi, lib
from kafka_async._requests import result
from kafka_async._wait import BLOCKING, Deadline, run
from kafka_async.message import TopicPartition

_Pending: TypeAlias = "tuple[Future[list[TopicPartition]], ffi.CData, float | None, Deadline]"


class Completer:
    """A thread that turns answers into futures, in the order of the questions; started on first use.

    Parameters
    ----------
    owner : object
        The thread ends when this is collected.
    """

    def __init__(self, owner: object) -> None:
        self._pending: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        weakref.finalize(owner, self._pending.put, None).atexit = False
        self._starter = threading.Lock()  # who gets it starts the thread; nobody waits for it, a signal handler least

    def future(self, command: ffi.CData, timeout: float | None) -> Future[list[TopicPartition]]:
        """Have a future completed by a command's answer.

        Parameters
        ----------
        command : ka_command *
            Is released here.
        timeout : float or None
            Seconds; None waits without limit.

        Returns
        -------
        concurrent.futures.Future of list of TopicPartition
        """
        future = OwnFuture[list[TopicPartition]]()
        future.set_running_or_notify_cancel()  # it is on its way: it can't be cancelled
        self._pending.put((future, command, timeout, Deadline(timeout)))
        if self._starter.acquire(blocking=False):
            self._start()
        return future

    def _start(self) -> None:
        thread = threading.Thread(target=_complete, args=(self._pending,), name="kafka_async-commit", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self._starter.release()
            raise


def _complete(pending: queue.SimpleQueue[_Pending | None]) -> None:
    lib.ka_thread_name(b"ka-commit")
    while (item := pending.get()) is not None:
        future, command, timeout, deadline = item
        try:
            future.set_result(run(result(BLOCKING, command, timeout, deadline)))
        except Exception as error:
            future.set_exception(error)
        del item, future, command  # until the next one comes, nobody holds them
