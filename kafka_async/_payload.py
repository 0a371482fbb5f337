"""Arguments of `send` on their way into native code: what is refused, and in which form they cross."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from kafka_async._native import ffi

if TYPE_CHECKING:
    from kafka_async.message import Payload


def view(name: str, data: Payload) -> bytes | memoryview | None:
    """Bring a payload into a form whose bytes can be copied at once.

    Parameters
    ----------
    name : str
        What to call it in an error.
    data : bytes, str, buffer or None
        The payload.

    Returns
    -------
    bytes, memoryview or None
        The same bytes, not copied; str as UTF-8.

    Raises
    ------
    TypeError
        It is none of these.
    ValueError
        Its memory is not contiguous.
    """
    if data is None or isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return str.encode(data)  # whatever a subclass makes of it
    try:
        seen = memoryview(data)
    except TypeError:
        raise TypeError(
            f"{name} must be bytes, str, None or have a buffer (bytearray, memoryview, numpy), "
            f"not {type(data).__name__}"
        ) from None
    if not seen.c_contiguous:
        raise ValueError(f"{name} is not contiguous in memory: copy it first, e.g. with bytes(...)")
    return seen


def size(data: bytes | memoryview | None) -> int:
    """Count the bytes of what `view` returned.

    Parameters
    ----------
    data : bytes, memoryview or None
        None counts 0.

    Returns
    -------
    int
    """
    if data is None:
        return 0
    return data.nbytes if isinstance(data, memoryview) else len(data)


def cross(name: str, data: Payload) -> tuple[ffi.CData | bytes, int]:
    """Turn a payload into arguments of a native call.

    Parameters
    ----------
    name : str
        What to call it in an error.
    data : bytes, str, buffer or None
        The payload.

    Returns
    -------
    tuple
        Where its bytes are, not copied, and how many; NULL and 0 for None.

    Raises
    ------
    TypeError, ValueError
        As `view`.
    """
    if isinstance(data, bytes):
        return data, len(data)
    seen = view(name, data)
    if seen is None:
        return ffi.NULL, 0
    if isinstance(seen, bytes):
        return seen, len(seen)
    return (ffi.from_buffer(seen), seen.nbytes) if seen.nbytes else (b"", 0)


def kept(data: Payload) -> bytes | None:
    """Keep a payload for a report: bytes as they are, anything that may change as a copy.

    Parameters
    ----------
    data : bytes, str, buffer or None
        What `cross` took.

    Returns
    -------
    bytes or None
    """
    if data is None or isinstance(data, bytes):
        return data
    return str.encode(data) if isinstance(data, str) else bytes(data)


def integer(name: str, number: int, most: int, *, least: int = 0) -> int:
    """Refuse what is no integer of a range.

    Parameters
    ----------
    name : str
        What to call it in an error.
    number : int
        Anything with ``__index__`` but bool.
    most, least : int
        The range, both included.

    Returns
    -------
    int

    Raises
    ------
    TypeError, ValueError
        It is no integer, or out of range.
    """
    if isinstance(number, bool):
        raise TypeError(f"{name} must be int, not bool")
    try:
        number = operator.index(number)
    except TypeError:
        raise TypeError(f"{name} must be int, not {type(number).__name__}") from None
    if not least <= number <= most:
        raise ValueError(f"{name} must be from {least} to {most}, not {number}")
    return number
