"""Tokens of SASL/OAUTHBEARER from a callback of the application."""

from __future__ import annotations

import math
import re
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping
from types import CoroutineType
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

from kafka_async import _log, _unsecured
from kafka_async._native import ffi, lib
from kafka_async.config import Config, config_error

if TYPE_CHECKING:
    import asyncio

    from kafka_async._wait import Waits

_UNSECURED = "enable.sasl.oauthbearer.unsecure.jwt"
_DESCRIPTION = "sasl.oauthbearer.config"
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_EXTENSION_NAME = re.compile(r"[A-Za-z]+")
_EXTENSION_VALUE = re.compile(r"[\x20-\x7e\t\r\n]+")  # Kafka refuses an empty one
_A_YEAR_S = 366 * 86_400
_FAR_S = 1e11  # the year 5138: milliseconds, rather
_LONGEST_REASON = 400


class OAuthToken(NamedTuple):
    """A token of SASL/OAUTHBEARER, as `on_oauth` returns it.

    A plain tuple of the first two, three or four fields does as well, as confluent-kafka's ``oauth_cb`` returns it.
    The next token is asked for when 80 % of the lifetime are over, looked at once a second: one that lives for less
    than 5 s may expire before.

    Parameters
    ----------
    token : str
        What the broker gets, without "Bearer".
    expires_at : float
        Seconds since the epoch, as `time.time()` counts them.
    principal : str, default ""
        Whose it is, for librdkafka's log lines; the broker goes by the token.
    extensions : mapping of str to str, optional
        SASL extensions; names are of the letters A to Z and a to z.
    """

    token: str
    expires_at: float
    principal: str = ""
    extensions: Mapping[str, str] | None = None

    def __repr__(self) -> str:
        """Show everything but secrets."""
        names = ", ".join(self.extensions or ())
        return f"OAuthToken(..., expires_at={self.expires_at!r}, principal={self.principal!r}, extensions={{{names}}})"


Answer: TypeAlias = (
    OAuthToken | tuple[str, float] | tuple[str, float, str] | tuple[str, float, str, Mapping[str, str] | None]
)
OnOAuth: TypeAlias = Callable[[str], Answer]
OnOAuthAsync: TypeAlias = Callable[[str], Awaitable[Answer]]


def make_tokens(conf: Config, on_oauth: OnOAuth | OnOAuthAsync | None, waits: Waits) -> Tokens | None:
    """Prepare what gives tokens, and refuse a configuration that has no use for it, or lacks it.

    Parameters
    ----------
    conf : Config
        Of the client.
    on_oauth : callable or None
        The application's.
    waits : Waits
        How the client waits.

    Returns
    -------
    Tokens or None
        None: the application gives none.

    Raises
    ------
    TypeError
        `on_oauth` can't be called, or would have to be awaited where nothing is.
    ConfigError
        The configuration does not fit.
    """
    secured = (conf.get("security.protocol") or "").lower().startswith("sasl_")
    wanted = secured and (conf.get("sasl.mechanisms") or "").upper() == "OAUTHBEARER"
    own = _own_tokens(conf)
    if on_oauth is None:
        if wanted and own == _UNSECURED and _unsecured.is_needed():
            return _unsecured_tokens(conf)
        if wanted and own is None:
            raise config_error(
                "sasl.mechanisms",
                "config: 'sasl.mechanisms' OAUTHBEARER needs tokens: give on_oauth, a function that returns them, or "
                f"set 'sasl.oauthbearer.method' to 'oidc' (for tests without security: {_UNSECURED!r} to True)",
            )
        return None
    if not callable(on_oauth):
        raise TypeError(f"on_oauth must be callable, not {type(on_oauth).__name__}")
    if not wanted:
        name = "sasl.mechanisms" if secured else "security.protocol"
        raise config_error(
            name,
            "on_oauth would never be called: it needs config={'security.protocol': 'SASL_SSL', "
            f"'sasl.mechanisms': 'OAUTHBEARER'}} ({name!r} is {conf.get(name)!r})",
        )
    if own is not None:
        raise config_error(own, f"config: {own!r} and on_oauth exclude each other: librdkafka would make the tokens")
    tokens = Tokens(on_oauth, conf.get(_DESCRIPTION) or "")
    if tokens.is_async and not waits.awaits:
        raise TypeError(f"on_oauth {on_oauth!r} is a coroutine function, which nothing awaits here: give a plain one")
    return tokens


