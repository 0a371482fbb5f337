"""What the facade reads and writes as bytes and columns: any input comes back unchanged, or is refused."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kafka_async import ConfigError, Message, Record, TopicPartition, _columns
from kafka_async._batch import Batch
from kafka_async._native import ffi, lib
from kafka_async._payload import cross, integer, kept, size, view
from kafka_async.batch import MessageBatch
from kafka_async.config import _RESERVED_CONSUMER, Config, properties
from kafka_async.message import check_partition, native_offset, pack_headers, unpack_headers

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
PARTS = st.none() | st.binary(max_size=40)
HEADERS = st.lists(st.tuples(NAMES, PARTS | NAMES), max_size=4)
ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.tuples(st.text(), st.integers())
)


def encoded(data: bytes | str | None) -> bytes | None:
    return data.encode() if isinstance(data, str) else data


# ---------------------------------------------------------------- headers and payloads


@quick
@given(HEADERS)
def test_headers_come_back_in_order(headers: list[tuple[str, bytes | str | None]]) -> None:
    assert unpack_headers(pack_headers(headers)) == [(name, encoded(value)) for name, value in headers]


@quick
@given(st.lists(st.tuples(st.text() | st.integers(), ANYTHING), max_size=3) | ANYTHING)
def test_headers_of_any_kind_are_packed_or_refused(headers: object) -> None:
    try:
        packed = pack_headers(headers)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return
    pairs = headers.items() if isinstance(headers, dict) else headers
    assert len(unpack_headers(packed)) == len(list(pairs))  # type: ignore[call-overload]


@quick
@given(st.binary() | NAMES, st.sampled_from([lambda data: data, bytearray, memoryview]))
def test_a_payload_crosses_as_it_is(data: bytes | str, kind: type) -> None:
    given_as = data if isinstance(data, str) else kind(data)
    pointer, length = cross("value", given_as)
    wanted = encoded(data)
    assert (pointer[:length] if isinstance(pointer, bytes) else ffi.buffer(pointer, length)[:]) == wanted
    assert size(view("value", given_as)) == length
    assert kept(given_as) == wanted


@quick
@given(ANYTHING, st.integers(0, 9), st.integers(10, 99))
def test_an_integer_is_within_its_range_or_refused(number: object, least: int, most: int) -> None:
    good = isinstance(number, int) and not isinstance(number, bool) and least <= number <= most
    try:
        assert integer("n", number, most, least=least) == number  # type: ignore[arg-type]
        assert good
    except (TypeError, ValueError):
        assert not good


# ---------------------------------------------------------------- partitions and offsets


@quick
@given(ANYTHING | st.tuples(st.sampled_from(["tail", "timestamp", "head"]), st.integers() | st.booleans()))
def test_an_offset_fits_the_core_or_is_refused(offset: object) -> None:
    try:
        number = native_offset(offset)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return
    assert -(2**63) <= number < 2**63
    if isinstance(offset, int):
        assert number == offset >= 0


@quick
@given(ANYTHING | st.tuples(st.text() | st.integers(), st.integers() | st.text(), ANYTHING))
def test_a_partition_is_one_or_is_refused(item: object) -> None:
    try:
        checked = check_partition(item)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return
    assert isinstance(checked, TopicPartition)
    assert 0 <= checked.partition < 2**31
    assert checked.topic.isascii()
    assert checked.topic


# ---------------------------------------------------------------- columns


@st.composite
def records(draw: st.DrawFn) -> Record:
    partition = draw(st.none() | st.integers(0, 2**31 - 1))
    return Record(draw(PARTS | NAMES), draw(PARTS | NAMES), partition, draw(st.none() | st.integers(1)), draw(HEADERS))


def read_part(native: ffi.CData, name: str, index: int, at: int) -> tuple[bytes | None, int]:
    column = getattr(native, name)
    length = column[index] if column else -1
    return (None, at) if length < 0 else (ffi.buffer(native.data + at, length)[:], at + length)


@quick
@given(st.lists(records() | st.binary() | NAMES, min_size=1, max_size=6))
def test_the_columns_of_a_batch_hold_its_items(items: list[Record | bytes | str]) -> None:
    over = [item for item in items if isinstance(item, Record) and (item.timestamp_ms or 0) >= 2**63]
    if over:
        with pytest.raises(ValueError, match="timestamp_ms"):
            Batch(items, None)
        return
    batch = Batch(items, None)
    native, at = batch._native, 0
    for index, item in enumerate(items):
        record = item if isinstance(item, Record) else Record(item)
        value, at = read_part(native, "value_len", index, at)
        key, at = read_part(native, "key_len", index, at)
        headers, at = read_part(native, "headers_len", index, at)
        assert (value, key) == (encoded(record.value), encoded(record.key))
        assert headers == (pack_headers(record.headers) if record.headers else None)
        assert not native.partition or native.partition[index] == (-1 if record.partition is None else record.partition)
        assert not native.timestamp_ms or native.timestamp_ms[index] == (record.timestamp_ms or -1)


def native_messages(messages: Sequence[Message], topics: list[str]) -> ffi.CData:
    """Messages as the core lays them out."""
    at = ffi.sizeof("ka_messages") + lib.KA_COLUMNS * 8 * len(messages)
    rows, data = [], b""
    for m in messages:
        row = [topics.index(m.topic), m.partition, m.offset, m.timestamp_ms]
        row.append(_columns._TIMESTAMP_TYPES.index(m.timestamp_type))
        for part in (m.value, m.key, m.packed_headers):
            begin = at + len(data)
            data += part or b""
            row += [-1, -1] if part is None else [begin, at + len(data)]
        rows.append(row)
    cells = [cell for column in zip(*rows, strict=True) for cell in column]
    packed = struct.pack(f"={3 + len(cells)}q", len(messages), len(topics) - 1, at + len(data), *cells) + data
    return ffi.from_buffer("ka_messages *", packed)


@st.composite
def messages(draw: st.DrawFn) -> Message:
    stamp = draw(st.integers(-(2**63), 2**63 - 1))
    fields = draw(PARTS), draw(PARTS), draw(st.sampled_from("ab")), draw(st.integers(0, 2**31 - 1))
    rest = draw(st.integers(0, 2**63 - 1)), stamp, draw(st.sampled_from(["none", "create", "append"]))
    return Message(*fields, *rest, draw(HEADERS.filter(bool).map(pack_headers) | st.none()))


@quick
@given(st.lists(messages(), min_size=1, max_size=6))
def test_a_batch_shows_what_its_columns_say(wanted: list[Message]) -> None:
    batch = MessageBatch(native_messages(wanted, ["a", "b"]), ["a", "b"])
    assert list(batch) == wanted == [batch[i] for i in range(len(wanted))]
    assert batch.values() == [m.value for m in wanted]
    assert batch.keys() == [m.key for m in wanted]
    assert batch.topics() == [m.topic for m in wanted]
    assert batch.offsets.tolist() == [m.offset for m in wanted]


# ---------------------------------------------------------------- configuration

VALUES = st.text() | st.integers() | st.floats() | st.booleans() | st.none() | st.binary() | st.just(10**5000)


@quick
@given(st.text() | st.sampled_from(sorted(set(properties()) - {"plugin.library.paths"})), VALUES)
def test_a_property_is_taken_or_named_by_the_error(name: str, value: object) -> None:
    try:
        config = Config(lib.KA_CONSUMER, "x:1", {name: value}, {})  # type: ignore[dict-item]
    except ConfigError as error:
        named = error.property
    else:
        named = name
        assert config.get("bootstrap.servers") == "x:1"
    assert named == name


@quick
@given(st.sampled_from(sorted(_RESERVED_CONSUMER)), st.text(max_size=3), st.sampled_from(["\0", "\ud800"]))
def test_a_name_that_librdkafka_would_cut_short_is_refused(name: str, rest: str, bad: str) -> None:
    """Else it would pass for another than the one that is reserved."""
    with pytest.raises(ConfigError) as caught:
        Config(lib.KA_CONSUMER, "x:1", {name + bad + rest: "1"}, {})
    assert caught.value.property == name + bad + rest
