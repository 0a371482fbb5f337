"""Why the core refused a message, as an exception that says what to do."""

from __future__ import annotations

from typing import NamedTuple

from kafka_async import errors
from kafka_async._native import lib

_TRANSACTION_ADVICE = {
    lib.KA_TXN_NEW: "call init_transactions(), then begin_transaction()",
    lib.KA_TXN_READY: "call begin_transaction()",
    lib.KA_TXN_ENDING: "a commit or an abort has begun: finish it, then call begin_transaction(); if it can not be, "
    "make a new producer",
}


class Limits(NamedTuple):
    """What a producer was told of its bounds."""

    queue_messages: int
    queue_bytes: int
    max_message: int
    on_full: str
    block_timeout: float | None

    def refusal(self, status: int, sizes: tuple[int, int, int], *, no_wait: str | None, transaction: int) -> Exception:
        """Tell why a message was not accepted.

        Parameters
        ----------
        status : int
            The core's.
        sizes : tuple of int
            Of value, key and headers.
        no_wait : str or None
            Why the call did not wait for room, where others do.
        transaction : int
            The state of transactions.

        Returns
        -------
        Exception
        """
        if status == lib.KA_FULL:
            return errors.QueueFull(
                f"the queue is full ({self.queue_messages} messages or {self.queue_bytes} bytes without an outcome, or "
                f"callbacks that have not run): {self._advice(no_wait)}, or raise queue_messages or queue_bytes",
                code=-184,
                name="_QUEUE_FULL",
                retriable=True,
            )
        if status == lib.KA_TOO_LARGE:
            return errors.MessageTooLarge(
                f"key, value and headers are {sum(sizes)} bytes: at most "
                f"{self.max_message - lib.KA_WIRE_OVERHEAD} fit into message.max.bytes={self.max_message}, and "
                f"queue_bytes={self.queue_bytes} into the queue",
                code=10,
                name="MSG_SIZE_TOO_LARGE",
            )
        if status == lib.KA_BARRED:
            advice = _TRANSACTION_ADVICE.get(transaction, "begin one")
            return errors.TransactionError(f"no transaction is open: {advice}", code=-172, name="_STATE")
        return state_error(status)

    def _advice(self, no_wait: str | None) -> str:
        if self.on_full == "raise":
            return "send again later, use on_full='block'"
        if self.on_full != "block":
            return "the message was dropped, as on_full says"
        if no_wait:
            return f"{no_wait}; send again later"
        return f"no room came within block_timeout={self.block_timeout} s; send again later"


def state_error(status: int) -> Exception:
    """Tell of a producer that can't do what was asked, whatever that is.

    Parameters
    ----------
    status : int
        The core's.

    Returns
    -------
    Exception
    """
    if status == lib.KA_FORKED:
        return errors.ForkedError("this producer belongs to the parent process: make a new one after the fork")
    if status == lib.KA_CLOSED:
        return errors.ClosedError("the producer is stopped: make a new one")
    return MemoryError("the native core has no memory")


def no_topic() -> ValueError:
    """Tell that a message has no topic.

    Returns
    -------
    ValueError
    """
    return ValueError("no topic: give one to send() or to Producer()")
