"""`c/checkpoint` and `c/era`: what the governance root last said about the whole chain."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.header import HEADER_BYTES_MAX
from ledger.records.codec import RECORD_SCHEMA, close_record, open_record, read_key_ids
from protocol.digest import Digest
from protocol.encoding import encode_canonical
from protocol.group import OWNERS_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRecord:
    """`c/checkpoint`: the newest checkpoint."""

    header: bytes
    """The header it names, encoded; it closes an epoch."""
    signers: tuple[Digest, ...]
    """Key ids of the governance keys that approved, ascending."""

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical({0: RECORD_SCHEMA, 1: self.header, 2: self.signers})

    @classmethod
    def decode(cls, data: bytes) -> CheckpointRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "checkpoint")
        record = cls(
            header=fields.bytes(1, maximum=HEADER_BYTES_MAX),
            signers=read_key_ids(fields.digests(2, minimum=1, maximum=OWNERS_MAX)),
        )
        close_record(fields, "checkpoint")
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class EraRecord:
    """`c/era`: how the current era began; absent in the first one."""

    era: int
    """Number of the era, from 1."""
    plan: Digest
    """Digest of the recovery plan."""
    height: int
    """Height of the era's first block."""

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical({0: RECORD_SCHEMA, 1: self.era, 2: self.plan, 3: self.height})

    @classmethod
    def decode(cls, data: bytes) -> EraRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "era")
        record = cls(era=fields.uint(1, minimum=1), plan=fields.digest(2), height=fields.uint(3))
        close_record(fields, "era")
        return record
