"""Running tests of asyncio: every one on a loop of its own, with a limit, in debug mode where that is asked for."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest

from kafka_async import Message, aio

T = TypeVar("T")
LIMIT_S = 30.0
newer = pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio has no timeout() and no TaskGroup")


def run(main: Coroutine[Any, Any, T], *, debug: bool = False, limit: float = LIMIT_S) -> T:
    async def limited() -> T:
        return await asyncio.wait_for(main, limit)

    return asyncio.run(limited(), debug=debug)


async def until(condition: Callable[[], object], limit: float = 10.0) -> None:
    async def look() -> None:
        while not condition():
            await asyncio.sleep(0.002)

    await asyncio.wait_for(look(), limit)


async def read(consumer: aio.Consumer, count: int, limit: float = 20.0) -> list[Message]:
    """Poll, in the caller's task, until there are so many messages."""
    messages: list[Message] = []
    end = asyncio.get_running_loop().time() + limit
    while len(messages) < count:
        assert asyncio.get_running_loop().time() < end, f"{len(messages)} of {count} messages within {limit} s"
        if (message := await consumer.poll_message(0.1)) is not None:
            messages.append(message)
    return messages


async def fails(awaitable: Awaitable[object], kind: type[BaseException]) -> BaseException:
    try:
        await awaitable
    except kind as error:
        return error
    raise AssertionError(f"it raised no {kind.__name__}")
