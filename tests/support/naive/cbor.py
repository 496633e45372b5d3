"""Deterministic CBOR as P1 to P5 ask for it."""

from __future__ import annotations

from typing import Any

INTEGER_MAX = 2**63 - 1


class Malformed(Exception):
    """Bytes or values that are not what the schema allows."""


def head(major: int, number: int) -> bytes:
    """The shortest head of one data item."""
    if number < 24:
        return bytes([major << 5 | number])
    for code, width in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 256**width:
            return bytes([major << 5 | code]) + number.to_bytes(width, "big")
    raise Malformed("number too large")


def encode(value: Any) -> bytes:
    """The one encoding of a value."""
    if value is None:
        return b"\xf6"
    if value is False or value is True:
        return b"\xf5" if value else b"\xf4"
    if isinstance(value, int):
        return head(0, value) if value >= 0 else head(1, -1 - value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        raw = value.encode()
        return head(3, len(raw)) + raw
    if isinstance(value, (list, tuple)):
        return head(4, len(value)) + b"".join(encode(item) for item in value)
    pairs = sorted((encode(key), encode(item)) for key, item in value.items())
    return head(5, len(pairs)) + b"".join(key + item for key, item in pairs)


def decode(raw: bytes, limit: int, items: int = 4096) -> Any:
    """Reads one value of at most `limit` bytes; anything but its one encoding is malformed."""
    if len(raw) > limit:
        raise Malformed("too long")
    try:
        value, end, _ = _item(raw, 0, 0, items)
        if end != len(raw) or encode(value) != raw:
            raise Malformed("not the deterministic encoding")
    except (IndexError, UnicodeDecodeError, UnicodeEncodeError, TypeError) as error:
        raise Malformed(str(error)) from error
    return value


def _item(raw: bytes, at: int, depth: int, left: int) -> tuple[Any, int, int]:
    if left < 1:
        raise Malformed("too many items")
    left -= 1
    major, short = raw[at] >> 5, raw[at] & 31
    at += 1
    if major == 7:
        simple = {20: False, 21: True, 22: None}
        if short not in simple:
            raise Malformed("no such simple value")
        return simple[short], at, left
    if short > 27 or major == 6:
        raise Malformed("tag or indefinite length")
    number = short
    if short >= 24:
        width = 1 << (short - 24)
        if at + width > len(raw):
            raise Malformed("cut short")
        number, at = int.from_bytes(raw[at : at + width], "big"), at + width
    if major < 2:
        if number > INTEGER_MAX:
            raise Malformed("integer too large")
        return (-1 - number if major else number), at, left
    if major < 4:
        if at + number > len(raw):
            raise Malformed("cut short")
        data = raw[at : at + number]
        return (data.decode() if major == 3 else data), at + number, left
    return _container(raw, at, depth + 1, left, major, number)


def _container(
    raw: bytes, at: int, depth: int, left: int, major: int, number: int
) -> tuple[Any, int, int]:
    if depth > 12:
        raise Malformed("too deep")
    values = []
    for _ in range(number * (major - 3)):
        value, at, left = _item(raw, at, depth, left)
        values.append(value)
    if major == 4:
        return values, at, left
    keys = values[::2]
    if any(isinstance(key, bool) or not isinstance(key, (int, str)) for key in keys):
        raise Malformed("a key is an integer or a text")
    return dict(zip(keys, values[1::2], strict=True)), at, left
