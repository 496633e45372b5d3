"""Body of `receipt.anchor`."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.bodies.codec import MapValue
from protocol.digest import Digest
from protocol.encoding import Fields


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorReceipts:
    """`receipt.anchor`: fixes the signer's receipt log as it is now."""

    size: int
    """Entries of the receipt log."""
    root: Digest
    """RFC 6962 root over them."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.size, 1: self.root}

    @classmethod
    def read(cls, fields: Fields) -> AnchorReceipts:
        """Reads the wire form; raises EncodingError."""
        return cls(size=fields.uint(0), root=fields.digest(1))
