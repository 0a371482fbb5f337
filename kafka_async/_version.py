"""Which librdkafka is linked, and whether it will do."""

from __future__ import annotations

from kafka_async._native import ffi, lib

_OLDEST = 0x020002FF  # 2.0.2

#: librdkafka's version as linked, such as ``"2.0.2"``.
librdkafka_version: str = ffi.string(lib.ka_librdkafka_version()).decode()


def check_librdkafka() -> None:
    """Refuse a librdkafka that is too old, or older than the one compiled against.

    Raises
    ------
    ImportError
        Says what is linked and what to do.
    """
    linked, compiled = lib.ka_librdkafka_version_linked(), lib.ka_librdkafka_version_compiled()
    needed = max(_OLDEST, compiled)
    if linked < needed:
        raise ImportError(
            f"kafka_async was compiled against librdkafka {_text(compiled)} and needs {_text(needed)} or later, but "
            f"{librdkafka_version} is loaded. Install kafka-async-native again, from source: "
            "pip install --force-reinstall --no-binary :all: kafka-async-native"
        )


def _text(version: int) -> str:
    return f"{version >> 24}.{version >> 16 & 0xFF}.{version >> 8 & 0xFF}"
