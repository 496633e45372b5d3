"""`a/<did>`: the newest anchor of a node's receipt log."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.records.codec import (
    RECORD_SCHEMA,
    close_record,
    open_record,
)
from protocol.digest import Digest
from protocol.encoding import (
    encode_canonical,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorRecord:
    """`a/<did>`: the newest anchored root of a node's receipt log."""

    size: int
    """Entries of the receipt log."""
    root: Digest
    """RFC 6962 root over them."""
    height: int
    """Height at which it was anchored."""

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical({0: RECORD_SCHEMA, 1: self.size, 2: self.root, 3: self.height})

    @classmethod
    def decode(cls, data: bytes) -> AnchorRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "anchor")
        record = cls(size=fields.uint(1), root=fields.digest(2), height=fields.uint(3))
        close_record(fields, "anchor")
        return record
