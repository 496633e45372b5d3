"""Canonical CBOR: one encoding for a value, and nothing else is accepted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.encoding import (
    INTEGER_MAX,
    INTEGER_MIN,
    Fields,
    Value,
    as_array,
    as_bytes,
    as_digest,
    as_uint,
    check_sorted_unique,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError
from protocol.limits import ENCODING_DEPTH_MAX

BYTES_MAX = 4096
keys = st.integers(INTEGER_MIN, INTEGER_MAX) | st.text(max_size=8)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(INTEGER_MIN, INTEGER_MAX)
    | st.binary(max_size=40)
    | st.text(max_size=20)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.slow
@given(value=values)
def test_what_was_encoded_is_decoded(value: Value) -> None:
    raw = encode_canonical(value)
    assert decode_canonical(raw, bytes_max=len(raw)) == value


@pytest.mark.slow
@given(items=st.dictionaries(keys, scalars, max_size=8), data=st.data())
def test_the_order_of_insertion_does_not_matter(
    items: dict[int | str, Value], data: st.DataObject
) -> None:
    shuffled = dict(data.draw(st.permutations(list(items.items()))))
    assert encode_canonical(shuffled) == encode_canonical(items)


@given(noise=st.binary(max_size=64))
def test_noise_is_refused_or_is_itself_canonical(noise: bytes) -> None:
    try:
        value = decode_canonical(noise, bytes_max=BYTES_MAX)
    except EncodingError:
        return
    assert encode_canonical(value) == noise


@pytest.mark.slow
@given(value=values, data=st.data())
def test_truncated_or_continued_bytes_are_refused(value: Value, data: st.DataObject) -> None:
    raw = encode_canonical(value)
    cut = data.draw(st.integers(0, len(raw) - 1))
    for wrong in (raw[:cut], raw + b"\0"):
        with pytest.raises(EncodingError):
            decode_canonical(wrong, bytes_max=BYTES_MAX)


REFUSED = {
    "long form of a small integer": "1800",
    "16-bit form of an 8-bit integer": "1900ff",
    "32-bit form of a 16-bit integer": "1a0000ffff",
    "64-bit form of a 32-bit integer": "1b00000000ffffffff",
    "long form of a length": "580161",
    "integer of more than 63 bits": "1b8000000000000000",
    "negative integer of more than 63 bits": "3b8000000000000000",
    "bignum": "c249010000000000000000",
    "half float": "f93c00",
    "single float": "fa3f800000",
    "double float": "fb3ff0000000000000",
    "not a number": "f97e00",
    "undefined": "f7",
    "simple value": "f820",
    "date tag": "c074323031332d30332d32315432303a30343a30305a",
    "self-described tag": "d9d9f700",
    "set tag": "d9010281f6",
    "shared reference": "d81c80",
    "string reference": "d9010080",
    "unknown tag": "d8ff00",
    "indefinite bytes": "5f4101ff",
    "indefinite text": "7f6161ff",
    "indefinite array": "9fff",
    "indefinite map": "bfff",
    "break alone": "ff",
    "duplicate key": "a201000101",
    "unsorted keys": "a202000100",
    "negative before positive key": "a220000100",
    "bytes as a key": "a1410000",
    "boolean as a key": "a1f500",
    "null as a key": "a1f600",
    "array as a key": "a18000",
    "text that is not UTF-8": "61ff",
    "text with a surrogate": "63eda080",
    "length beyond the input": "5a7fffffff00",
    "array of 2^62 items": "9b4000000000000000",
    "map of 2^62 items": "bb4000000000000000",
    "reserved additional information": "1c",
    "nothing": "",
    "two values": "0000",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_of_this_encoding_is_refused(name: str) -> None:
    with pytest.raises(EncodingError):
        decode_canonical(bytes.fromhex(REFUSED[name]), bytes_max=BYTES_MAX)


@pytest.mark.parametrize("opening", [b"\x81", b"\xa1\x00", b"\xd9\xd9\xf7"])
def test_depth_is_bounded(opening: bytes) -> None:
    for depth in (ENCODING_DEPTH_MAX + 1, ENCODING_DEPTH_MAX + 2, 100_000):
        with pytest.raises(EncodingError):
            decode_canonical(opening * depth + b"\x00", bytes_max=10**6)


def test_depth_up_to_the_bound_is_accepted() -> None:
    raw = b"\x81" * ENCODING_DEPTH_MAX + b"\x00"
    assert encode_canonical(decode_canonical(raw, bytes_max=BYTES_MAX)) == raw


def test_length_is_refused_before_the_content_is_looked_at() -> None:
    with pytest.raises(EncodingError, match="5 bytes, at most 4"):
        decode_canonical(b"\xff" * 5, bytes_max=4)


@pytest.mark.parametrize(
    "value",
    [1.0, INTEGER_MAX + 1, INTEGER_MIN - 1, {1}, object(), {b"x": 1}, {True: 1}, {None: 1},
     "\ud800", {"\ud800": 1}, [[2.5]], bytearray(b"x")],
)  # fmt: skip
def test_what_has_no_encoding_is_refused(value: object) -> None:
    with pytest.raises(EncodingError):
        encode_canonical(value)  # type: ignore[arg-type]  # the point of the test


def test_integer_and_text_keys_are_sorted_by_their_bytes() -> None:
    raw = encode_canonical({"b": 0, "aa": 0, -1: 0, 24: 0, 1: 0, "": 0})
    assert raw.hex() == "a6" + "0100" + "181800" + "2000" + "6000" + "616200" + "62616100"


FULL = {
    1: 7, 2: True, 3: b"abc", 4: bytes(32), 5: "text", 6: "name", 7: [1, 2], 8: [bytes(32)],
    9: {"k": 1}, -1: "extension", -70000: [0],
}  # fmt: skip


def read_full(value: Value) -> dict[int, object]:
    fields = Fields(value, "thing")
    found: dict[int, object] = {
        1: fields.uint(1, minimum=3, maximum=9),
        2: fields.boolean(2),
        3: fields.bytes(3, maximum=3),
        4: fields.digest(4),
        5: fields.text(5, maximum=4),
        6: fields.name(6),
        7: list(fields.items(7, lambda item: as_uint(item, "item"), maximum=2)),
        8: list(fields.digests(8, maximum=1)),
        9: fields.value(9),
    }
    return found | dict(fields.finish())


def test_fields_reads_every_kind_and_keeps_extensions() -> None:
    assert read_full(FULL) == FULL


WRONG: list[tuple[int, Value]] = [
    (1, 2), (1, 10), (1, True), (1, "7"), (1, None), (2, 1), (2, None), (3, "abc"), (3, b"abcd"),
    (4, bytes(31)), (4, bytes(33)), (5, b"text"), (5, "texts"), (5, "a\nb"), (5, "a\u202eb"),
    (5, "\ue000"), (6, ""), (6, "n" * 65), (7, [1, 2, 3]), (7, [-1]), (7, {0: 1}), (7, b"\x01"),
    (8, [bytes(31)]), (8, [bytes(32), bytes(32)]), (10, 0), (2**62, 0),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_one_wrong_field_is_refused_and_named(key: int, value: Value) -> None:
    with pytest.raises(EncodingError, match=r"thing|item"):
        read_full({**FULL, key: value})


@pytest.mark.parametrize("key", range(1, 10))
def test_one_missing_field_is_refused_and_named(key: int) -> None:
    with pytest.raises(EncodingError, match=f"field {key} is missing"):
        read_full({other: value for other, value in FULL.items() if other != key})


@pytest.mark.parametrize("value", [None, 1, b"", "", [], True])
def test_only_a_map_has_fields(value: Value) -> None:
    with pytest.raises(EncodingError, match="expected a map"):
        Fields(value, "thing")


def test_a_text_key_is_no_field() -> None:
    with pytest.raises(EncodingError, match="not an integer"):
        Fields({"x": 1}, "thing").finish()


def test_optional_fields() -> None:
    fields = Fields({1: 5}, "thing")
    assert fields.has(1)
    assert not fields.has(2)
    assert fields.optional(1, fields.uint) == 5
    assert fields.optional(2, fields.uint) is None
    assert fields.finish() == {}


def test_a_constant_must_have_its_value() -> None:
    Fields({1: 5}, "thing").constant(1, 5)
    with pytest.raises(EncodingError):
        Fields({1: 6}, "thing").constant(1, 5)


def test_bare_values() -> None:
    assert as_uint(3, "n", maximum=3) == 3
    assert as_bytes(b"ab", "b", size=2, maximum=2) == b"ab"
    assert as_digest(bytes(32), "d") == bytes(32)
    assert list(as_array([1, 2], "a", size=2)) == [1, 2]


@pytest.mark.parametrize(
    "read",
    [
        lambda: as_uint(4, "n", maximum=3),
        lambda: as_uint(-1, "n"),
        lambda: as_uint(False, "n"),
        lambda: as_bytes("ab", "b"),
        lambda: as_bytes(b"ab", "b", size=3),
        lambda: as_bytes(b"ab", "b", maximum=1),
        lambda: as_digest(bytes(31), "d"),
        lambda: as_array([1], "a", size=2),
        lambda: as_array(b"ab", "a", size=2),
    ],
)
def test_bare_values_of_another_form_are_refused(read: object) -> None:
    with pytest.raises(EncodingError):
        read()  # type: ignore[operator]  # a lambda above


def test_lists_that_must_ascend() -> None:
    check_sorted_unique([], "list")
    check_sorted_unique([b"a", b"aa", b"b"], "list")
    for wrong in ([b"b", b"a"], [b"a", b"a"]):
        with pytest.raises(EncodingError, match="ascending"):
            check_sorted_unique(wrong, "list")
