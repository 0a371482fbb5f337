"""Unsecured tokens, for tests: what ``enable.sasl.oauthbearer.unsecure.jwt`` means, where librdkafka can't do it.

librdkafka 2.0.2, and what follows it up to some version before 2.8.0, makes the first such token and crashes the
process when it is about to renew it (by a queue that it did not set up). There they are made here, from the same
description.
"""

from __future__ import annotations

import time

from kafka_async._native import lib
from kafka_async.config import config_error

_SOUND = 0x02080000
_NAME = "sasl.oauthbearer.config"


def is_needed() -> bool:
    """Tell whether librdkafka must not make such tokens itself.

    Returns
    -------
    bool
    """
    return lib.ka_librdkafka_version_linked() < _SOUND


def mint(config: str) -> tuple[str, float, str, dict[str, str]]:
    """Make a token as ``sasl.oauthbearer.config`` describes it.

    Parameters
    ----------
    config : str
        ``principal=NAME``, and optionally ``principalClaimName=``, ``scope=A,B``, ``scopeClaimName=``,
        ``lifeSeconds=``, ``extension_NAME=``, with spaces between them.

    Returns
    -------
    tuple
        As `on_oauth` returns it.

    Raises
    ------
    ConfigError
        The description is malformed.
    """
    given, extensions = _parse(config)
    now = time.time()
    expires_at = now + int(given["lifeSeconds"])
    claims: dict[str, object] = {given["principalClaimName"]: given["principal"], "iat": now, "exp": expires_at}
    if scope := [name for name in given["scope"].split(",") if name]:
        claims[given["scopeClaimName"]] = scope
    return f"{_part({'alg': 'none'})}.{_part(claims)}.", expires_at, given["principal"], extensions


_WORDS = "principal, principalClaimName, scope, scopeClaimName, lifeSeconds, extension_... = value"


def _parse(config: str) -> tuple[dict[str, str], dict[str, str]]:
    given = {"principalClaimName": "sub", "scopeClaimName": "scope", "scope": "", "lifeSeconds": "3600"}
    known = {*given, "principal"}
    extensions: dict[str, str] = {}
    for word in config.split():
        name, _, value = word.partition("=")
        if not value or not (name in known or name.startswith("extension_")):
            # Whatever it is may be a secret.
            raise config_error(_NAME, f"config: {_NAME!r}: a word of it has no value, or an unknown name: {_WORDS}")
        if name in known:
            given[name] = value
        else:
            extensions[name.removeprefix("extension_")] = value
    if "principal" not in given or not given["lifeSeconds"].isdecimal() or int(given["lifeSeconds"]) == 0:
        raise config_error(_NAME, f"config: {_NAME!r} needs principal=NAME, and lifeSeconds, if given, of 1 or more")
    return given, extensions


def _part(claims: dict[str, object]) -> str:
    import base64  # seldom needed, and as slow to import as all the rest
    import json

    return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
