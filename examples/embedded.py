"""Needs no Kafka: sends to the embedded cluster, reads everything back, and shows what became of it.

python examples/embedded.py
"""

from kafka_async import Consumer, Producer
from kafka_async.testing import MockCluster

COUNT = 10_000


def main() -> None:
    with MockCluster(topics={"events": 2}) as cluster:
        with Producer(cluster.bootstrap_servers, "events") as producer:
            for number in range(COUNT):
                producer.send(b"event %d" % number, key=b"%d" % (number % 7), headers={"source": "example"})
            producer.flush()
            metrics = producer.metrics()
            print(f"accepted {metrics.accepted}, delivered {metrics.delivered}, failed {metrics.failed}")
            send = metrics.send_latency
            print(f"time inside send: p50 {send.p50 * 1e6:.2f} us, p99 {send.p99 * 1e6:.2f} us")

        # No group: every partition from its beginning, nothing committed.
        with Consumer(cluster.bootstrap_servers, "events", config={"auto.offset.reset": "earliest"}) as consumer:
            last: dict[bytes | None, int] = {}
            for _ in range(COUNT):
                message = consumer.poll_message(timeout=5.0)
                assert message is not None
                assert message.value is not None
                number = int(message.value.split()[1])
                assert last.get(message.key, -1) < number, "order is kept for each key"
                last[message.key] = number
            print(f"received {consumer.metrics().handed_out}, the last one: {message}")


if __name__ == "__main__":
    main()
