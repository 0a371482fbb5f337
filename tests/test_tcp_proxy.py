"""The proxy does to connections what its methods say, so that tests of faults are tests of those faults."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from support import wait_for
from tcp_proxy import HOST, TcpProxy

LIMIT_S = 10.0


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""
    with socket.create_server((HOST, 0)) as server:
        threading.Thread(target=_accept, args=(server,), daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def _accept(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            threading.Thread(target=_echo, args=(server.accept()[0],), daemon=True).start()


def _echo(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        while data := connection.recv(65536):
            connection.sendall(data)


@pytest.fixture
def proxy(echo: int) -> Iterator[TcpProxy]:
    with TcpProxy(echo) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: TcpProxy) -> Iterator[socket.socket]:
    with connect(proxy) as client:
        assert echoed(client, b"hello") == b"hello"
        yield client


def connect(proxy: TcpProxy) -> socket.socket:
    return socket.create_connection((HOST, proxy.port), LIMIT_S)


def echoed(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    got = b""
    while len(got) < len(data):
        part = client.recv(65536)
        assert part, "closed"
        got += part
    return got


def is_silent(client: socket.socket) -> bool:
    client.settimeout(0.2)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(LIMIT_S)
    return False


def test_cut_resets_connections_and_takes_new_ones(proxy: TcpProxy, client: socket.socket) -> None:
    assert proxy.cut() == 1
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with connect(proxy) as another:
        assert echoed(another, b"again") == b"again"


def test_refusing_resets_connections_and_refuses_new_ones(proxy: TcpProxy, client: socket.socket) -> None:
    with proxy.refusing():
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
    with connect(proxy) as another:
        assert echoed(another, b"again") == b"again"


def test_stalled_connections_carry_all_of_it_later(proxy: TcpProxy, client: socket.socket) -> None:
    with proxy.stalled():
        client.sendall(b"late")
        assert is_silent(client)
    assert client.recv(4) == b"late"


def test_forgotten_connections_stay_open_and_carry_nothing(proxy: TcpProxy, client: socket.socket) -> None:
    assert proxy.forget() == 1
    client.sendall(b"lost")
    assert is_silent(client)
    with connect(proxy) as another:
        assert echoed(another, b"again") == b"again"
        assert is_silent(client)


def test_slow_connections_deliver_late_and_no_faster(proxy: TcpProxy, client: socket.socket) -> None:
    with proxy.slow(delay_s=0.1):
        began = time.monotonic()
        assert echoed(client, b"there and back") == b"there and back"
        assert time.monotonic() - began >= 0.2
    with proxy.slow(bytes_per_s=100_000):
        began = time.monotonic()
        assert len(echoed(client, b"x" * 50_000)) == 50_000
        assert time.monotonic() - began >= 0.3  # the last piece is not waited for


def test_end_of_one_side_ends_the_other(proxy: TcpProxy, client: socket.socket) -> None:
    assert proxy.connections() == 1
    client.close()
    wait_for(lambda: proxy.connections() == 0)


def test_nobody_behind_it_ends_the_connection() -> None:
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
    with TcpProxy(port) as proxy, contextlib.suppress(ConnectionResetError), connect(proxy) as client:
        assert client.recv(1) == b""
