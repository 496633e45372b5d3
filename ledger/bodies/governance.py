"""Body of `gov.checkpoint`."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.bodies.codec import MapValue, read_approvals
from ledger.header import HEADER_BYTES_MAX
from protocol.encoding import Fields


@dataclass(frozen=True, slots=True, kw_only=True)
class SetCheckpoint:
    """`gov.checkpoint`: records the governance root's word for a header that closed an epoch."""

    header: bytes
    """The header, encoded."""
    approvals: tuple[bytes, ...]
    """CHECKPOINT approvals by governance keys, 1 to 32."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.header, 1: list(self.approvals)}

    @classmethod
    def read(cls, fields: Fields) -> SetCheckpoint:
        """Reads the wire form; raises EncodingError."""
        return cls(
            header=fields.bytes(0, maximum=HEADER_BYTES_MAX), approvals=read_approvals(fields, 1)
        )
