"""Which interpreter this is."""

from __future__ import annotations

import importlib
from contextlib import suppress

_NAMES = ("_interpreters", "_xxsubinterpreters")  # CPython's own, since 3.13 and before


def is_main() -> bool:
    """Tell whether this is the process's first interpreter.

    Returns
    -------
    bool
    """
    for name in _NAMES:
        with suppress(ImportError):
            interpreters = importlib.import_module(name)
            return bool(interpreters.get_current() == interpreters.get_main())
    return True
