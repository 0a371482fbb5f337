"""Names of Kafka's requests and errors, as numbers."""

from __future__ import annotations

import difflib
import functools
import operator
from collections.abc import Sequence

from kafka_async._native import ffi, lib

# Kafka's ApiKeys that librdkafka's mock cluster injects errors into, with the first version that does. Its handlers
# of others (Metadata) never look for an error: they would pass in silence.
_APIS = {
    "Produce": (0, 0x02_00_02),
    "Fetch": (1, 0x02_00_02),
    "ListOffsets": (2, 0x02_00_02),
    "OffsetCommit": (8, 0x02_00_02),
    "OffsetFetch": (9, 0x02_00_02),
    "FindCoordinator": (10, 0x02_00_02),
    "JoinGroup": (11, 0x02_00_02),
    "Heartbeat": (12, 0x02_00_02),
    "LeaveGroup": (13, 0x02_00_02),
    "SyncGroup": (14, 0x02_00_02),
    "ApiVersions": (18, 0x02_00_02),
    "InitProducerId": (22, 0x02_00_02),
    "OffsetForLeaderEpoch": (23, 0x02_01_00),
    "AddPartitionsToTxn": (24, 0x02_00_02),
    "AddOffsetsToTxn": (25, 0x02_00_02),
    "EndTxn": (26, 0x02_00_02),
    "TxnOffsetCommit": (28, 0x02_00_02),
    "ConsumerGroupHeartbeat": (68, 0x02_0C_00),
}
_TRANSPORT = -195
_UNKNOWN = -(2**31)  # nobody's code


def api_number(api: str | int) -> int:
    """Turn an API into its number.

    Parameters
    ----------
    api : str or int
        Its name in any case, or its number.

    Returns
    -------
    int
        Kafka's ApiKey.

    Raises
    ------
    TypeError
        It is neither.
    ValueError
        No errors can be injected into it.
    """
    apis = _apis()
    number = apis.get(api.lower(), -1) if isinstance(api, str) else _integer(api, "api")
    if number not in apis.values():
        names = ", ".join(name for name in _APIS if name.lower() in apis)
        raise ValueError(f"the embedded cluster can't inject errors into {api!r}: use one of {names}")
    return number


def error_codes(errors: str | int | Sequence[str | int | None] | None) -> list[int]:
    """Turn errors into their codes.

    Parameters
    ----------
    errors : str, int, None, or a sequence of them
        Names in any case, or codes; None is no error.

    Returns
    -------
    list of int

    Raises
    ------
    TypeError
        It is none of these.
    ValueError
        There is no such error, or none that a broker could answer with.
    """
    if isinstance(errors, Sequence) and not isinstance(errors, (str, bytes, bytearray)):
        return [_error_code(error) for error in errors]
    return [_error_code(errors)]


@functools.cache
def _apis() -> dict[str, int]:
    """List what the librdkafka in use supports, by name in lower case."""
    version = lib.ka_librdkafka_version_linked() >> 8
    return {name.lower(): number for name, (number, since) in _APIS.items() if since <= version}


def _error_code(error: object) -> int:
    if error is None:
        return 0
    known = _errors()
    code = known.get(error.upper(), _UNKNOWN) if isinstance(error, str) else _integer(error, "errors")
    if code not in known.values():
        alike = difflib.get_close_matches(str(error).upper(), known, n=3)
        raise ValueError(
            f"a broker can't answer with {error!r}: use a name of Kafka's protocol such as "
            f"{' or '.join(alike or ['NOT_ENOUGH_REPLICAS'])}, its code, _TRANSPORT to close the connection, "
            "or None for no error"
        )
    return code


@functools.cache
def _errors() -> dict[str, int]:
    """List Kafka's errors, as librdkafka does, and of librdkafka's own the one that its mock cluster takes."""
    error = ffi.new("ka_error *")
    known = {}
    index = 0
    while (status := lib.ka_mock_error(index, error)) != lib.KA_EMPTY:
        if status == lib.KA_OK and (error.code >= -1 or error.code == _TRANSPORT):
            known[ffi.string(error.name).decode()] = error.code
        index += 1
    return known


def _integer(value: object, what: str) -> int:
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{what}: names (str) or numbers (int) are wanted, not {type(value).__name__}") from None
