"""`se/<seat>`: a seat of an enrolment token that was taken."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.records.codec import RECORD_SCHEMA, close_record, open_record
from protocol.digest import DidId
from protocol.encoding import encode_canonical


@dataclass(frozen=True, slots=True, kw_only=True)
class SeatRecord:
    """Who took a seat; nobody takes it again."""

    did: DidId
    """The subject that entered by it."""
    height: int
    """Height of the block."""

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical({0: RECORD_SCHEMA, 1: self.did, 2: self.height})

    @classmethod
    def decode(cls, data: bytes) -> SeatRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "seat")
        record = cls(did=DidId(fields.digest(1)), height=fields.uint(2))
        close_record(fields, "seat")
        return record
