"""Partitions on their way into the native core and back."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable

from kafka_async._native import ffi, lib
from kafka_async.message import TopicPartition, check_partition, native_offset

_names: weakref.WeakKeyDictionary[ffi.CData, list[ffi.CData]] = weakref.WeakKeyDictionary()  # of arrays, kept with them


def check_partitions(items: Iterable[TopicPartition]) -> list[TopicPartition]:
    """Refuse what names no partitions, or names one twice.

    Parameters
    ----------
    items : iterable of TopicPartition

    Returns
    -------
    list of TopicPartition

    Raises
    ------
    TypeError, ValueError
        An entry is no TopicPartition, a part of it is out of range, or it is there twice.
    """
    if isinstance(items, (str, bytes, TopicPartition)) or not isinstance(items, Iterable):
        raise TypeError(f"partitions must be an iterable of TopicPartition, not {type(items).__name__}")
    checked = [check_partition(item) for item in items]
    seen = set()
    for item in checked:
        if item[:2] in seen:
            raise ValueError(f"partition {item.partition} of topic {item.topic!r} is there twice")
        seen.add(item[:2])
    return checked


def to_native(items: list[TopicPartition]) -> ffi.CData:
    """Make an array of partitions.

    Parameters
    ----------
    items : list of TopicPartition

    Returns
    -------
    array of ka_partition
        Never empty; the topics' names live as long as it.
    """
    names = [ffi.new("char[]", item.topic.encode()) for item in items]
    array = ffi.new("ka_partition[]", len(items) or 1)
    for native, name, item in zip(array, names, items, strict=False):  # the array is never empty
        native.topic, native.partition, native.offset = name, item.partition, native_offset(item.offset)
    _names[array] = names
    return array


def from_native(native: ffi.CData) -> TopicPartition:
    """Read one partition.

    Parameters
    ----------
    native : ka_partition

    Returns
    -------
    TopicPartition
        The offset is None where the core has none.
    """
    offset = native.offset
    return TopicPartition(ffi.string(native.topic).decode(), native.partition, offset if offset >= 0 else None)


def fetch(call: Callable[[ffi.CData, int], int]) -> tuple[list[TopicPartition], TopicPartition | None] | int:
    """Read the partitions that the core has.

    Parameters
    ----------
    call : callable
        Fills an array of a given size, and returns how many there are, or a status.

    Returns
    -------
    tuple or int
        The partitions, and the first of them that met an error, if any did; or the status.
    """
    size = 0
    while (count := call(array := ffi.new("ka_partition[]", size or 1), size)) > size:
        size = count
    if count < 0:
        return count
    partitions = [from_native(item) for item in array[0:count]]
    failed = (partition for partition, item in zip(partitions, array, strict=False) if item.error != lib.KA_OK)
    return partitions, next(failed, None)
