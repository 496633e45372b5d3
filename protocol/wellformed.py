"""A first look at untrusted CBOR that allocates nothing: structure and number of items.

A megabyte of empty arrays is a megabyte on the wire and sixty in memory, and takes over a second to
decode. So bytes are walked once, head by head, before any object is made: whatever is outside the
value space of `protocol.encoding`, truncated, or of more items than the reader expects ends here.
What passes may still be non-canonical (long integers, unsorted or repeated keys, bad UTF-8).
"""

from __future__ import annotations

from typing import Final

from protocol.errors import EncodingError

_BYTE_STRING: Final = 2
_TEXT_STRING: Final = 3
_ARRAY: Final = 4
_MAP: Final = 5
_TAG: Final = 6
_SIMPLE: Final = 7
_SIMPLE_VALUES: Final = (20, 21, 22)
"""false, true and null (RFC 8949, section 3.3)."""
_ARGUMENT_BYTES: Final = {24: 1, 25: 2, 26: 4, 27: 8}
"""Additional information to bytes of the argument that follow (RFC 8949, section 3)."""


def check_well_formed(data: bytes, *, items_max: int) -> None:
    """Checks that `data` is exactly one data item of this protocol's types.

    Takes time in the number of items looked at, which is at most `items_max`, and constant memory.

    Args:
        data: untrusted bytes.
        items_max: most data items, containers and map keys included.

    Raises:
        EncodingError: truncated, bytes behind the item, too many items, a tag, a float, another
            simple value than false, true and null, or an indefinite length.
    """
    position, pending, seen, end = 0, 1, 0, len(data)
    while pending:
        if position >= end:
            raise EncodingError("truncated: a data item is missing")
        head = data[position]
        position += 1
        major, argument = head >> 5, head & 31
        if major >= _TAG:
            _check_simple(major, argument)
        elif argument > 23:
            argument, position = _argument(data, position, argument)
        pending -= 1
        seen += 1
        if major in (_BYTE_STRING, _TEXT_STRING):
            position += argument
        elif major in (_ARRAY, _MAP):
            pending += argument * (major - 3)  # a map has two items for each entry
        if seen + pending > items_max:
            raise EncodingError(f"more than {items_max} data items")
    if position > end:
        raise EncodingError("truncated: a string is longer than the input")
    if position < end:
        raise EncodingError(f"{end - position} bytes behind the value")


def _check_simple(major: int, information: int) -> None:
    if major == _TAG:
        raise EncodingError("tags are not part of this encoding")
    if information not in _SIMPLE_VALUES:
        raise EncodingError("floats and other simple values are not part of this encoding")


def _argument(data: bytes, position: int, information: int) -> tuple[int, int]:
    """Reads the argument that follows a head; returns it and the position behind it."""
    size = _ARGUMENT_BYTES.get(information)
    if size is None:
        raise EncodingError("indefinite lengths and reserved heads are not part of this encoding")
    raw = data[position : position + size]
    if len(raw) != size:
        raise EncodingError("truncated: a length is cut short")
    return int.from_bytes(raw, "big"), position + size
