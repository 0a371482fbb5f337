"""librdkafka's log lines, from the native ring to the ``kafka_async`` logger.

Python's logging is imported with the first client, or the first line of ours: it takes a fifth of what
``import kafka_async`` would.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from typing import TYPE_CHECKING

from kafka_async._native import ffi, lib

if TYPE_CHECKING:
    import logging

# logging's levels by syslog's: emergency, alert, critical, error, warning, notice, info, debug.
_LEVELS = (50, 50, 50, 40, 30, 20, 20, 10)

_lock = threading.Lock()
_thread: threading.Thread | None = None


def logger() -> logging.Logger:
    """Tell our logger.

    Where the application has no handler for it, our errors, an exception of a callback say, go to stderr, as logging
    does it; librdkafka's lines and our warnings are dropped.

    Returns
    -------
    logging.Logger
    """
    import logging

    return logging.getLogger("kafka_async")


def start() -> None:
    """Start the process's one logging thread, unless it runs already."""
    global _thread
    logger()
    with _lock:
        if _thread is None:
            lib.ka_log_open()
            thread = threading.Thread(target=_run, name="kafka_async-log", daemon=True)
            thread.start()
            _thread = thread


def stop() -> None:
    """Log what is there and end the thread."""
    global _thread
    with _lock:
        if _thread is not None:
            lib.ka_log_close()
            _thread.join()
            _thread = None


def note(text: str, *arguments: object, level: int = 30) -> None:
    """Log what an application without logging is left in peace with.

    Parameters
    ----------
    text, arguments
        As logging takes them.
    level : int, default WARNING
        Of logging.
    """
    if logger().hasHandlers():
        logger().log(level, text, *arguments)


def exception(text: str) -> None:
    """Log the current exception, also past a log handler that raises one itself.

    Parameters
    ----------
    text : str
        What raised it.
    """
    try:
        logger().exception(text)
    except BaseException:
        with contextlib.suppress(BaseException):
            import traceback

            traceback.print_exc()


def _run() -> None:
    lib.ka_thread_name(b"ka-log")
    line = ffi.new("ka_log_line *")
    while True:
        status = lib.ka_wait_log(-1)
        while lib.ka_log_next(line) == lib.KA_OK:
            name = ffi.string(line.name).decode(errors="replace")
            text = ffi.string(line.text).decode(errors="replace")
            note("%s: %s", name, text, level=_LEVELS[min(line.level, 7)])
        if lost := lib.ka_log_lost():
            note("%d log lines of librdkafka were lost: the log ring was full", lost)
        if status == lib.KA_CLOSED:
            return


def _after_fork_in_child() -> None:
    global _thread, _lock
    _thread = None  # it exists only in the parent
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(stop)
