"""What the producer's transaction methods have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from kafka_async import errors
from kafka_async._native import ffi, lib
from kafka_async._refusal import state_error
from kafka_async._trouble import reason
from kafka_async._wait import Deadline, Waits, answer, micros
from kafka_async.message import TopicPartition, check_partition

if TYPE_CHECKING:
    from kafka_async._consumer import ConsumerCore

_ANSWER_S = 0.5  # librdkafka keeps to the time itself; this is for its own answer


async def transact(
    waits: Waits, native: ffi.CData, what: int, name: str, timeout: float | None, transactional_id: str | None
) -> None:
    """Have the core do a step.

    Parameters
    ----------
    waits : Waits
        How to wait.
    native : ka_producer *
        The producer.
    what : int
        KA_INIT, KA_BEGIN, KA_COMMIT or KA_ABORT.
    name : str
        The method, for errors.
    timeout : float or None
        Seconds; None waits without limit.
    transactional_id : str or None
        The producer's, for errors.

    Raises
    ------
    TransactionError, ClosedError, ForkedError
        As the method documents.
    """
    _check_transactional(native, name)
    command = lib.ka_producer_transact(native, what, micros(timeout))
    await _finish(waits, native, name, command, timeout, f"transactional.id {transactional_id!r}")
    lib.ka_producer_step_told(native)


async def send_offsets(
    waits: Waits,
    native: ffi.CData,
    consumer: ConsumerCore,
    offsets: Iterable[TopicPartition] | None,
    timeout: float | None,
) -> None:
    """Make a consumer's progress part of the transaction.

    Parameters
    ----------
    waits : Waits
        How to wait.
    native : ka_producer *
        The producer.
    consumer : ConsumerCore
        Whose progress.
    offsets : iterable of TopicPartition or None
        None: the positions of all that it has handed out.
    timeout : float or None
        Seconds; None waits without limit.

    Raises
    ------
    ConfigError, ConsumerError, TransactionError, ClosedError, ForkedError
        As the method documents.
    """
    name = "send_offsets_to_transaction"
    _check_transactional(native, name)
    deadline = Deadline(timeout)
    if offsets is None:
        offsets = [item for item in consumer.assignment() if item.offset is not None]
    items = [_progress(item) for item in offsets]
    group = await consumer._group_for(timeout)
    if not items:
        return
    names = [ffi.new("char[]", item.topic.encode()) for item in items]
    array = ffi.new(
        "ka_partition[]", [(name, item.partition, 0, item.offset) for name, item in zip(names, items, strict=True)]
    )
    left = deadline.left()
    command = lib.ka_producer_send_offsets(native, group, array, len(items), micros(left))
    await _finish(waits, native, name, command, left, f"group {consumer._group_id!r}")


def _check_transactional(native: ffi.CData, name: str) -> None:
    if lib.ka_producer_transaction(native) == lib.KA_TXN_OFF:
        raise errors.TransactionError(
            f"{name}(): this producer is not transactional: give config={{'transactional.id': ...}}",
            code=-145,
            name="_NOT_CONFIGURED",
        )


async def _finish(
    waits: Waits, native: ffi.CData, name: str, command: ffi.CData, timeout: float | None, resource: str
) -> None:
    """Wait for the answer and raise what it says; resource: what may be denied."""
    error = ffi.new("ka_error *")
    status, _ = await answer(waits, command, None if timeout is None else timeout + _ANSWER_S, error)
    if status == lib.KA_OK:
        return
    if status == lib.KA_TIMEOUT:
        lib.ka_error_describe(-185, error)
    elif status != lib.KA_FAILED:
        raise state_error(status)
    cause = errors.from_native(errors.TransactionError, error)
    text = str(cause)
    if cause.name == "_CONFLICT":  # librdkafka calls it retriable, and means the other call
        text = "a commit or an abort that ran out of time has not ended: call that one again first"
        cause.retriable = False
    elif cause.name == "_TIMED_OUT" and cause.retriable:
        text = f"the cluster did not answer in time: call {name}() again, which resumes it (_TIMED_OUT)"
        text += reason(lib.ka_producer_trouble, native)
    elif cause.name == "_STATE" and lib.ka_producer_transaction(native) in (lib.KA_TXN_OPEN, lib.KA_TXN_ENDING):
        text = f"the last transaction is not over: commit_transaction() or abort_transaction() ends it ({text})"
    elif cause.name in ("GROUP_AUTHORIZATION_FAILED", "TRANSACTIONAL_ID_AUTHORIZATION_FAILED"):
        text = f"{resource}: {text}"
    raised = errors.reworded(errors.TransactionError, cause, f"{name}(): {text}")
    raised.requires_abort = bool(error.requires_abort)
    raise raised


def _progress(item: TopicPartition) -> TopicPartition:
    item = check_partition(item)
    if isinstance(item.offset, bool) or not isinstance(item.offset, int):
        raise TypeError(f"{item!r}: the offset must be int, that of the next message to read")
    if not 0 <= item.offset < 2**63:
        raise ValueError(f"{item!r}: the offset must be from 0 to 2**63 - 1")
    return item
