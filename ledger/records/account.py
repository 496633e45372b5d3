"""`n/<did>`: what a signer has used up."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.records.codec import (
    RECORD_SCHEMA,
    close_record,
    open_record,
)
from protocol.encoding import (
    encode_canonical,
)
from protocol.limits import NONCE_WINDOW


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRecord:
    """`n/<did>`: what a signer has used up. An absent record is `AccountRecord()`."""

    nonce: int = 0
    """Lowest unused nonce."""
    used: int = 0
    """Bit i: nonce + i is used; bit 0 is never set, at most 16 bits."""
    hour: int = 0
    """Hour of header time (since 1970) that `hour_count` counts."""
    hour_count: int = 0
    """Transactions in that hour."""
    ledger_bytes: int = 0
    """Bytes its transactions and the state they added take, for good."""
    guarded_count: int = 0
    """Transactions in that hour of protecting kinds that have an hourly bound of their own."""

    def is_used(self, nonce: int) -> bool:
        """Tells whether a nonce was used."""
        return nonce < self.nonce or bool(self.used >> (nonce - self.nonce) & 1)

    def with_nonce(self, nonce: int) -> tuple[int, int]:
        """Marks an unused nonce within the window; returns the new (nonce, used)."""
        assert not self.is_used(nonce), "the caller checks that the nonce is unused"
        assert nonce < self.nonce + NONCE_WINDOW, "the caller checks the window"
        lowest, used = self.nonce, self.used | 1 << (nonce - self.nonce)
        while used & 1:
            lowest, used = lowest + 1, used >> 1
        return lowest, used

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical(
            {
                0: RECORD_SCHEMA,
                1: self.nonce,
                2: self.used,
                3: self.hour,
                4: self.hour_count,
                5: self.ledger_bytes,
                6: self.guarded_count,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> AccountRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "account")
        record = cls(
            nonce=fields.uint(1),
            used=fields.uint(2, maximum=(1 << NONCE_WINDOW) - 1),
            hour=fields.uint(3),
            hour_count=fields.uint(4),
            ledger_bytes=fields.uint(5),
            guarded_count=fields.uint(6),
        )
        close_record(fields, "account")
        return record
