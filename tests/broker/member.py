"""A member of a group, in a process of its own: reads until SIGTERM, or until it is killed.

Writes what happens to a file, a line each: time, "assigned", "revoked" or "lost" and partitions, or "handed",
partition, offset and value. The clock is the machine's, so that the lines of several members compare.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

from kafka_async import Consumer, TopicPartition


def main() -> None:
    servers, topic, config, path = json.loads(sys.argv[1])
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    ending = False

    def note(what: str) -> None:
        os.write(file, f"{time.monotonic_ns()} {what}\n".encode())  # at once: a kill must not lose it

    def callback(what: str) -> object:
        def told(_: Consumer, partitions: list[TopicPartition]) -> None:
            note(" ".join([what, *(str(item.partition) for item in partitions)]))

        return told

    def end(*_: object) -> None:
        nonlocal ending
        ending = True

    signal.signal(signal.SIGTERM, end)
    callbacks = {f"on_{name}": callback(told) for name, told in TOLD.items()}
    with Consumer(servers, topic, group_id=topic, config=config, **callbacks) as consumer:  # type: ignore[arg-type]
        while not ending:
            if (message := consumer.poll_message(0.1)) is not None:
                note(f"handed {message.partition} {message.offset} {(message.value or b'').decode()}")
    note("ended")


TOLD = {"assign": "assigned", "revoke": "revoked", "lost": "lost"}

if __name__ == "__main__":
    main()
