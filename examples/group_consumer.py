"""Adds up what the members of a group read; start it several times, and they share the partitions.

    python examples/group_consumer.py localhost:9092 telemetry

A message counts as processed when the next one is asked for: if this program ends by an error or
Ctrl-C, the message in hand is read again by whoever takes over.
"""

import sys
from collections import Counter

from kafka_async import Consumer, ConsumerError


def main(servers: str, topic: str) -> None:
    seen: Counter[int] = Counter()
    config = {"auto.offset.reset": "earliest"}  # for a group that has committed nothing yet
    try:
        with Consumer(servers, topic, group_id="counters", config=config) as consumer:
            for message in consumer:
                seen[message.partition] += 1
                if seen.total() % 1000 == 0:
                    age = consumer.metrics().age
                    print(f"{seen.total()} messages of partitions {sorted(seen)}, p50 age {age.p50 * 1e3:.1f} ms")
    except ConsumerError as error:
        print(f"can't go on: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        pass  # leaving the block commits what was processed and leaves the group
    print(dict(seen))


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["localhost:9092", "telemetry"]))
