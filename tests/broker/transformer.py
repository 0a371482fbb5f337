"""Reads numbers from one topic and writes their doubles to another, in transactions, until the last one is written.

A process of its own, to be killed and started again. Prints a line for each transaction once it is committed: how many
messages it has handled.
"""

from __future__ import annotations

import json
import sys
import time

from kafka_async import Consumer, Producer

LIMIT_S = 60
A_TRANSACTION = 150


def main() -> None:
    servers, source, target, count = json.loads(sys.argv[1])
    config = {
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        # Started again it is the same member: the group need not wait for the end of the one that was killed.
        "group.instance.id": "transformer",
        "isolation.level": "read_committed",
    }
    transactional = {"transactional.id": f"{source}-transformer"}
    deadline = time.monotonic() + LIMIT_S
    handled = 0
    with (
        Producer(servers, target, config=transactional) as producer,
        Consumer(servers, source, group_id=f"{source}-group", config=config) as consumer,
    ):
        producer.init_transactions()
        while not finished(consumer, source, count):
            assert time.monotonic() < deadline
            with producer.transaction():
                for _ in range(A_TRANSACTION):
                    message = consumer.poll_message(0.2)
                    if message is None:
                        break
                    producer.send(b"%d" % (2 * int(message.value or b"")), partition=message.partition)
                    handled += 1
                producer.send_offsets_to_transaction(consumer)
            if handled:
                print(handled, flush=True)
    print("done", flush=True)


def finished(consumer: Consumer, source: str, count: int) -> bool:
    """Whether all was read, by this process or those before it."""
    positions = [item.offset for item in consumer.assignment() if item.topic == source]
    return sum(offset for offset in positions if isinstance(offset, int)) == count


if __name__ == "__main__":
    main()
