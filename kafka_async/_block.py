"""A native block of messages, read as memory."""

from __future__ import annotations

from collections.abc import Iterator

from kafka_async._columns import Columns, learn_names
from kafka_async._native import ffi, lib
from kafka_async.message import Message


class BlockReader:
    """Makes messages of a consumer's block.

    Parameters
    ----------
    consumer : ka_consumer *
        Kept alive by the caller.

    Attributes
    ----------
    shared : memoryview of int64
        The two words that both sides see: how many messages are handed out, and the generation.
    topics : list of str
        Names by the core's number, as far as they were met.
    """

    def __init__(self, consumer: ffi.CData) -> None:
        self._consumer = consumer
        self._block = block = lib.ka_consumer_block(consumer)
        self.shared = memoryview(ffi.buffer(block, 16)).cast("B").cast("q")
        self.topics: list[str] = []
        cells = memoryview(ffi.buffer(block.topic, lib.KA_COLUMNS * lib.KA_BLOCK * 8)).cast("B").cast("q")
        self._columns = Columns(cells, lib.KA_BLOCK)

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
        block = self._block
        learn_names(self.topics, block.top, self._consumer)
        return self._columns.messages(0, count, ffi.buffer(block.base, block.size), self.topics)
