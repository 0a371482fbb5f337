"""Configuration: librdkafka's properties, our defaults for them, and what may not be set.

Any property of librdkafka can be given as ``config={"name": value}``; a str, int, float or bool. The
defaults here differ from librdkafka's where those trade latency for something else. Each can be
overridden. One that the linked librdkafka does not know is left out.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import TypeAlias

from kafka_async._native import ffi, lib
from kafka_async._security import warn_unverified
from kafka_async.errors import ConfigError, KafkaError

Value: TypeAlias = str | int | float | bool

#: name -> (value, reason)
COMMON_DEFAULTS: dict[str, tuple[Value, str]] = {
    "socket.nagle.disable": (True, "a small request leaves at once instead of waiting for the last one's ACK"),
    "reconnect.backoff.max.ms": (1000, "a broker that is back is used within a second, not within ten"),
}
PRODUCER_DEFAULTS: dict[str, tuple[Value, str]] = {
    **COMMON_DEFAULTS,
    "linger.ms": (0, "a message leaves at once"),
    "max.in.flight.requests.per.connection": (
        5,
        "under load messages gather into batches while five requests are on their way; a million tiny requests "
        "would take longer for all",
    ),
}
CONSUMER_DEFAULTS: dict[str, tuple[Value, str]] = {
    **COMMON_DEFAULTS,
    "fetch.queue.backoff.ms": (2, "a full prefetch queue is looked at again after 2 ms, not 1000: no stalls"),
    "fetch.error.backoff.ms": (100, "fetching resumes soon after an error"),
    "check.crcs": (
        True,
        "corrupt data is told, not handed out; it costs no throughput that could be measured, and without it a corrupt "
        "gzip batch may keep librdkafka's thread busy for ever",
    ),
}

_LARGEST_RESPONSE = 50 * 2**20  # librdkafka's own default
_LARGEST_PART = 2**20  # of one partition, the same
_COMPRESSED = 128  # times: a response takes as much as prefetch_bytes where data are compressed so well
_LEAST_METADATA_AGE_MS = 3000

_SERVERS = "use the argument bootstrap_servers"
_OWN_STORE = "offsets are stored when the next message is asked for; set enable.auto.commit to choose who commits"
_RESERVED_COMMON = {
    "bootstrap.servers": _SERVERS,
    "metadata.broker.list": _SERVERS,
    "log.queue": "log lines go to the logger 'kafka_async'; use the argument log",
}
_RESERVED_PRODUCER = {
    **_RESERVED_COMMON,
    "delivery.report.only.error": "every message has an outcome",
    "queue.buffering.max.messages": "use the argument queue_messages",
    "queue.buffering.max.kbytes": "use the argument queue_bytes",
}
_RESERVED_CONSUMER = {
    **_RESERVED_COMMON,
    "group.id": "use the argument group_id",
    "enable.auto.offset.store": _OWN_STORE,
    "auto.commit.enable": _OWN_STORE,
    "queued.min.messages": "use the argument prefetch_messages",
    "queued.max.messages.kbytes": "use the argument prefetch_bytes",
}
_SECRET = re.compile(r"password|secret|\.pem$|jaas|oauthbearer\.config|credentials")


def fetch_defaults(prefetch_bytes: int) -> dict[str, Value]:
    """Size a fetch response to fit the prefetch bound.

    librdkafka asks for more while its queue is below its bound, and then takes a whole response, decompressed. By
    default that is up to 50 MiB on the wire for each broker, which may be gigabytes in memory. Responses of
    1/128 of the bound, 512 KiB by default, cost no throughput that could be measured; where the round trip is
    long, a larger ``fetch.max.bytes`` may pay.

    Parameters
    ----------
    prefetch_bytes : int
        The bound.

    Returns
    -------
    dict
        Properties, which the application may override.
    """
    response = min(_LARGEST_RESPONSE, max(1000, prefetch_bytes // _COMPRESSED))
    return {
        "fetch.max.bytes": response,
        "fetch.message.max.bytes": min(_LARGEST_PART, response),
        "message.max.bytes": min(1_000_000, response),  # a bound of producers', which fetch.max.bytes may not go below
    }


class Config:
    """A native configuration on its way to a client; owns it until `take`.

    Parameters
    ----------
    role : int
        ``lib.KA_PRODUCER`` or ``lib.KA_CONSUMER``.
    bootstrap_servers : str
        ``host:port,host:port``.
    settings : mapping or None
        The application's properties.
    forced : mapping
        Properties that the library itself needs.
    defaults : mapping, optional
        More properties that the application may override.

    Raises
    ------
    ConfigError
        A property is unknown, refuses its value, belongs to the other kind of client, or is set by
        an argument.
    """

    def __init__(
        self,
        role: int,
        bootstrap_servers: str,
        settings: Mapping[str, Value] | None,
        forced: Mapping[str, Value],
        defaults: Mapping[str, Value] | None = None,
    ) -> None:
        if not isinstance(bootstrap_servers, str):
            raise TypeError(f"bootstrap_servers must be 'host:port,...', not {type(bootstrap_servers).__name__}")
        if not bootstrap_servers.strip(", "):
            raise ValueError("bootstrap_servers is empty: give 'host:port'")
        conf = lib.ka_conf_new()
        if not conf:
            raise MemoryError("no memory for a configuration")
        self.native = ffi.gc(conf, lib.ka_conf_free)
        self._error = ffi.new("ka_error *")
        producer = role == lib.KA_PRODUCER
        for name, (value, _) in (PRODUCER_DEFAULTS if producer else CONSUMER_DEFAULTS).items():
            self._set(name, value, optional=True)
        for name, value in (defaults or {}).items():
            self._set(name, value)
        if settings is not None and not isinstance(settings, Mapping):
            raise TypeError(f"config must be a mapping of property to value, not {type(settings).__name__}")
        if settings:
            self._apply(settings, "P" if producer else "C", _RESERVED_PRODUCER if producer else _RESERVED_CONSUMER)
        for name, value in {"bootstrap.servers": bootstrap_servers, **forced}.items():
            self._set(name, value)
        warn_unverified(self)

    def _apply(self, settings: Mapping[str, Value], scope: str, reserved: Mapping[str, str]) -> None:
        for name, value in settings.items():
            if not isinstance(name, str):
                raise TypeError(f"config: a property's name must be str, not {type(name).__name__}")
            if name in reserved:
                raise config_error(name, f"config: {name!r} can't be set: {reserved[name]}")
            if properties().get(name, scope) not in (scope, "*"):
                kind = "consumer" if scope == "P" else "producer"
                raise config_error(name, f"config: {name!r} is a property of a {kind}: remove it")
            self._set(name, value)

    def _set(self, name: str, value: Value, *, optional: bool = False) -> None:
        status = lib.ka_conf_set(self.native, _encoded(name, name), _text(name, value), self._error)
        if status == lib.KA_OK or (optional and status == lib.KA_EMPTY):
            return
        if status == lib.KA_EMPTY:
            version = ffi.string(lib.ka_librdkafka_version()).decode()
            raise config_error(name, f"config: librdkafka {version} has no property {name!r}: correct or remove it")
        reason = ffi.string(self._error.text).decode(errors="replace").strip()
        if _SECRET.search(name):
            reason = "its value is refused (not shown, since it may be secret)"
        raise config_error(name, f"config: {name!r}: {reason}")

    def get(self, name: str) -> str | None:
        """Read a property back.

        Parameters
        ----------
        name : str
            The property.

        Returns
        -------
        str or None
            Its value as librdkafka writes it; None: unset or unknown.
        """
        buf = ffi.new("char[]", size := 4096)
        length = lib.ka_conf_get(self.native, name.encode(), buf, size)
        if length >= size:
            buf = ffi.new("char[]", length + 1)
            length = lib.ka_conf_get(self.native, name.encode(), buf, length + 1)
        return None if length < 0 else ffi.string(buf).decode()

    def unset(self, name: str) -> None:
        """Switch a property off that librdkafka must not act upon.

        Parameters
        ----------
        name : str
            The property, a boolean.
        """
        self._set(name, False)

    def number(self, name: str, default: int) -> int:
        """Read a numeric property back.

        Parameters
        ----------
        name : str
            The property.
        default : int
            For one that is unset.

        Returns
        -------
        int
        """
        value = self.get(name)
        return default if value is None else int(float(value))

    def keep_metadata(self) -> None:
        """Let metadata be older than the time between two tries to join a group.

        librdkafka lets them live for three refreshes. A join wants them alive, asks for them otherwise, and is tried
        again after a second, when those of a frequent refresh have expired again: up to 2.0.2 at least it may go on
        so for ever.
        """
        if 0 < self.number("topic.metadata.refresh.interval.ms", -1) < _LEAST_METADATA_AGE_MS // 3:
            self._set("metadata.max.age.ms", _LEAST_METADATA_AGE_MS)

    def taken(self) -> None:
        """Tell that a client has taken the native object over."""
        ffi.gc(self.native, None)


@functools.cache
def properties() -> dict[str, str]:
    """Find out which properties the linked librdkafka has.

    Returns
    -------
    dict
        Name -> ``"P"`` (producer), ``"C"`` (consumer) or ``"*"`` (both). A name that exists for
        both kinds with different meanings is ``"*"``.

    Raises
    ------
    MemoryError
        The native core had no memory for the table.
    """
    size = 1 << 20
    buf = ffi.new("char[]", size)
    length = lib.ka_conf_properties(buf, size)
    if length < 0:
        raise MemoryError("no memory for librdkafka's table of properties")
    found: dict[str, str] = {}
    for line in ffi.buffer(buf, min(length, size))[:].decode(errors="replace").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 2 and cells[1] in ("P", "C", "*"):
            found[cells[0]] = cells[1] if found.get(cells[0], cells[1]) == cells[1] else "*"
    return found


def native_error(error: ffi.CData) -> Exception:
    """Tell why a client could not be made.

    Parameters
    ----------
    error : ka_error *
        What the constructor filled.

    Returns
    -------
    Exception
        A KafkaError, which is a ConfigError where a configuration is at fault; or a MemoryError.
    """
    text = ffi.string(error.text).decode(errors="replace")
    if error.code == lib.KA_NOMEM:
        return MemoryError(text)
    name = ffi.string(error.name).decode()
    if name == "_INVALID_ARG":
        found = re.search(r"[`'\"]([a-z0-9_]+(?:\.[a-z0-9_]+)+)[`'\"]", text)
        return config_error(found[1] if found else "", f"config: {text}")
    return KafkaError(text, code=error.code, name=name, retriable=bool(error.retriable), fatal=bool(error.fatal))


def config_error(name: str, message: str) -> ConfigError:
    """Make a ConfigError.

    Parameters
    ----------
    name : str
        The property at fault.
    message : str
        What is wrong, and what to do.

    Returns
    -------
    ConfigError
    """
    error = ConfigError(message, name="_INVALID_ARG", code=-186)
    error.property = name
    return error


def _text(name: str, value: Value) -> bytes:
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, float) and not math.isfinite(value):
        raise config_error(name, f"config: {name!r} must be a finite number, not {value}")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # librdkafka reads "5.0" of an integer property as an error
    if not isinstance(value, (str, int, float)):
        raise config_error(name, f"config: {name!r} must be str, int, float or bool, not {type(value).__name__}")
    try:
        text = str(value)
    except ValueError:  # of an int, more digits than Python writes
        raise config_error(name, f"config: {name!r} is too large a number") from None
    return _encoded(name, text)


def _encoded(name: str, text: str) -> bytes:
    if "\0" in text:  # librdkafka would read up to it
        raise config_error(name, f"config: {name!r} holds a NUL character: remove it")
    try:
        return text.encode()
    except UnicodeEncodeError:  # its own text would show the value
        raise config_error(name, f"config: {name!r} can't be written as UTF-8: remove lone surrogates") from None
