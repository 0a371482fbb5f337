"""What goes through the library: messages, reports, partitions."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, Union

from kafka_async._native import lib

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from kafka_async.errors import KafkaError

    Payload: TypeAlias = Buffer | str | None
    HeaderValue: TypeAlias = bytes | str | None
    Headers: TypeAlias = Sequence[tuple[str, HeaderValue]] | Mapping[str, HeaderValue]

Offset: TypeAlias = Union[int, str, "tuple[str, int]", None]

_SIZES = struct.Struct("=II")
_NONE = 0xFFFFFFFF
_TOPIC_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_TAIL_BASE = -2000  # librdkafka's RD_KAFKA_OFFSET_TAIL(n) is this minus n
_NAMED_OFFSETS = {
    "beginning": lib.KA_OFFSET_BEGINNING,
    "end": lib.KA_OFFSET_END,
    "stored": lib.KA_OFFSET_STORED,
}


class TopicPartition(NamedTuple):
    """A partition, with an offset where the call takes or gives one.

    Attributes
    ----------
    topic : str
    partition : int
    offset : int, str, tuple or None
        An offset; ``"beginning"``, ``"end"``, ``"stored"`` (what the group committed),
        ``("tail", n)`` (n messages before the end) or ``("timestamp", ms)`` (the first message at or after that time);
        None: none.
    """

    topic: str
    partition: int
    offset: Offset = None


def check_topic(name: str) -> None:
    """Refuse a topic that Kafka would refuse.

    Parameters
    ----------
    name : str
        A topic's name.

    Raises
    ------
    TypeError, ValueError
        It is no str, or no legal name.
    """
    if not isinstance(name, str):
        raise TypeError(f"topic must be str, not {type(name).__name__}")
    if not _TOPIC_NAME.fullmatch(name) or name in (".", ".."):
        raise ValueError(f"topic {name!r:.80}: 1 to 249 of the characters a-z A-Z 0-9 . _ - are allowed")


def check_partition(item: TopicPartition) -> TopicPartition:
    """Refuse what names no partition.

    Parameters
    ----------
    item : TopicPartition
        Or a tuple like it.

    Returns
    -------
    TopicPartition

    Raises
    ------
    TypeError, ValueError
        A part is of a wrong type or out of range.
    """
    if not isinstance(item, tuple):
        raise TypeError(f"partitions must be TopicPartition, not {type(item).__name__}")
    item = TopicPartition(*item)
    if not isinstance(item.topic, str) or isinstance(item.partition, bool) or not isinstance(item.partition, int):
        raise TypeError(f"{item!r}: topic must be str and partition int")
    check_topic(item.topic)
    if not 0 <= item.partition < 2**31:
        raise ValueError(f"{item!r}: give a partition from 0 to 2**31 - 1")
    return item


def native_offset(offset: Offset) -> int:
    """Turn an offset of a TopicPartition into the core's number.

    Parameters
    ----------
    offset : int, str, tuple or None
        As in `TopicPartition`.

    Returns
    -------
    int
        An offset, or one of the negative numbers with a meaning.

    Raises
    ------
    TypeError
        It is none of these kinds.
    ValueError
        It is negative or an unknown name.
    """
    if offset is None:
        return lib.KA_OFFSET_NONE
    if isinstance(offset, str):
        if offset not in _NAMED_OFFSETS:
            raise ValueError(
                f"offset {offset!r}: use a number, 'beginning', 'end', 'stored', ('tail', n) or ('timestamp', ms)"
            )
        return _NAMED_OFFSETS[offset]
    if isinstance(offset, tuple):
        match offset:
            case ("tail", int(count)) if 0 <= count < 2**62:
                return _TAIL_BASE - count
            case ("timestamp", int(ms)) if 0 <= ms < 2**63:
                raise ValueError(f"offset {offset!r}: a time can't be used here, look it up by offsets_for_times()")
        raise ValueError(f"offset {offset!r}: use ('tail', n) with n from 0 to 2**62 - 1, or ('timestamp', ms)")
    if isinstance(offset, bool) or not isinstance(offset, int):
        raise TypeError(f"offset must be int, str, tuple or None, not {type(offset).__name__}")
    if not 0 <= offset < 2**63:
        raise ValueError(f"offset {offset}: must be from 0 to 2**63 - 1; names are 'beginning', 'end', 'stored'")
    return offset


class _MessageFields(NamedTuple):
    value: bytes | None
    key: bytes | None
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    timestamp_type: str
    packed_headers: bytes | None


class Message(_MessageFields):
    """One record as it came from Kafka.

    Attributes
    ----------
    value : bytes or None
        None for a tombstone.
    key : bytes or None
    topic : str
    partition : int
    offset : int
    timestamp_ms : int
        Milliseconds since the epoch, -1 when the record has none.
    timestamp_type : str
        ``"create"`` (set by the producer), ``"append"`` (set by the broker) or ``"none"``.
    headers : list of (str, bytes or None)
        In the record's order, duplicates kept.
    """

    __slots__ = ()

    @property
    def headers(self) -> list[tuple[str, bytes | None]]:
        """Decode the headers, anew at each access."""
        return unpack_headers(self.packed_headers)

    def __repr__(self) -> str:
        """Show every field, headers decoded."""
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in (*self._fields[:-1], "headers"))
        return f"Message({fields})"


class Record(NamedTuple):
    """One message of `Producer.send_many`; its topic is the call's.

    Attributes
    ----------
    value, key : bytes, str, buffer or None
    partition : int or None
        None: the partitioner's choice.
    timestamp_ms : int or None
        Milliseconds since the epoch, at least 1; None: the time of the call.
    headers : sequence of (str, bytes or str or None), mapping, or None
    """

    value: Payload
    key: Payload = None
    partition: int | None = None
    timestamp_ms: int | None = None
    headers: Headers | None = None


class RecordMetadata(NamedTuple):
    """Where a message was written.

    Attributes
    ----------
    topic : str
    partition : int
    offset : int or None
        None: the broker was not asked to tell (``acks=0``).
    timestamp_ms : int
        The record's timestamp: the producer's, or the broker's where the topic says
        ``message.timestamp.type=LogAppendTime``. -1 when it is not known.
    """

    topic: str
    partition: int
    offset: int | None
    timestamp_ms: int


class DeliveryReport(NamedTuple):
    """The outcome of one message.

    Attributes
    ----------
    topic : str
    partition : int or None
        None: it failed before it got one.
    offset : int or None
        None: it was not delivered, or the broker was not asked to tell (``acks=0``).
    key, value : bytes or None
    headers : list of (str, bytes or None)
    error : KafkaError or None
        None: delivered. ``_PURGE_QUEUE``, ``_PURGE_INFLIGHT``: purged (evicted by ``on_full="drop_old"``, by
        ``purge`` or by ``stop``); after the second it may have reached the broker all the same.
    latency_s : float
        From acceptance to outcome.
    """

    topic: str
    partition: int | None
    offset: int | None
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    error: KafkaError | None
    latency_s: float


def pack_headers(headers: Headers) -> bytes:
    """Bring headers into the form that the core takes.

    Parameters
    ----------
    headers : sequence of (str, bytes or str or None), or mapping
        Order and duplicates are kept; str becomes UTF-8.

    Returns
    -------
    bytes
        For each: lengths of name and value, name, value.

    Raises
    ------
    TypeError
        A name is not str, or a value is not bytes, str or None.
    """
    parts: list[bytes] = []
    if not isinstance(headers, Iterable):
        raise TypeError(f"headers must be (name, value) pairs or a mapping, not {type(headers).__name__}")
    for pair in headers.items() if isinstance(headers, Mapping) else headers:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"headers must be (name, value) pairs or a mapping, not {pair!r:.80}")
        name, value = pair
        if not isinstance(name, str):
            raise TypeError(f"a header's name must be str, not {type(name).__name__}")
        if "\0" in name:
            raise ValueError(f"a header's name can't hold a NUL: {name!r:.80}")
        encoded = name.encode()
        if isinstance(value, str):
            value = value.encode()
        if value is None:
            parts += (_SIZES.pack(len(encoded), _NONE), encoded)
        elif isinstance(value, (bytes, bytearray, memoryview)):
            data = bytes(value)
            parts += (_SIZES.pack(len(encoded), len(data)), encoded, data)
        else:
            raise TypeError(f"header {name!r}: the value must be bytes, str or None, not {type(value).__name__}")
    return b"".join(parts)


def unpack_headers(packed: bytes | None) -> list[tuple[str, bytes | None]]:
    """Undo `pack_headers`.

    Parameters
    ----------
    packed : bytes or None
        None: no headers.

    Returns
    -------
    list of (str, bytes or None)
    """
    headers: list[tuple[str, bytes | None]] = []
    at = 0
    while packed and at < len(packed):
        name_len, value_len = _SIZES.unpack_from(packed, at)
        at += _SIZES.size
        name = packed[at : at + name_len].decode(errors="surrogateescape")
        at += name_len
        if value_len == _NONE:
            headers.append((name, None))
        else:
            headers.append((name, packed[at : at + value_len]))
            at += value_len
    return headers
