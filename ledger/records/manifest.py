"""`m/` and `l/`: where a manifest stands in a group, and the newest release."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from ledger.records.codec import (
    RECORD_SCHEMA,
    close_record,
    nullable_uint,
    open_record,
    read_key_ids,
)
from protocol.digest import DidId, Digest, ManifestId, PolicyId
from protocol.encoding import (
    encode_canonical,
)
from protocol.rule import HOLDERS_MAX

SIGNERS_MAX: Final = 2 * HOLDERS_MAX
"""Signers of one kind that a record lists: two roots full of keys, for rotations happen while a
manifest waits; later ones are turned away."""


class ManifestStatus(IntEnum):
    """Where a manifest stands in one group. Expiry is no status: it follows from header time."""

    PROPOSED = 1
    """Waits for approvals."""
    AUTHORISED = 2
    """Its policy was satisfied."""
    REVOKED = 3
    """Taken back for good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRecord:
    """`m/<manifest id><group>`: where a manifest stands in one group."""

    status: ManifestStatus
    """Where it stands, apart from expiry."""
    publisher: DidId
    """Who signed and proposed it."""
    product: str
    """What it is for."""
    sequence: int
    """Its sequence number."""
    policy: PolicyId
    """Policy in force at its proposal; it is judged under this one for good."""
    expires_ms: int | None
    """Header time after which it is no longer authorised, milliseconds."""
    proposed_height: int
    """Height of its proposal."""
    proposed_ms: int
    """Header time of its proposal, milliseconds."""
    authorised_height: int | None = None
    """Height at which its policy was satisfied."""
    revoked_height: int | None = None
    """Height at which enough owners had revoked it."""
    approvers: tuple[Digest, ...] = ()
    """Key ids that approved, ascending, owners' and those of other roles; see `approval_key`."""
    revokers: tuple[Digest, ...] = ()
    """Key ids of the owners that revoked, ascending."""
    authorised_ms: int | None = None
    """Header time at which its policy was satisfied, milliseconds."""
    root_version: int | None = None
    """Version of the owner root whose keys counted then."""
    attesters: tuple[Digest, ...] = ()
    """Key ids of the builders that attested its image, ascending."""
    is_override: bool = False
    """Whether owners let it pass pauses and freezes."""

    def is_expired(self, time_ms: int) -> bool:
        """Tells whether it is past its expiry at a header time."""
        return self.expires_ms is not None and time_ms > self.expires_ms

    def is_authorised(self, time_ms: int) -> bool:
        """Tells whether it is authorised, unrevoked and unexpired at a header time."""
        return self.status is ManifestStatus.AUTHORISED and not self.is_expired(time_ms)

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical(
            {
                0: RECORD_SCHEMA,
                1: int(self.status),
                2: self.publisher,
                3: self.product,
                4: self.sequence,
                5: self.policy,
                6: self.expires_ms,
                7: self.proposed_height,
                8: self.authorised_height,
                9: self.revoked_height,
                10: self.approvers,
                11: self.revokers,
                12: self.proposed_ms,
                13: self.authorised_ms,
                14: self.root_version,
                15: self.attesters,
                16: self.is_override,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> ManifestRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "manifest record")
        record = cls(
            status=fields.enum(1, ManifestStatus),
            publisher=DidId(fields.digest(2)),
            product=fields.name(3),
            sequence=fields.uint(4, minimum=1),
            policy=PolicyId(fields.digest(5)),
            expires_ms=nullable_uint(fields, 6),
            proposed_height=fields.uint(7),
            authorised_height=nullable_uint(fields, 8),
            revoked_height=nullable_uint(fields, 9),
            approvers=read_key_ids(fields.digests(10, maximum=SIGNERS_MAX)),
            revokers=read_key_ids(fields.digests(11, maximum=SIGNERS_MAX)),
            proposed_ms=fields.uint(12),
            authorised_ms=nullable_uint(fields, 13),
            root_version=nullable_uint(fields, 14),
            attesters=read_key_ids(fields.digests(15, maximum=SIGNERS_MAX)),
            is_override=fields.boolean(16),
        )
        close_record(fields, "manifest record")
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class LatestRecord:
    """`l/<group>/<product>`: the newest authorised release; the floor against rollback."""

    manifest: ManifestId
    """Which manifest."""
    sequence: int
    """Its sequence; nothing at or below it can be authorised any more."""

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical({0: RECORD_SCHEMA, 1: self.manifest, 2: self.sequence})

    @classmethod
    def decode(cls, data: bytes) -> LatestRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "latest release")
        record = cls(manifest=ManifestId(fields.digest(1)), sequence=fields.uint(2))
        close_record(fields, "latest release")
        return record
