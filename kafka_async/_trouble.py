"""Why a cluster is not reached: what the core heard last of a connection."""

from __future__ import annotations

from collections.abc import Callable

from kafka_async import errors
from kafka_async._native import ffi, lib


def reason(find: Callable[[ffi.CData, ffi.CData], int], native: ffi.CData) -> str:
    """Tell what failed on the way to the cluster within the last minute.

    Parameters
    ----------
    find : callable
        ``ka_producer_trouble`` or ``ka_consumer_trouble``.
    native : ka_producer * or ka_consumer *
        Whose way.

    Returns
    -------
    str
        To follow a sentence; empty: nothing is known.
    """
    error = ffi.new("ka_error *")
    if find(native, error) != lib.KA_OK:
        return ""
    return f"; the last failure: {errors.from_native(errors.KafkaError, error)}"


def explained(error: errors.KafkaError, topic: str, native: ffi.CData) -> errors.KafkaError:
    """Tell of a message that ran out of time why it may have, and of one that was denied where.

    Parameters
    ----------
    error : KafkaError
        Of its outcome.
    topic : str
        Its topic.
    native : ka_producer *
        The producer.

    Returns
    -------
    KafkaError
    """
    if error.name == "TOPIC_AUTHORIZATION_FAILED":
        return errors.reworded(errors.KafkaError, error, f"topic {topic!r}: {error}")
    if error.name == "CLUSTER_AUTHORIZATION_FAILED":
        text = f"{error}: enable.idempotence needs IDEMPOTENT_WRITE on the cluster, or WRITE on any topic"
        denied = errors.reworded(errors.KafkaError, error, text)
        denied.fatal = True  # librdkafka gives idempotence up for good
        return denied
    if error.name != "_MSG_TIMED_OUT" or not (why := reason(lib.ka_producer_trouble, native)):
        return error
    return errors.reworded(errors.KafkaError, error, f"{error}{why}")
