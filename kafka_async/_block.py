"""A native block of messages, read as memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat

from kafka_async._native import ffi, lib
from kafka_async.message import Message

_TIMESTAMP_TYPES = ("none", "create", "append")
_new_message: Callable[..., Message] = tuple.__new__


class BlockReader:
    """Makes messages of a consumer's block.

    Columns are copied as lists of integers, which is one call each; everything after that is a chain
    of C-level iterators that cuts a payload and builds a message only when it is asked for.

    Parameters
    ----------
    consumer : ka_consumer *
        Kept alive by the caller.

    Attributes
    ----------
    shared : memoryview of int64
        The two words that both sides see: how many messages are handed out, and the generation.
    """

    def __init__(self, consumer: ffi.CData) -> None:
        self._consumer = consumer
        self._block = block = lib.ka_consumer_block(consumer)
        self.shared = memoryview(ffi.buffer(block, 16)).cast("B").cast("q")
        self._topic_names: list[str] = []
        (
            self._topic,
            self._partition,
            self._offset,
            self._timestamp_ms,
            self._timestamp_type,
            self._value_at,
            self._value_end,
            self._key_at,
            self._key_end,
            self._headers_at,
            self._headers_end,
        ) = (
            memoryview(ffi.buffer(column)).cast("B").cast("q")
            for column in (
                block.topic,
                block.partition,
                block.offset,
                block.timestamp_ms,
                block.timestamp_type,
                block.value_at,
                block.value_end,
                block.key_at,
                block.key_end,
                block.headers_at,
                block.headers_end,
            )
        )

    def messages(self, count: int) -> Iterator[Message]:
        """Make the block's messages, each when it is asked for.

        Parameters
        ----------
        count : int
            Rows of the block.

        Returns
        -------
        iterator of Message
            Valid until the consumer's next take: payloads are cut out of native memory.
        """
        flags = self._block.flags
        payload = ffi.buffer(self._block.base, self._block.size)
        none: Iterable[bytes | None] = repeat(None)
        value_at, value_end = self._value_at[:count].tolist(), self._value_end[:count].tolist()
        values = (
            _optional(payload, value_at, value_end)
            if flags & lib.KA_HAS_NULLS
            else map(payload.__getitem__, map(slice, value_at, value_end))
        )
        keys = none
        if flags & lib.KA_HAS_KEYS:
            keys = _optional(payload, self._key_at[:count].tolist(), self._key_end[:count].tolist())
        headers = none
        if flags & lib.KA_HAS_HEADERS:
            headers = _optional(payload, self._headers_at[:count].tolist(), self._headers_end[:count].tolist())
        topics = self._topic[:count].tolist()
        self._learn_names(max(topics))
        fields = zip(
            values,
            keys,
            _look_up(self._topic_names, topics),
            self._partition[:count].tolist(),
            self._offset[:count].tolist(),
            self._timestamp_ms[:count].tolist(),
            _look_up(_TIMESTAMP_TYPES, self._timestamp_type[:count].tolist()),
            headers,
            strict=False,  # where a column is missing, None repeats without end
        )
        return map(_new_message, repeat(Message), fields)

    def _learn_names(self, number: int) -> None:
        names = self._topic_names
        while number >= len(names):
            names.append(ffi.string(lib.ka_consumer_topic_name(self._consumer, len(names))).decode())


def _look_up(table: Sequence[str], numbers: list[int]) -> Iterable[str]:
    """Name the numbers of a column; most blocks hold one number only, which is then looked up once."""
    first = numbers[0]
    if numbers.count(first) == len(numbers):
        return repeat(table[first])
    return map(table.__getitem__, numbers)


def _optional(payload: ffi.buffer, starts: list[int], ends: list[int]) -> Iterator[bytes | None]:
    return (payload[start:end] if start >= 0 else None for start, end in zip(starts, ends, strict=True))
