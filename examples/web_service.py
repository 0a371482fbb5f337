"""A web service on Kafka: takes events over HTTP, and shows the last ones that it has read back.

    python examples/web_service.py                      # needs fastapi and uvicorn
    curl 'localhost:8000/events?key=EURUSD' --json '{"bid": 1.0842}'
    curl localhost:8000/events

The embedded cluster stands in for Kafka unless KAFKA_BOOTSTRAP_SERVERS names one. An event that was answered with 201
is in the log. Ctrl-C or SIGTERM ends the service once every request that is under way has its answer.
"""

import asyncio
import logging
import os
from collections import deque
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse

from kafka_async import KafkaError, MessageTooLarge, QueueFull, TopicPartition, aio
from kafka_async.testing import MockCluster

TOPIC, SHOWN = "events", 100
SERVERS = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
QUEUE_MESSAGES = int(os.environ.get("QUEUE_MESSAGES", "10000"))  # so many requests may wait for Kafka
PORT = int(os.environ.get("PORT", "8000"))
CONFIG = {"message.timeout.ms": 5_000}  # who posts has given up long before librdkafka's five minutes


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
    with ExitStack() as stack:
        servers = SERVERS or stack.enter_context(MockCluster(topics={TOPIC: 2})).bootstrap_servers
        async with (
            aio.Producer(servers, TOPIC, queue_messages=QUEUE_MESSAGES, config=CONFIG) as producer,
            aio.Consumer(servers) as consumer,
        ):
            # Without a group every instance shows all events, those of before its start, too.
            partitions = range(await producer.partitions(TOPIC))
            await consumer.assign([TopicPartition(TOPIC, number, ("tail", SHOWN)) for number in partitions])
            latest: deque[dict[str, Any]] = deque(maxlen=SHOWN)
            reading = asyncio.create_task(read(consumer, latest))
            yield {"producer": producer, "consumer": consumer, "latest": latest, "reading": reading}
            await consumer.stop()  # which ends the reading; the end of the block does the same for the producer
            await reading


async def read(consumer: aio.Consumer, latest: deque[dict[str, Any]]) -> None:
    try:
        async for message in consumer:
            key, value = (str(data or b"", "utf-8", "replace") for data in (message.key, message.value))
            latest.append({"partition": message.partition, "offset": message.offset, "key": key, "value": value})
    except KafkaError:
        logging.getLogger("uvicorn.error").exception("no more events are read")  # and /health says 503


app = FastAPI(lifespan=lifespan)


@app.post("/events", status_code=201)
async def post_event(request: Request, key: str | None = None) -> dict[str, Any]:
    value = await request.body()
    if not value:
        raise HTTPException(422, "there is no event in the body")
    done = await request.state.producer.send(value, key=key)
    return {"topic": done.topic, "partition": done.partition, "offset": done.offset}


@app.exception_handler(KafkaError)
async def not_delivered(_: Request, error: KafkaError) -> Response:
    headers = None
    if isinstance(error, QueueFull):
        status, headers = 503, {"Retry-After": "1"}
    elif isinstance(error, MessageTooLarge):
        status = 413
    elif error.name == "_MSG_TIMED_OUT":
        status = 504  # it may be in the log all the same: who posts it again may find it there twice
    else:
        status = 502
    return JSONResponse({"detail": str(error)}, status, headers)


@app.get("/events")
async def get_events(request: Request) -> list[dict[str, Any]]:
    return list(request.state.latest)


@app.get("/health")
async def get_health(request: Request, response: Response) -> dict[str, Any]:
    if request.state.reading.done():
        response.status_code = 503
    return {"producer": request.state.producer.metrics(), "consumer": request.state.consumer.metrics()}


if __name__ == "__main__":
    uvicorn.run(app, port=PORT)  # or, with uvicorn's own options: uvicorn --app-dir examples web_service:app
