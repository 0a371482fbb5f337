"""Every error that kafka_async raises.

::

    KafkaError(Exception)           .code .name .retriable .fatal
    ├── ConfigError(ValueError)     .property
    ├── QueueFull(BufferError)      .accepted .errors
    ├── MessageTooLarge(ValueError) .accepted .errors
    ├── DeliveryError               .report .failed
    ├── FlushTimeout(TimeoutError)  .outstanding .failed
    ├── ClosedError                 .accepted
    ├── ForkedError
    ├── TransactionError            .requires_abort .accepted
    └── ConsumerError
        └── PartitionEnd            .partition

Arguments of a wrong type or out of range raise :class:`TypeError` and :class:`ValueError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from kafka_async._native import ffi

if TYPE_CHECKING:
    from kafka_async.message import DeliveryReport, TopicPartition

E = TypeVar("E", bound="KafkaError")


class KafkaError(Exception):
    """Something that Kafka or librdkafka reported, or that this library refuses.

    Parameters
    ----------
    message : str
        What happened and, where it is known, what to do.
    code : int, default 0
        librdkafka's error code: positive ones are the broker's, negative ones local, 0 is none.
    name : str, default ""
        The code's name, such as ``"UNKNOWN_TOPIC_OR_PART"`` or ``"_MSG_TIMED_OUT"``.
    retriable : bool, default False
        The same call may succeed later.
    fatal : bool, default False
        The object that raised it is of no further use: make a new one.
    """

    def __init__(
        self, message: str = "", *, code: int = 0, name: str = "", retriable: bool = False, fatal: bool = False
    ) -> None:
        super().__init__(message)
        self.code = code
        self.name = name
        self.retriable = retriable
        self.fatal = fatal


class ConfigError(KafkaError, ValueError):
    """A configuration property is unknown, invalid, or set by an argument instead.

    Attributes
    ----------
    property : str
        The property's name.
    """

    property: str = ""


class QueueFull(KafkaError, BufferError):
    """A bound of the producer's queue is reached; the message was not queued.

    Attributes
    ----------
    accepted : int
        How many messages of the call were accepted: 0 for ``send``.
    errors : list of (int, KafkaError)
        From ``send_many``: index and error of each that was not.
    """

    accepted: int = 0
    errors: list[tuple[int, KafkaError]] = []  # noqa: RUF012 - replaced, never changed


class MessageTooLarge(KafkaError, ValueError):
    """A message can never be accepted: it exceeds ``message.max.bytes`` or ``queue_bytes``.

    Attributes
    ----------
    accepted : int
        How many messages of the call were accepted: 0 for ``send``.
    errors : list of (int, KafkaError)
        From ``send_many``: index and error of each that was not.
    """

    accepted: int = 0
    errors: list[tuple[int, KafkaError]] = []  # noqa: RUF012 - replaced, never changed


class DeliveryError(KafkaError):
    """Messages failed that nobody had been told about.

    ``retriable`` speaks of the message: it may succeed when it is sent again (and be there twice, if it
    had reached the broker before it timed out).

    Attributes
    ----------
    failed : int
        How many.
    report : DeliveryReport or None
        The first of them, with its payload and error.
    """

    failed: int = 0
    report: DeliveryReport | None = None


class FlushTimeout(KafkaError, TimeoutError):
    """Messages have no outcome yet when the time is over.

    Attributes
    ----------
    outstanding : int
        After ``flush``: how many are still queued, or wait for their callback. After ``stop``: how many were purged, or
        wait for their callback.
    failed : int
        How many failed that nobody has been told about yet.
    """

    outstanding: int = 0
    failed: int = 0


class ClosedError(KafkaError):
    """The producer or consumer is stopped.

    Attributes
    ----------
    accepted : int
        From ``send_many`` that a ``stop`` met: how many messages were accepted.
    """

    accepted: int = 0


class ForkedError(KafkaError):
    """The object was made before a fork and belongs to the parent process: make a new one."""


class TransactionError(KafkaError):
    """A transaction can't go on as asked; the flags tell how it can.

    ``retriable``: call the same method again, which resumes it. ``requires_abort``: call
    ``abort_transaction``, then begin anew. ``fatal``: make a new producer (another one with the same
    ``transactional.id`` has taken over, or the broker refuses it). None of these: the call came at
    the wrong moment, as its text tells.

    Attributes
    ----------
    requires_abort : bool
    accepted : int
        From ``send_many`` that met the end of the transaction: how many messages were accepted.
    """

    requires_abort: bool = False
    accepted: int = 0


class ConsumerError(KafkaError):
    """The consumer met something that it can't survive by itself.

    Attributes
    ----------
    partition : TopicPartition or None
        The partition it is about.
    """

    partition: TopicPartition | None = None


class PartitionEnd(ConsumerError):
    """All messages of a partition were handed out (only with ``enable.partition.eof``)."""


def from_native(cls: type[E], native: ffi.CData) -> E:
    """Make an error of what the native core reported.

    Parameters
    ----------
    cls : type
        The class to raise.
    native : ka_error or ka_error *
        A filled structure.

    Returns
    -------
    KafkaError
        An instance of `cls`.
    """
    text = ffi.string(native.text).decode(errors="replace")
    name = ffi.string(native.name).decode()
    return cls(
        f"{text} ({name})" if name not in text else text,
        code=native.code,
        name=name,
        retriable=bool(native.retriable),
        fatal=bool(native.fatal),
    )


def reworded(cls: type[E], cause: KafkaError, text: str) -> E:
    """Make an error that says the same in other words, with code, name and flags of its cause.

    Parameters
    ----------
    cls : type
        The class to raise.
    cause : KafkaError
        What happened.
    text : str
        The new text.

    Returns
    -------
    KafkaError
        An instance of `cls`.
    """
    return cls(text, code=cause.code, name=cause.name, retriable=cause.retriable, fatal=cause.fatal)
