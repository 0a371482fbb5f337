"""A broker that lets nobody past the handshake of SASL."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO

from outcomes import Running

APIS = (0, 1, 3, 17, 18, 36)
SASL_HANDSHAKE, API_VERSIONS, SASL_AUTHENTICATE = 17, 18, 36
AUTHENTICATION_FAILED = 58


def _text(data: bytes) -> bytes:
    return struct.pack(">h", len(data)) + data


def _serve(peer: BinaryIO, refuse: Callable[[bytes], bytes] | None) -> None:
    while size := peer.read(4):
        request = peer.read(*struct.unpack(">i", size))
        key, _, correlation, client = struct.unpack_from(">hhih", request)
        if key == API_VERSIONS:
            ranges = b"".join(struct.pack(">hhhx", api, 0, 3) for api in APIS)
            answer = struct.pack(">hB", 0, len(APIS) + 1) + ranges + struct.pack(">ix", 0)
        elif key == SASL_HANDSHAKE and refuse:
            answer = struct.pack(">hi", 0, 1) + _text(b"PLAIN")
        elif key == SASL_AUTHENTICATE and refuse:
            sent = request[8 + 2 + client + 4 :]
            answer = struct.pack(">h", AUTHENTICATION_FAILED) + _text(refuse(sent)) + struct.pack(">i", -1)
        else:
            return
        peer.write(struct.pack(">ii", 4 + len(answer), correlation) + answer)
        peer.flush()


@contextlib.contextmanager
def sasl_broker(refuse: Callable[[bytes], bytes] | None) -> Iterator[str]:
    """Serve one connection after the other, with a refusal of what it sends, or hanging up before that."""

    def accept() -> None:
        while True:
            try:
                peer, _ = server.accept()
            except OSError:  # the end
                return
            with peer, contextlib.suppress(ConnectionError), peer.makefile("rwb") as stream:
                _serve(stream, refuse)

    with socket.create_server(("127.0.0.1", 0)) as server:
        broker = Running(accept)
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            broker.join()
        assert broker.error is None