def _own_tokens(conf: Config) -> str | None:
    """Name the property by which librdkafka makes tokens itself."""
    if conf.get(_UNSECURED) == "true":
        return _UNSECURED
    return "sasl.oauthbearer.method" if conf.get("sasl.oauthbearer.method") == "oidc" else None


def _unsecured_tokens(conf: Config) -> Tokens:
    description = conf.get(_DESCRIPTION) or ""
    check_answer(_unsecured.mint(description))
    conf.unset(_UNSECURED)
    return Tokens(_unsecured.mint, description)


class _Source:
    """The callback and its argument.

    The client holds it, and who calls it holds it weakly: else a callback that knows the client, as a method of its
    owner does, would keep the client from ever being collected.
    """

    __slots__ = ("__weakref__", "callback", "config")

    def __init__(self, callback: OnOAuth | OnOAuthAsync, config: str) -> None:
        self.callback = callback
        self.config = config


class _Line:
    """Who answers: has the native end, and the callback weakly but for the first call.

    A client that is forgotten before it had a token can still get one, and deliver what it was given.
    """

    def __init__(self, native: ffi.CData, source: _Source) -> None:
        self.native = native
        self._first: _Source | None = source
        self._later = weakref.ref(source)

    def source(self) -> _Source | None:
        source = self._first or self._later()
        self._first = None
        return source

    def give(self, answer: object) -> None:
        """Pass an answer on, or raise what is wrong with it."""
        token = check_answer(answer)
        extensions = "".join(f"{name}\0{value}\0" for name, value in (token.extensions or {}).items()).encode()
        lib.ka_oauth_give(
            self.native,
            token.token.encode(),
            math.floor(token.expires_at * 1000),
            token.principal.encode(),
            extensions,
            len(extensions),
        )

    def fail(self, error: BaseException) -> None:
        """Tell that there is no token, while the exception is being handled."""
        if lib.ka_oauth_fail(self.native, _reason(error)) == lib.KA_OK:
            _log.exception("on_oauth gave no token; it is called again in 10 s")

    def lose(self) -> None:
        """Tell that there will be none."""
        lib.ka_oauth_fail(self.native, b"the producer or consumer was forgotten, and on_oauth with it")


class Tokens:
    """Gives librdkafka the tokens that a callback returns.

    Parameters
    ----------
    on_oauth : callable
        The application's.
    config : str
        What it is called with.
    """

    def __init__(self, on_oauth: OnOAuth | OnOAuthAsync, config: str) -> None:
        from inspect import iscoroutinefunction

        native = lib.ka_oauth_new()
        if not native:
            raise MemoryError("the native core has no memory")
        self.native = ffi.gc(native, lib.ka_oauth_release)
        self.is_async = any(map(iscoroutinefunction, (on_oauth, type(on_oauth).__call__)))
        self._source = _Source(on_oauth, config)

    def start_thread(self) -> None:
        """Call the callback on a thread of its own, which ends with the client."""
        line = _Line(self.native, self._source)
        threading.Thread(target=_run, args=(line,), name="kafka_async-oauth", daemon=True).start()

    def attendant(self, loop: asyncio.AbstractEventLoop, bell: ffi.CData) -> Callable[[], object]:
        """Await the callback on an event loop.

        Parameters
        ----------
        loop : AbstractEventLoop
            The client's.
        bell : ka_bell *
            What it listens to.

        Returns
        -------
        callable
            To be called on the loop when the bell has rung.
        """
        lib.ka_oauth_hang(self.native, bell)
        return _Attendant(_Line(self.native, self._source), loop).look


def _run(line: _Line) -> None:
    lib.ka_thread_name(b"ka-oauth")
    while (status := lib.ka_wait_oauth(line.native, -1)) != lib.KA_CLOSED:
        if status == lib.KA_OK:
            _answer(line)


def _answer(line: _Line) -> None:
    if (source := line.source()) is None:
        line.lose()
        return
    try:
        answer = source.callback(source.config)
        if isinstance(answer, CoroutineType):
            answer.close()
            raise TypeError(
                f"on_oauth {source.callback!r} returned a coroutine, which nothing awaits on this thread: return the "
                "token, or give kafka_async.aio a coroutine function itself (async def), not a function that calls one"
            )
        line.give(answer)
    except BaseException as error:
        line.fail(error)


