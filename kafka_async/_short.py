"""Methods that are called often, and then do without a frame of Python's."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Any, TypeVar

from kafka_async._fast import fast, fast_poll

_Method = TypeVar("_Method", bound=Callable[..., Any])


def short_send(method: _Method) -> _Method:
    """Decorate a producer's method that takes what ``send`` takes: a lone value of type bytes takes a short cut.

    It is given to the core at once. What the core refuses, and all else, is the method's.
    """
    return _documented(fast(method), method)


def short_poll(method: _Method) -> _Method:
    """Decorate a consumer's method that returns the next message: one of the block in hand is returned at once.

    All else is the method's: the next block, waiting, callbacks, errors, and what changed on the native side.
    """
    return _documented(fast_poll(method), method)


def _documented(short: _Method, method: _Method) -> _Method:
    update_wrapper(short, method)
    return short
