"""Messages that were handed out together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from kafka_async import _columns
from kafka_async._columns import Columns
from kafka_async._native import ffi, lib
from kafka_async.message import Message


class MessageBatch(Sequence[Message]):
    """A sequence of messages, and their columns.

    Messages are built when they are asked for, anew each time; who reads columns only, builds none. Its
    memory is its own: it is valid after the consumer is gone, and its columns are after the batch is.

    Made by `Consumer.poll_batch`.

    Attributes
    ----------
    offsets, partitions, timestamps_ms : memoryview of int64
        One number a message, read-only. ``numpy.asarray(batch.offsets)`` does not copy.
    """

    __slots__ = ("_columns", "_count", "_payload", "_topics", "offsets", "partitions", "timestamps_ms")

    def __init__(self, native: ffi.CData | None = None, topics: list[str] | None = None) -> None:
        self._topics = topics or []
        self._count = count = native.count if native is not None else 0
        # Keeps the native memory; places of payloads count from its begin.
        self._payload = ffi.buffer(native, native.size) if native is not None else ffi.buffer(ffi.new("char[1]"), 0)
        cells = memoryview(self._payload).cast("B").toreadonly()
        begin = ffi.sizeof("ka_messages") if count else 0
        self._columns = Columns(cells[begin : begin + lib.KA_COLUMNS * count * 8].cast("q"), count)
        self.offsets = self._columns.view(_columns.OFFSET, count)
        self.partitions = self._columns.view(_columns.PARTITION, count)
        self.timestamps_ms = self._columns.view(_columns.TIMESTAMP_MS, count)

    def values(self) -> list[bytes | None]:
        """Cut out all values.

        Returns
        -------
        list of bytes or None
            None for a tombstone.
        """
        return self._columns.parts(_columns.VALUE, self._count, self._payload)

    def keys(self) -> list[bytes | None]:
        """Cut out all keys.

        Returns
        -------
        list of bytes or None
        """
        return self._columns.parts(_columns.KEY, self._count, self._payload)

    def topics(self) -> list[str]:
        """Name the topic of each message.

        Returns
        -------
        list of str
        """
        return [self._topics[number] for number in self._columns.view(_columns.TOPIC, self._count)]

    def __len__(self) -> int:
        """Count the messages."""
        return self._count

    def __iter__(self) -> Iterator[Message]:
        """Build one message after the other."""
        return self._columns.messages(0, self._count, self._payload, self._topics)

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> list[Message]: ...
    def __getitem__(self, index: int | slice) -> Message | list[Message]:
        """Build one message, or a list of some."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        at = range(self._count)[index]  # IndexError, as of any sequence
        return next(self._columns.messages(at, 1, self._payload, self._topics))

    def __repr__(self) -> str:
        """Tell how many messages there are."""
        return f"<MessageBatch of {self._count} messages>"
