"""What goes wrong before the first message: find it out at once, and tell it in one line.

A client of Kafka waits patiently for brokers to appear, which is right for a service; a person who mistyped
a port wants to be told.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

_TIMEOUT_S = 5.0


class UsageError(Exception):
    """The command line asks for what can't be."""


@contextlib.contextmanager
def usage() -> Iterator[None]:
    """Surround the making of a producer or consumer, whose arguments are the command line's.

    Raises
    ------
    UsageError
        For a ValueError, which includes ConfigError.
    """
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


def reach(bootstrap_servers: str) -> None:
    """Connect to one of the servers and hang up.

    Parameters
    ----------
    bootstrap_servers : str
        ``host:port,host:port``; a protocol before a host and a missing port are allowed, as in librdkafka.

    Raises
    ------
    ConnectionError
        None can be connected to; the text names each with its reason.
    """
    reasons = []
    for server in filter(None, map(str.strip, bootstrap_servers.split(","))):
        try:
            with socket.create_connection(_address(server), timeout=_TIMEOUT_S):
                return
        except (OSError, ValueError, UnicodeError) as error:
            reasons.append(f"{server}: {getattr(error, 'strerror', None) or error}")
    raise ConnectionError(f"no broker can be reached: {'; '.join(reasons) or 'none is given'}")


def _address(server: str) -> tuple[str, int]:
    server = server.rpartition("://")[2]
    host, colon, port = server.rpartition(":")
    if not colon or "]" in port:
        host, port = server, "9092"
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{port!r} is not a port")
    return host.strip("[]"), int(port)