class _Attendant:
    """Has a task for each call that is awaited."""

    def __init__(self, line: _Line, loop: asyncio.AbstractEventLoop) -> None:
        self._line = line
        self._loop = loop
        self._task: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Begin a call if one is due; end it when it is not wanted any more."""
        status = lib.ka_try_oauth(self._line.native)
        if status == lib.KA_OK:
            self._task = self._loop.create_task(self._answer())
        elif status == lib.KA_CLOSED and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _answer(self) -> None:
        from asyncio import CancelledError  # which the loop has imported

        if (source := self._line.source()) is None:
            self._line.lose()
            return
        try:
            self._line.give(await cast("OnOAuthAsync", source.callback)(source.config))
        except CancelledError:
            lib.ka_oauth_fail(self._line.native, b"on_oauth was cancelled")
            raise
        except BaseException as error:
            self._line.fail(error)


def _reason(error: BaseException) -> bytes:
    try:
        text = f"on_oauth raised {type(error).__name__}: {error}"
    except Exception:
        text = f"on_oauth raised {type(error).__name__}"
    return text[:_LONGEST_REASON].replace("\0", " ").encode(errors="replace")


def check_answer(answer: object) -> OAuthToken:
    """Check what a callback returned. No error quotes the token, or what may be one.

    Parameters
    ----------
    answer : object
        What it returned.

    Returns
    -------
    OAuthToken

    Raises
    ------
    TypeError, ValueError
        What is wrong with it.
    """
    if not isinstance(answer, (tuple, list)) or not 2 <= len(answer) <= 4:
        what = f"{len(answer)} values" if isinstance(answer, (tuple, list)) else type(answer).__name__
        raise TypeError(
            "on_oauth must return an OAuthToken, or a tuple of token, expires_at and optionally principal and "
            f"extensions, not {what}"
        )
    token = OAuthToken(*answer)
    _check_token(token.token)
    _check_expiry(token.expires_at)
    if not isinstance(token.principal, str) or "\0" in token.principal:
        raise TypeError(
            f"on_oauth: principal must be str without NUL, not {type(token.principal).__name__} or with one"
        )
    if token.extensions is not None:
        _check_extensions(token.extensions)
    return token


def _check_token(token: object) -> None:
    if not isinstance(token, str):
        raise TypeError(f"on_oauth: the token must be str, not {type(token).__name__}")
    if token[:7].lower() == "bearer ":
        raise ValueError("on_oauth: give the token alone, without 'Bearer'")
    if not _VISIBLE.fullmatch(token):
        raise ValueError(
            "on_oauth: the token must be visible ASCII characters, at least one: strip() it if it was read from a file"
        )


def _check_expiry(expires_at: object) -> None:
    if isinstance(expires_at, bool) or not isinstance(expires_at, (int, float)):
        raise TypeError(f"on_oauth: expires_at must be seconds since the epoch, not {type(expires_at).__name__}")
    now = time.time()
    if not math.isfinite(expires_at) or expires_at > _FAR_S:
        raise ValueError(f"on_oauth: expires_at must be seconds since the epoch, not milliseconds: {expires_at}")
    if expires_at < _A_YEAR_S:
        raise ValueError(f"on_oauth: expires_at must be a time, not a lifetime: time.time() + {expires_at:g}")
    if expires_at <= now:
        raise ValueError(f"on_oauth: the token expired {now - expires_at:.3f} s ago: return a new one")


def _check_extensions(extensions: object) -> None:
    if not isinstance(extensions, Mapping):
        raise TypeError(f"on_oauth: extensions must be a mapping of str to str, not {type(extensions).__name__}")
    for name, value in extensions.items():
        if not isinstance(name, str) or not _EXTENSION_NAME.fullmatch(name) or name == "auth":
            raise ValueError(f"on_oauth: extension {name!r}: names are letters A to Z and a to z, and not 'auth'")
        if not isinstance(value, str) or not _EXTENSION_VALUE.fullmatch(value):
            raise ValueError(f"on_oauth: the value of extension {name!r} must be ASCII characters, at least one")
