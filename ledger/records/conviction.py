"""`e/`: a validator that contradicted itself."""

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
class ConvictionRecord:
    """`e/<epoch><signer>`: a validator that contradicted itself."""

    evidence: Digest
    """SHA-256 of the evidence, which stands in the block of `height`."""
    height: int
    """Height at which it was recorded."""

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical({0: RECORD_SCHEMA, 1: self.evidence, 2: self.height})

    @classmethod
    def decode(cls, data: bytes) -> ConvictionRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "conviction")
        record = cls(evidence=fields.digest(1), height=fields.uint(2))
        close_record(fields, "conviction")
        return record
