"""A warning for who switches the verification of TLS off."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING

from kafka_async import _log

if TYPE_CHECKING:
    from kafka_async.config import Config

# Property, the value that switches it off, and what that means.
_SWITCHES = (
    ("enable.ssl.certificate.verification", "false", "anybody may pass for the broker, read and change everything"),
    (
        "ssl.endpoint.identification.algorithm",
        "none",
        "any host with a certificate of the authority passes for the broker",
    ),
)


def warn_unverified(conf: Config) -> None:
    """Warn, in the log too, if a client with TLS will not verify whom it talks to.

    Parameters
    ----------
    conf : Config
        Of the client, complete.

    Warns
    -----
    RuntimeWarning
        Names the property.
    """
    if not (conf.get("security.protocol") or "").endswith("ssl"):
        return
    for name, off, meaning in _SWITCHES:
        if conf.get(name) == off:
            text = f"config: {name!r} is {off}: {meaning}"
            _log.note(text)
            warnings.warn(text, RuntimeWarning, stacklevel=_callers_level())
            return


def _callers_level() -> int:
    """How far up the application's own code is, as seen from `warn_unverified`."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("kafka_async."):
        level, frame = level + 1, frame.f_back
    return level
