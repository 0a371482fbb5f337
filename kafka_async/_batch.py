"""Many messages as columns, the form in which `send_many` hands them over."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kafka_async._native import ffi, lib
from kafka_async._payload import integer, size, view
from kafka_async.message import Record, pack_headers

if TYPE_CHECKING:
    from kafka_async.message import Payload

# Items of one native call, which keeps the GIL: about 5 ms.
_CALL = 65_536
_NONE = -1
# What a bad item raises, and as what it goes on with its index.
_NAMED: dict[type[Exception], type[Exception]] = {
    TypeError: TypeError,
    ValueError: ValueError,
    UnicodeEncodeError: ValueError,
}


# SystemError, where Python has no memory for a traceback and loses the exception.
SHORTAGE = (MemoryError, SystemError)


class Shortage(MemoryError):
    """There was no memory for the rest of a `send_many`.

    It is made before the first message is accepted, and tells what came after.
    """

    def __init__(self, native: ffi.CData) -> None:
        super().__init__("no memory for the rest of send_many")
        self._native = native

    @property
    def accepted(self) -> int:
        """How many messages were accepted."""
        return int(self._native.accepted)


class Batch:
    """Messages ready to cross.

    Parameters
    ----------
    items : sequence of payloads and records
        What to send.
    partition : callable or None
        Chooses a partition of a record that names none, from key and value.

    Raises
    ------
    TypeError, ValueError
        An item can't be sent; the text tells its index.

    Attributes
    ----------
    shortage : Shortage
        To raise instead of any MemoryError from now on.
    """

    def __init__(
        self,
        items: Sequence[Payload | Record],
        partition: Callable[[Payload, Payload], int] | None,
    ) -> None:
        items = tuple(items)  # as it is now: a list may change while Python code of others runs
        self.count = len(items)
        self._columns: dict[str, array[int]] = {}
        if partition is None and set(map(type, items)) == {bytes}:
            data = b"".join(items)  # type: ignore[arg-type]
            self._columns["value_len"] = array("q", map(len, items))  # type: ignore[arg-type]
        else:
            data = self._gather(items, partition)
        self._data = data
        self._native = ffi.new("ka_batch *")
        self._native.data = ffi.from_buffer(data)
        for name, column in self._columns.items():
            setattr(self._native, name, ffi.cast("int64_t *", column.buffer_info()[0]))
        self._status = self._native.status = ffi.new("int32_t[]", self.count or 1)
        self.shortage = Shortage(self._native)

    def _gather(
        self,
        items: Sequence[Payload | Record],
        choose: Callable[[Payload, Payload], int] | None,
    ) -> bytes:
        parts: list[bytes | memoryview] = []
        columns = {name: array("q") for name in ("value_len", "key_len", "headers_len", "partition", "timestamp_ms")}
        for index, item in enumerate(items):
            record = item if isinstance(item, Record) else Record(item)
            try:
                value, key = view("value", record.value), view("key", record.key)
                headers = pack_headers(record.headers) if record.headers else None
                partition = _optional("partition", record.partition, 2**31 - 1)
                timestamp_ms = _optional("timestamp_ms", record.timestamp_ms, 2**63 - 1, least=1)
                if choose is not None and partition == _NONE:
                    partition = choose(record.key, record.value)
            except (TypeError, ValueError) as error:
                kind = _NAMED.get(type(error))
                if kind is None:  # the partitioner's own
                    raise
                raise kind(f"item {index}: {error}") from None
            for name, part in (("value_len", value), ("key_len", key), ("headers_len", headers)):
                columns[name].append(_NONE if part is None else size(part))
                if part is not None:
                    parts.append(part)
            columns["partition"].append(partition)
            columns["timestamp_ms"].append(timestamp_ms)
        self._columns = columns
        return b"".join(parts)

    def send(self, native: ffi.CData, topic: int) -> int:
        """Hand over what has not been dealt with.

        Parameters
        ----------
        native : ka_producer *
            The producer.
        topic : int
            The topic's number.

        Returns
        -------
        int
            KA_OK: all of it was dealt with; else why `next_item` could not be.
        """
        status = lib.KA_OK
        while status == lib.KA_OK and self.next_item < self.count:
            self._native.count = min(self.count, self.next_item + _CALL)
            status = lib.ka_producer_send_batch(native, topic, self._native)
        return status

    @property
    def next_item(self) -> int:
        """The index of the first item that was not dealt with."""
        return int(self._native.next)

    def sizes(self, index: int) -> tuple[int, int, int]:
        """Tell an item's sizes.

        Parameters
        ----------
        index : int
            Which item.

        Returns
        -------
        tuple of int
            Bytes of value, key and headers.
        """
        columns = (self._columns.get(name) for name in ("value_len", "key_len", "headers_len"))
        value, key, headers = (max(0, column[index]) if column else 0 for column in columns)
        return value, key, headers

    @property
    def accepted(self) -> int:
        """How many items were accepted."""
        return int(self._native.accepted)

    def refused(self) -> list[tuple[int, int]]:
        """List the items that can never be accepted.

        Returns
        -------
        list of (int, int)
            Index and status.
        """
        if self.next_item == self.accepted + self._native.dropped:
            return []
        statuses = memoryview(ffi.buffer(self._status)).cast("i")[: self.next_item].tolist()
        return [(index, status) for index, status in enumerate(statuses) if status < 0]


def _optional(name: str, number: int | None, most: int, *, least: int = 0) -> int:
    return _NONE if number is None else integer(name, number, most, least=least)
