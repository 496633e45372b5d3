"""What all records share: one schema number, strict fields, a bound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from protocol.digest import Digest
from protocol.encoding import (
    Fields,
    check_sorted_unique,
    decode_canonical,
)
from protocol.errors import EncodingError
from protocol.limits import KIB

RECORD_BYTES_MAX: Final = 16 * KIB
"""Longest record: a group's owner root of 32 keys with names takes about 4 KiB."""
RECORD_SCHEMA: Final = 1


def open_record(data: bytes, what: str) -> Fields:
    """Decodes a record and checks its schema number; raises EncodingError."""
    fields = Fields(decode_canonical(data, bytes_max=RECORD_BYTES_MAX), what)
    fields.constant(0, RECORD_SCHEMA)
    return fields


def close_record(fields: Fields, what: str) -> None:
    """Refuses fields that were not read, extensions among them; raises EncodingError."""
    if fields.finish():
        raise EncodingError(f"{what}: extensions are not allowed")


def nullable_uint(fields: Fields, key: int) -> int | None:
    """Reads a number or null; raises EncodingError."""
    return None if fields.value(key) is None else fields.uint(key)


def read_key_ids(key_ids: Sequence[Digest]) -> tuple[Digest, ...]:
    """Checks that key ids are ascending and distinct; raises EncodingError."""
    check_sorted_unique(key_ids, "key ids")
    return tuple(key_ids)
