"""`t/<group>` and `op/<publisher><group>`: what a tenant has used up, and what it holds open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.records.codec import RECORD_SCHEMA, close_record, open_record
from protocol.digest import ManifestId
from protocol.encoding import encode_canonical

OPEN_PROPOSALS_MAX: Final = 64
"""Manifests of one publisher that wait for owners in one group: every node keeps them parsed, at
most 16 KiB each, so a publisher gone bad costs 1 MiB a group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantRecord:
    """`t/<group>`: what the gateways of a group have used up. An absent record is all zero."""

    hour: int = 0
    """Hour of header time (since 1970) that `hour_count` counts."""
    hour_count: int = 0
    """Transactions in that hour."""
    state_bytes: int = 0
    """State that its transactions added, bytes, for good."""

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical(
            {0: RECORD_SCHEMA, 1: self.hour, 2: self.hour_count, 3: self.state_bytes}
        )

    @classmethod
    def decode(cls, data: bytes) -> TenantRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "tenant")
        record = cls(hour=fields.uint(1), hour_count=fields.uint(2), state_bytes=fields.uint(3))
        close_record(fields, "tenant")
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenProposals:
    """`op/<publisher><group>`: manifests that may still wait for owners.

    Whether one still waits follows from its own record and the latest release; those that no
    longer do are swept when the list is full, so that nothing else has to know of it.
    """

    manifests: tuple[ManifestId, ...] = ()
    """Ids in the order of their proposals, at most 64."""

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical({0: RECORD_SCHEMA, 1: list(self.manifests)})

    @classmethod
    def decode(cls, data: bytes) -> OpenProposals:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "open proposals")
        found = fields.digests(1, maximum=OPEN_PROPOSALS_MAX)
        record = cls(manifests=tuple(ManifestId(item) for item in found))
        close_record(fields, "open proposals")
        return record
