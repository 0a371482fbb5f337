"""examples/web_service.py keeps what it promises over HTTP, and to its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest
from loops import run
from support import NOBODY, read, reader, send_all

from kafka_async.testing import MockCluster

EXAMPLE = Path(__file__).parent.parent / "examples" / "web_service.py"
TOPIC = "events"
LIMIT_S = 20


class Service:
    """The example in a process of its own, and a client of it."""

    def __init__(self, process: subprocess.Popen[str], http: httpx.AsyncClient) -> None:
        self._process = process
        self.http = http
        self.stopped_by: signal.Signals | None = None

    def stop(self, by: signal.Signals = signal.SIGTERM) -> None:
        """Once: a second SIGINT would make it drop what it has taken."""
        if self.stopped_by is None:
            self.stopped_by = by
            self._process.send_signal(by)

    async def post(self, value: bytes | str, key: str | None = None) -> httpx.Response:
        return await self.http.post("/events", content=value, params={"key": key} if key is not None else None)

    async def shows(self, count: int) -> list[dict[str, object]]:
        """Wait until so many events are read back."""

        async def shown() -> bool:
            return len((await self.http.get("/events")).json()) == count

        await eventually(shown)
        events: list[dict[str, object]] = (await self.http.get("/events")).json()
        return events

    async def waiting(self, count: int) -> None:
        """Wait until so many events are without an outcome."""

        async def outstanding() -> bool:
            return bool((await self.http.get("/health")).json()["producer"]["outstanding"] == count)

        await eventually(outstanding)


async def eventually(look: Callable[[], Awaitable[bool]], limit: float = 10.0) -> None:
    async def look_often() -> None:
        while not await look():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(look_often(), limit)


@contextlib.contextmanager
def started(**env: str) -> Iterator[subprocess.Popen[str]]:
    environment = {name: value for name, value in os.environ.items() if name != "KAFKA_BOOTSTRAP_SERVERS"}
    with subprocess.Popen(
        [sys.executable, str(EXAMPLE)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**environment, "PORT": "0", "PYTHONUNBUFFERED": "1", **env},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def serve(use: Callable[[Service], Awaitable[None]], **env: str) -> str:
    """Start the service, use it, and have it end well. Returns its output."""
    with started(**env) as process:
        assert process.stdout is not None
        output = ""
        while not (found := re.search(r"running on (http://\S+)", output)):
            line = process.stdout.readline()
            assert line, output
            output += line

        async def use_it() -> signal.Signals | None:
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(base_url=found[1], timeout=LIMIT_S, limits=limits, trust_env=False) as http:
                service = Service(process, http)
                await use(service)
                service.stop()
                return service.stopped_by

        by = run(use_it())
        rest, _ = process.communicate(timeout=LIMIT_S)
    output += rest
    assert "Finished server process" in output, output
    # uvicorn sends itself the signal once more, after the end of the service.
    assert process.returncode == (0 if by == signal.SIGINT else -signal.SIGTERM), output
    return output


@pytest.fixture
def events(cluster: MockCluster) -> MockCluster:
    cluster.create_topic(TOPIC, 1)
    return cluster


def test_events_posted_together_are_acknowledged_and_read_back_without_any_kafka() -> None:
    async def use(service: Service) -> None:
        values = [f"event {number}" for number in range(100)]
        answers = await asyncio.gather(*(service.post(value, value[-1]) for value in values))
        assert {answer.status_code for answer in answers} == {201}
        places = [answer.json() for answer in answers]
        assert sorted(await service.shows(100), key=lambda event: str(event["value"])) == sorted(
            (
                {"partition": place["partition"], "offset": place["offset"], "key": value[-1], "value": value}
                for place, value in zip(places, values, strict=True)
            ),
            key=lambda event: str(event["value"]),
        )
        health = await service.http.get("/health")
        assert health.status_code == 200
        assert health.json()["producer"]["delivered"] == health.json()["consumer"]["handed_out"] == 100

    assert "Traceback" not in serve(use)


def test_an_instance_shows_the_last_events_of_before_its_start(events: MockCluster) -> None:
    send_all(events.bootstrap_servers, TOPIC, [b"%d" % number for number in range(150)] + [b"\xff"])

    async def use(service: Service) -> None:
        shown = [event["value"] for event in await service.shows(100)]
        assert shown == [*(str(number) for number in range(51, 150)), "\N{REPLACEMENT CHARACTER}"]

    serve(use, KAFKA_BOOTSTRAP_SERVERS=events.bootstrap_servers)


def test_wrong_input_is_the_clients_error_and_reaches_no_log(events: MockCluster) -> None:
    async def use(service: Service) -> None:
        assert (await service.post(b"")).status_code == 422
        too_large = await service.post(b"x" * 2_000_000)
        assert too_large.status_code == 413
        assert "message.max.bytes" in too_large.json()["detail"]
        assert (await service.http.put("/events", content=b"x")).status_code == 405
        assert (await service.http.get("/nothing")).status_code == 404
        assert (await service.http.get("/health")).json()["producer"]["accepted"] == 0

    assert "Traceback" not in serve(use, KAFKA_BOOTSTRAP_SERVERS=events.bootstrap_servers)


def test_a_full_queue_is_told_at_once_and_ends_when_kafka_is_back(events: MockCluster) -> None:
    async def use(service: Service) -> None:
        assert (await service.post(b"before")).status_code == 201
        events.broker_down(1)
        held = [asyncio.create_task(service.post(b"held")) for _ in range(5)]
        await service.waiting(5)
        refused = await asyncio.gather(*(service.post(b"refused") for _ in range(20)))
        assert {(answer.status_code, answer.headers["Retry-After"]) for answer in refused} == {(503, "1")}
        assert not any(task.done() for task in held)  # nobody waited for them
        events.broker_up(1)
        assert {answer.status_code for answer in await asyncio.gather(*held)} == {201}
        after = await service.post(b"after")
        assert after.status_code == 201
        assert after.json()["offset"] == 6  # of those that were refused none is in the log

    serve(use, KAFKA_BOOTSTRAP_SERVERS=events.bootstrap_servers, QUEUE_MESSAGES="5")


def test_an_event_that_the_broker_refuses_is_told(events: MockCluster) -> None:
    async def use(service: Service) -> None:
        events.fail_next("Produce", "INVALID_RECORD")
        refused = await service.post(b"refused")
        assert refused.status_code == 502
        assert "INVALID_RECORD" in refused.json()["detail"]
        assert (await service.post(b"taken")).status_code == 201

    assert "Traceback" not in serve(use, KAFKA_BOOTSTRAP_SERVERS=events.bootstrap_servers)


def test_health_tells_of_a_reader_that_ended(events: MockCluster) -> None:
    async def use(service: Service) -> None:
        events.fail_next("Fetch", ["TOPIC_AUTHORIZATION_FAILED"] * 3)

        async def sick() -> bool:
            return (await service.http.get("/health")).status_code == 503

        await eventually(sick)
        assert (await service.post(b"still taken")).status_code == 201

    output = serve(use, KAFKA_BOOTSTRAP_SERVERS=events.bootstrap_servers)
    assert "no more events are read" in output
    assert "TOPIC_AUTHORIZATION_FAILED" in output


def test_a_start_without_kafka_fails_and_says_why() -> None:
    with started(KAFKA_BOOTSTRAP_SERVERS=NOBODY) as process:
        output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode not in (0, None), output
    assert "Connection refused" in output


@pytest.mark.parametrize(("kafka", "status"), [("comes back", 201), ("stays away", 504)])
def test_a_stop_answers_what_was_taken(events: MockCluster, kafka: str, status: int) -> None:
    async def use(service: Service) -> None:
        assert (await service.post(b"before")).status_code == 201
        events.broker_down(1)
        held = [asyncio.create_task(service.post(b"%d" % number)) for number in range(20)]
        await service.waiting(20)
        service.stop()

        async def refuses() -> bool:
            try:
                await service.http.get("/health")
            except httpx.TransportError:
                return True
            return False

        await eventually(refuses)  # the end has begun
        assert not any(task.done() for task in held)
        if kafka == "comes back":
            events.broker_up(1)
        answers = await asyncio.gather(*held)
        assert {answer.status_code for answer in answers} == {status}
        if status == 201:
            posted.update({answer.json()["offset"]: b"%d" % number for number, answer in enumerate(answers)})

    posted: dict[int, bytes] = {}
    assert "Traceback" not in serve(use, KAFKA_BOOTSTRAP_SERVERS=events.bootstrap_servers)
    if posted:
        with reader(events.bootstrap_servers, TOPIC) as consumer:
            assert {message.offset: message.value for message in read(consumer, 21)} == {0: b"before", **posted}


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_every_event_that_was_answered_before_a_stop_is_in_the_log(events: MockCluster, by: signal.Signals) -> None:
    answered: dict[int, str] = {}

    async def use(service: Service) -> None:
        async def post(name: int) -> None:
            with contextlib.suppress(httpx.TransportError):  # it is gone
                for number in range(1_000_000):
                    answer = await service.post(value := f"{name} {number}")
                    assert answer.status_code == 201, answer.text
                    answered[answer.json()["offset"]] = value

        async def busy() -> bool:
            return len(answered) > 200

        tasks = [asyncio.create_task(post(name)) for name in range(20)]
        await eventually(busy)
        service.stop(by)
        await asyncio.gather(*tasks)

    assert "Traceback" not in serve(use, KAFKA_BOOTSTRAP_SERVERS=events.bootstrap_servers)
    with reader(events.bootstrap_servers, TOPIC) as consumer:
        _, end = consumer.watermarks(TOPIC, 0)
        log = {message.offset: (message.value or b"").decode() for message in read(consumer, end)}
    assert answered.items() <= log.items()
    assert len(set(log.values())) == len(log)
