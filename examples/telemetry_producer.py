"""Sends a reading of this machine's load every 10 ms, and never lets Kafka hold up the loop.

    python examples/telemetry_producer.py localhost:9092

Ctrl-C ends it: what was accepted is delivered first.
"""

import json
import os
import sys
import time

from kafka_async import FlushTimeout, Producer, QueueFull

PERIOD_S = 0.01


def main(servers: str) -> None:
    skipped = 0
    # 10,000 readings are 100 s without a broker; after that new ones are skipped, not waited for.
    producer = Producer(servers, "telemetry", queue_messages=10_000, config={"message.timeout.ms": 120_000})
    due = time.monotonic()
    try:
        while True:
            reading = json.dumps({"load": os.getloadavg()[0], "skipped": skipped})
            try:
                producer.send(reading, key="machine-1")
            except QueueFull:
                skipped += 1
            due += PERIOD_S  # an absolute schedule: being late once does not shift the rest
            time.sleep(max(0.0, due - time.monotonic()))
    except KeyboardInterrupt:
        pass
    try:
        producer.stop(timeout=5.0)
    except FlushTimeout as error:
        print(f"{error.outstanding} readings were not delivered", file=sys.stderr)
    metrics = producer.metrics()
    ack = metrics.ack_latency
    print(
        f"{metrics.delivered} readings delivered, acknowledged in {ack.p50 * 1e3:.2f} ms (p99 {ack.p99 * 1e3:.2f} ms)"
    )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "localhost:9092")
