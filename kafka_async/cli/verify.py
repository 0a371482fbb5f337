"""The demo's check: every message sent comes back unchanged, once, and in its partition's order.

A message begins with a stamp, the rest is filler. Messages are numbered as they are sent, so in each
partition the numbers must rise, and in the end every number must have come once.
"""

from __future__ import annotations

import struct

from kafka_async.message import Message

#: Run, number of the message, when it was sent (time.monotonic_ns).
STAMP = struct.Struct(">8sqq")

#: Numbers below 0: the message is a mark, which the demo sends before and after those that count.
OPENING, CLOSING = -1, -2


def filler(size: int) -> bytes:
    """Make what follows the stamp.

    Parameters
    ----------
    size : int
        Bytes of the whole message.

    Returns
    -------
    bytes
    """
    pattern = bytes(range(256))
    length = size - STAMP.size
    return (pattern * (length // 256 + 1))[:length]


class Verifier:
    """Compares what arrives with what must.

    Parameters
    ----------
    run : bytes
        Eight bytes that tell this run from others.
    total : int
        How many messages the run has.
    rest : bytes
        The filler of each message.

    Attributes
    ----------
    received, distinct : int
        Messages of this run: all, and without those that came again.
    duplicated, out_of_order, altered : int
        Messages that came again; that came after a later one of their partition; with other
        content than sent.
    marks : dict of int to set of int
        For `OPENING` and `CLOSING`, the partitions whose mark came.
    """

    def __init__(self, run: bytes, total: int, rest: bytes) -> None:
        self.received = self.distinct = self.duplicated = self.out_of_order = self.altered = 0
        self.marks: dict[int, set[int]] = {OPENING: set(), CLOSING: set()}
        self._run = run
        self._rest = rest
        self._seen = bytearray(total)
        self._last: dict[int, int] = {}  # by partition

    def check(self, message: Message) -> int | None:
        """Judge a message.

        Parameters
        ----------
        message : Message
            Of the demo's topic.

        Returns
        -------
        int or None
            When it was sent, in ns. None: it does not count, being a mark or not of this run.
        """
        value = message.value
        if value is None or len(value) < STAMP.size:
            return None
        run, number, sent_ns = STAMP.unpack_from(value)
        if run != self._run:
            return None
        if number < 0:
            self.marks.setdefault(number, set()).add(message.partition)
            return None
        self.received += 1
        if number >= len(self._seen):
            self.altered += 1
        else:
            self.altered += value[STAMP.size :] != self._rest
            self._place(number, message.partition)
        return int(sent_ns)

    def _place(self, number: int, partition: int) -> None:
        if self._seen[number]:
            self.duplicated += 1
            return
        self._seen[number] = 1
        self.distinct += 1
        if number < self._last.get(partition, -1):
            self.out_of_order += 1
        else:
            self._last[partition] = number
