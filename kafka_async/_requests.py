"""What a consumer asks its native worker for, and the answers."""

from __future__ import annotations

from kafka_async import errors
from kafka_async._native import ffi, lib
from kafka_async._partitions import fetch, from_native
from kafka_async._wait import Deadline, Waits, await_answer, owned
from kafka_async.message import TopicPartition

_TEXTS = {
    "_STATE": "it is not assigned to this consumer (any more)",
    "_CONFLICT": "it is assigned to this consumer already",
    "_ASSIGNMENT_LOST": "the assignment was lost, so its offsets are committed by others: poll to join the group again",
}


def state_error(status: int) -> Exception:
    """Make the error of a status that no ka_error comes with.

    Parameters
    ----------
    status : int
        Of the core, negative.

    Returns
    -------
    Exception
    """
    if status == lib.KA_FORKED:
        return errors.ForkedError("this consumer belongs to the parent process: make a new one after the fork")
    if status == lib.KA_CLOSED:
        return errors.ClosedError("the consumer is stopped: make a new one")
    return MemoryError("the native core has no memory")


def poll_error(status: int, error: ffi.CData, where: ffi.CData) -> Exception:
    """Make the error that a poll raises.

    Parameters
    ----------
    status : int
        Of the core, negative.
    error : ka_error *
        With KA_FAILED: what happened.
    where : ka_partition *
        With KA_FAILED: of which partition; its topic may be NULL.

    Returns
    -------
    Exception
    """
    if status == lib.KA_BUSY:
        return RuntimeError("another thread is polling this consumer: poll from one thread at a time")
    if status != lib.KA_FAILED:
        return state_error(status)
    at = from_native(where) if where.topic != ffi.NULL else None
    if error.code == lib.KA_NOMEM:
        return MemoryError(_place(at) + ffi.string(error.text).decode())
    if ffi.string(error.name) == b"_PARTITION_EOF":
        return _placed(errors.from_native(errors.PartitionEnd, error), at)
    return _placed(errors.from_native(errors.ConsumerError, error), at)


def _place(at: TopicPartition | None) -> str:
    if at is None:
        return ""
    offset = "" if at.offset is None else f", offset {at.offset}"
    return f"partition {at.partition} of topic {at.topic!r}{offset}: "


def _placed(error: errors.ConsumerError, at: TopicPartition | None) -> errors.ConsumerError:
    if at is None:
        return error
    text = _TEXTS.get(error.name, str(error))
    placed = errors.reworded(type(error), error, _place(at) + text)
    placed.partition = at
    return placed


def _answer(command: ffi.CData) -> tuple[list[TopicPartition], TopicPartition | None]:
    found = fetch(lambda out, size: lib.ka_consumer_answer(command, out, size))
    assert not isinstance(found, int)  # an answer has no status
    return found


def _command_error(command: ffi.CData, error: ffi.CData) -> errors.ConsumerError:
    failure = errors.from_native(errors.ConsumerError, error)
    _, at = _answer(command)
    if at is None and failure.name in _TEXTS:
        return errors.reworded(errors.ConsumerError, failure, _TEXTS[failure.name])
    return _placed(failure, at)


async def settle(waits: Waits, command: ffi.CData, timeout: float | None, deadline: Deadline | None = None) -> None:
    """Wait for the answer to a command, which goes on without a listener when the time is over.

    Parameters
    ----------
    waits : Waits
        How to wait.
    command : ka_command *
        Owned by the caller.
    timeout : float or None
        Seconds; None waits without limit.
    deadline : Deadline, optional
        Where that time began before.

    Raises
    ------
    ConsumerError
        It failed, or the time is over.
    ClosedError, ForkedError
        The consumer is stopped, or belongs to the parent process.
    """
    error = ffi.new("ka_error *")
    status = await await_answer(waits, command, deadline or timeout, error)
    if status == lib.KA_TIMEOUT:
        raise errors.ConsumerError(
            f"no answer within {timeout:g} s: Kafka is not there or slow, or the group rebalances",
            code=-185,
            name="_TIMED_OUT",
            retriable=True,
        )
    if status == lib.KA_FAILED:
        raise _command_error(command, error)
    if status != lib.KA_OK:
        raise state_error(status)


async def result(
    waits: Waits, command: ffi.CData, timeout: float | None, deadline: Deadline | None = None
) -> list[TopicPartition]:
    """Wait for the partitions that answer a command; see `settle`.

    Parameters
    ----------
    waits : Waits
        How to wait.
    command : ka_command *
        Is released here.
    timeout : float or None
        Seconds; None waits without limit.
    deadline : Deadline, optional
        Where that time began before.

    Returns
    -------
    list of TopicPartition
    """
    command = owned(command)
    await settle(waits, command, timeout, deadline)
    return _answer(command)[0]
