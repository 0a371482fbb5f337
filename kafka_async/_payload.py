"""Arguments of `send` on their way into native code: what is refused, and in which form they cross."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from kafka_async._native import ffi

if TYPE_CHECKING:
    from typing_extensions import Buffer

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
        return data.encode()
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


def native(data: bytes | memoryview | None) -> ffi.CData | bytes:
    """Turn what `view` returned into an argument of a native call.

    Parameters
    ----------
    data : bytes, memoryview or None
        None becomes NULL.

    Returns
    -------
    CData or bytes
        Points to the same memory.
    """
    if data is None:
        return ffi.NULL
    if isinstance(data, memoryview):
        return ffi.from_buffer(data) if data.nbytes else b""
    return data


def kept(data: Buffer | None) -> bytes | None:
    """Keep a payload for a report: bytes as they are, anything that may change as a copy.

    Parameters
    ----------
    data : bytes, memoryview or None
        What `view` returned.

    Returns
    -------
    bytes or None
    """
    return None if data is None else bytes(data)


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
