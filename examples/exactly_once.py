"""Reads orders, prices them, writes the results: each exactly once, whatever dies in between.

    python examples/exactly_once.py localhost:9092

A transaction holds the results of up to 100 orders together with the progress of reading: readers with
isolation.level=read_committed see both or neither. Ctrl-C takes back the transaction in hand, unless its commit
has begun.
"""

import sys

from kafka_async import Consumer, Producer, TransactionError

BATCH = 100


def price_orders(consumer: Consumer, producer: Producer) -> int:
    """One transaction; returns how many orders it holds."""
    message = consumer.poll_message(timeout=1.0)
    if message is None:
        return 0
    count = 0
    with producer.transaction():
        while message is not None:
            producer.send(b"priced " + (message.value or b""), key=message.key)
            count += 1
            message = consumer.poll_message(timeout=0.0) if count < BATCH else None
        producer.send_offsets_to_transaction(consumer)
    return count


def main(servers: str) -> None:
    settings: dict[str, str | bool] = {
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
    }
    total = 0
    try:
        with (
            Producer(servers, "priced", config={"transactional.id": "pricer-1"}) as producer,
            Consumer(servers, "orders", group_id="pricer", config=settings) as consumer,
        ):
            producer.init_transactions()
            while True:
                total += price_orders(consumer, producer)
    except KeyboardInterrupt:
        print(f"{total} orders priced")
    except TransactionError as error:
        # What was not committed is read again by the next start: that is the point of it.
        print(f"start again: {error}", file=sys.stderr)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "localhost:9092")
