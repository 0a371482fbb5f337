"""Producer and consumer for asyncio: what waits is awaited, and no thread of Python's is involved.

The same native queues and workers as those of `kafka_async.Producer` and `kafka_async.Consumer`; a file descriptor
tells the event loop when there is something to look at, once for a burst.
"""

from kafka_async.aio._consumer import Consumer
from kafka_async.aio._producer import Producer

__all__ = ["Consumer", "Producer"]
