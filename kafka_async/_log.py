"""librdkafka's log lines, from the native ring to the ``kafka_async`` logger."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import traceback

from kafka_async._native import ffi, lib

logger = logging.getLogger("kafka_async")
logger.addHandler(logging.NullHandler())  # an application without logging is left in peace

# By syslog's level: emergency, alert, critical, error, warning, notice, info, debug.
_LEVELS = (
    logging.CRITICAL,
    logging.CRITICAL,
    logging.CRITICAL,
    logging.ERROR,
    logging.WARNING,
    logging.INFO,
    logging.INFO,
    logging.DEBUG,
)

_lock = threading.Lock()
_thread: threading.Thread | None = None


def start() -> None:
    """Start the process's one logging thread, unless it runs already."""
    global _thread
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


def exception(text: str) -> None:
    """Log the current exception, also past a log handler that raises one itself.

    Parameters
    ----------
    text : str
        What raised it.
    """
    try:
        logger.exception(text)
    except BaseException:
        with contextlib.suppress(BaseException):
            traceback.print_exc()


def _run() -> None:
    lib.ka_thread_name(b"ka-log")
    line = ffi.new("ka_log_line *")
    while True:
        status = lib.ka_wait_log(-1)
        while lib.ka_log_next(line) == lib.KA_OK:
            name = ffi.string(line.name).decode(errors="replace")
            text = ffi.string(line.text).decode(errors="replace")
            logger.log(_LEVELS[min(line.level, 7)], "%s: %s", name, text)
        if lost := lib.ka_log_lost():
            logger.warning("%d log lines of librdkafka were lost: the log ring was full", lost)
        if status == lib.KA_CLOSED:
            return


def _after_fork_in_child() -> None:
    global _thread, _lock
    _thread = None  # it exists only in the parent
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(stop)
