"""Columns that describe messages in native memory, and messages made of them."""

from __future__ import annotations

from kafka_async._fast import Rows, cut, name_fields
from kafka_async._native import ffi, lib
from kafka_async.message import Message

# In the order of the core, where csrc/ka_rows.c has them too.
TOPIC, PARTITION, OFFSET, TIMESTAMP_MS, VALUE, KEY = 0, 1, 2, 3, 5, 7

_TIMESTAMP_TYPES = ("none", "create", "append")
name_fields(Message, _TIMESTAMP_TYPES)


class Columns:
    """Cells of equally long columns, one after the other, and the payload that they cut up.

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

    def parts(self, column: int, count: int, payload: ffi.buffer) -> list[bytes | None]:
        """Cut parts out of the payload.

        Parameters
        ----------
        column : int
            Of their beginnings; their ends are in the next.
        count : int
        payload : ffi.buffer

        Returns
        -------
        list of bytes or None
            None: absent.
        """
        return cut(self.view(column, count), self.view(column + 1, count), payload)

    def messages(self, start: int, count: int, payload: ffi.buffer, topic_names: list[str]) -> Rows:
        """Make messages, each when it is asked for.

        Parameters
        ----------
        start, count : int
        payload : ffi.buffer
        topic_names : list of str
            By number.

        Returns
        -------
        iterator of Message
        """
        return Rows(self._cells, self._stride, start, count, payload, topic_names)


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
