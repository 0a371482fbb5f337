"""Columns that describe messages in native memory, and messages made of them.

Integers are copied as lists, which is one call a column; everything after that is a chain of C-level
iterators that cuts a payload and builds a message only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat

from kafka_async._native import ffi, lib
from kafka_async.message import Message

_TIMESTAMP_TYPES = ("none", "create", "append")
_new_message: Callable[..., Message] = tuple.__new__

# In the order of the core.
TOPIC, PARTITION, OFFSET, TIMESTAMP_MS, TIMESTAMP_TYPE, VALUE, KEY, HEADERS = 0, 1, 2, 3, 4, 5, 7, 9


class Columns:
    """Cells of equally long columns, one after the other.

    Parameters
    ----------
    cells : memoryview of int64
    stride : int
        From one column to the next.
    """

    __slots__ = ("_cells", "_stride")

    def __init__(self, cells: memoryview, stride: int) -> None:
        self._cells = cells
        self._stride = stride

    def view(self, column: int, count: int) -> memoryview:
        """Look at a column.

        Parameters
        ----------
        column, count : int

        Returns
        -------
        memoryview of int64
        """
        start = column * self._stride
        return self._cells[start : start + count]

    def row(self, index: int) -> memoryview:
        """Look at one cell of each column.

        Parameters
        ----------
        index : int

        Returns
        -------
        memoryview of int64
        """
        return self._cells[index :: self._stride]

    def parts(self, column: int, count: int, payload: ffi.buffer, optional: bool) -> Iterator[bytes | None]:
        """Cut parts out of the payload, each when it is asked for.

        Parameters
        ----------
        column : int
            Of their beginnings; their ends are in the next.
        count : int
        payload : ffi.buffer
        optional : bool
            Some may be absent.

        Returns
        -------
        iterator of bytes or None
        """
        starts, ends = self.view(column, count).tolist(), self.view(column + 1, count).tolist()
        if not optional:
            return map(payload.__getitem__, map(slice, starts, ends))
        return (payload[start:end] if start >= 0 else None for start, end in zip(starts, ends, strict=True))


def messages(
    columns: Columns, count: int, payload: ffi.buffer, flags: int, topic_names: Sequence[str]
) -> Iterator[Message]:
    """Make messages, each when it is asked for.

    Parameters
    ----------
    columns : Columns
    count : int
    payload : ffi.buffer
    flags : int
        KA_HAS_*.
    topic_names : sequence of str
        By number.

    Returns
    -------
    iterator of Message
    """
    none: Iterable[bytes | None] = repeat(None)
    fields = zip(
        columns.parts(VALUE, count, payload, bool(flags & lib.KA_HAS_NULLS)),
        columns.parts(KEY, count, payload, True) if flags & lib.KA_HAS_KEYS else none,
        look_up(topic_names, columns.view(TOPIC, count).tolist()),
        columns.view(PARTITION, count).tolist(),
        columns.view(OFFSET, count).tolist(),
        columns.view(TIMESTAMP_MS, count).tolist(),
        look_up(_TIMESTAMP_TYPES, columns.view(TIMESTAMP_TYPE, count).tolist()),
        columns.parts(HEADERS, count, payload, True) if flags & lib.KA_HAS_HEADERS else none,
        strict=False,  # where a column is missing, None repeats without end
    )
    return map(_new_message, repeat(Message), fields)


def look_up(table: Sequence[str], numbers: list[int]) -> Iterable[str]:
    """Name the numbers of a column; most hold one number only, which is then looked up once.

    Parameters
    ----------
    table : sequence of str
    numbers : list of int

    Returns
    -------
    iterable of str
        Maybe without end.
    """
    first = numbers[0]
    if numbers.count(first) == len(numbers):
        return repeat(table[first])
    return map(table.__getitem__, numbers)


def learn_names(names: list[str], number: int, consumer: ffi.CData) -> None:
    """Ask for names of topics, up to a number.

    Parameters
    ----------
    names : list of str
        Is extended.
    number : int
    consumer : ka_consumer *
    """
    while number >= len(names):
        names.append(ffi.string(lib.ka_consumer_topic_name(consumer, len(names))).decode())
