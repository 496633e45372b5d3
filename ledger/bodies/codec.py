"""What bodies share: the map they are, and lists of approvals."""

from __future__ import annotations

from collections.abc import Mapping

from protocol.approval import APPROVAL_BYTES_MAX
from protocol.encoding import Fields, Value, as_bytes
from protocol.errors import EncodingError
from protocol.group import OWNERS_MAX

MapValue = Mapping[int | str, Value]
"""A body as the envelope carries it."""


def read_approval(value: Value) -> bytes:
    """Reads one signed approval, at most 512 bytes; raises EncodingError."""
    return as_bytes(value, "approval", maximum=APPROVAL_BYTES_MAX)


def read_approvals(fields: Fields, key: int) -> tuple[bytes, ...]:
    """Reads a field with 1 to 32 signed approvals; raises EncodingError."""
    return fields.items(key, read_approval, minimum=1, maximum=OWNERS_MAX)


def read_approval_list(value: Value) -> tuple[bytes, ...]:
    """Reads a list of 1 to 32 signed approvals; raises EncodingError."""
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= OWNERS_MAX:
        raise EncodingError(f"approvals are not a list of 1 to {OWNERS_MAX}")
    return tuple(read_approval(item) for item in value)
