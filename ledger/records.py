"""Values of the state tree, each in one canonical encoding.

Every record is a map that starts with its schema number. They are written by the transition only,
so that reading one that does not decode means a damaged store or a lying peer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from protocol.did import (
    KEYS_MAX,
    DidRecord,
    KeyPurpose,
    Keys,
    SubjectKind,
    keys_from_value,
    keys_to_value,
    read_groups,
)
from protocol.digest import DidId, Digest, ManifestId, PolicyId
from protocol.encoding import (
    Fields,
    Value,
    as_array,
    as_digest,
    as_uint,
    check_sorted_unique,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError
from protocol.group import OWNERS_MAX, OwnerRoot
from protocol.keys import PublicKey
from protocol.limits import KIB, NONCE_WINDOW

RECORD_BYTES_MAX: Final = 16 * KIB
"""Longest record: a group's owner root of 32 keys with names takes about 4 KiB."""
_SCHEMA: Final = 1


class SubjectStatus(IntEnum):
    """What a subject may do."""

    ACTIVE = 1
    """All that its kind and groups allow."""
    SUSPENDED = 2
    """Read the ledger, nothing else."""
    REVOKED = 3
    """Nothing; final."""


class ManifestStatus(IntEnum):
    """Where a manifest stands in one group. Expiry is no status: it follows from header time."""

    PROPOSED = 1
    """Waits for approvals."""
    AUTHORISED = 2
    """Its policy was satisfied."""
    REVOKED = 3
    """Taken back for good."""


def _fields(data: bytes, what: str) -> Fields:
    fields = Fields(decode_canonical(data, bytes_max=RECORD_BYTES_MAX), what)
    fields.constant(0, _SCHEMA)
    return fields


def _finish(fields: Fields, what: str) -> None:
    if fields.finish():
        raise EncodingError(f"{what}: extensions are not allowed")


def _nullable_uint(fields: Fields, key: int) -> int | None:
    return None if fields.value(key) is None else fields.uint(key)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectRecord:
    """`d/<did>`: a subject as it is now."""

    kind: SubjectKind
    """What it is."""
    name: str
    """For people, not unique."""
    keys: Keys
    """Current keys."""
    next_keys: Digest | None
    """Commitment to the keys of the next rotation; None: can never rotate."""
    groups: tuple[str, ...]
    """Device groups it belongs to, ascending."""
    status: SubjectStatus
    """What it may do."""
    sequence: int
    """Key rotations so far."""

    @classmethod
    def of(cls, record: DidRecord) -> SubjectRecord:
        """The first record of a subject that enters the ledger."""
        return cls(
            kind=record.kind,
            name=record.name,
            keys=record.keys,
            next_keys=record.next_keys,
            groups=record.groups,
            status=SubjectStatus.ACTIVE,
            sequence=0,
        )

    def key(self, purpose: KeyPurpose) -> PublicKey | None:
        """The current key of one purpose, or None if the kind has none."""
        return next((key for having, key in self.keys if having == purpose), None)

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical(
            {
                0: _SCHEMA,
                1: int(self.kind),
                2: self.name,
                3: keys_to_value(self.keys),
                4: self.next_keys,
                5: self.groups,
                6: int(self.status),
                7: self.sequence,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> SubjectRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = _fields(data, "subject")
        record = cls(
            kind=fields.enum(1, SubjectKind),
            name=fields.name(2),
            keys=keys_from_value(fields.array(3, maximum=KEYS_MAX)),
            next_keys=None if fields.value(4) is None else fields.digest(4),
            groups=read_groups(fields, 5, minimum=0),
            status=fields.enum(6, SubjectStatus),
            sequence=fields.uint(7),
        )
        _finish(fields, "subject")
        return record


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
                0: _SCHEMA,
                1: self.nonce,
                2: self.used,
                3: self.hour,
                4: self.hour_count,
                5: self.ledger_bytes,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> AccountRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = _fields(data, "account")
        record = cls(
            nonce=fields.uint(1),
            used=fields.uint(2, maximum=(1 << NONCE_WINDOW) - 1),
            hour=fields.uint(3),
            hour_count=fields.uint(4),
            ledger_bytes=fields.uint(5),
        )
        _finish(fields, "account")
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRecord:
    """`g/<group>`: who owns a group and which rules hold."""

    owner_root: OwnerRoot
    """What gateways of the group pin."""
    policy: PolicyId
    """Policy in force until `scheduled` takes effect."""
    scheduled: tuple[PolicyId, int] | None
    """Next policy and the header time from which it holds, milliseconds."""
    creators: tuple[Digest, ...]
    """Key ids of the governance approvals that created it, ascending; none: genesis did."""

    def policy_at(self, time_ms: int) -> PolicyId:
        """The policy in force at a header time."""
        if self.scheduled is not None and time_ms >= self.scheduled[1]:
            return self.scheduled[0]
        return self.policy

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical(
            {
                0: _SCHEMA,
                1: self.owner_root.to_value(),
                2: self.policy,
                3: self.scheduled,
                4: self.creators,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> GroupRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = _fields(data, "group")
        scheduled = fields.value(3)
        record = cls(
            owner_root=OwnerRoot.from_value(fields.value(1)),
            policy=PolicyId(fields.digest(2)),
            scheduled=None if scheduled is None else _read_scheduled(scheduled),
            creators=_read_key_ids(fields.digests(4, maximum=OWNERS_MAX)),
        )
        _finish(fields, "group")
        return record


def _read_scheduled(value: Value) -> tuple[PolicyId, int]:
    policy, time_ms = as_array(value, "scheduled policy", size=2)
    return PolicyId(as_digest(policy, "scheduled policy")), as_uint(time_ms, "scheduled policy")


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
    authorised_height: int | None = None
    """Height at which its policy was satisfied."""
    revoked_height: int | None = None
    """Height at which enough owners had revoked it."""
    approvers: tuple[Digest, ...] = ()
    """Key ids of the owners that approved, ascending; see `approval_key`."""
    revokers: tuple[Digest, ...] = ()
    """Key ids of the owners that revoked, ascending."""

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
                0: _SCHEMA,
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
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> ManifestRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = _fields(data, "manifest record")
        record = cls(
            status=fields.enum(1, ManifestStatus),
            publisher=DidId(fields.digest(2)),
            product=fields.name(3),
            sequence=fields.uint(4, minimum=1),
            policy=PolicyId(fields.digest(5)),
            expires_ms=_nullable_uint(fields, 6),
            proposed_height=fields.uint(7),
            authorised_height=_nullable_uint(fields, 8),
            revoked_height=_nullable_uint(fields, 9),
            approvers=_read_key_ids(fields.digests(10, maximum=OWNERS_MAX)),
            revokers=_read_key_ids(fields.digests(11, maximum=OWNERS_MAX)),
        )
        _finish(fields, "manifest record")
        return record


def _read_key_ids(key_ids: Sequence[Digest]) -> tuple[Digest, ...]:
    check_sorted_unique(key_ids, "key ids")
    return tuple(key_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatestRecord:
    """`l/<group>/<product>`: the newest authorised release; the floor against rollback."""

    manifest: ManifestId
    """Which manifest."""
    sequence: int
    """Its sequence; nothing at or below it can be authorised any more."""

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical({0: _SCHEMA, 1: self.manifest, 2: self.sequence})

    @classmethod
    def decode(cls, data: bytes) -> LatestRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = _fields(data, "latest release")
        record = cls(manifest=ManifestId(fields.digest(1)), sequence=fields.uint(2))
        _finish(fields, "latest release")
        return record


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
        return encode_canonical({0: _SCHEMA, 1: self.size, 2: self.root, 3: self.height})

    @classmethod
    def decode(cls, data: bytes) -> AnchorRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = _fields(data, "anchor")
        record = cls(size=fields.uint(1), root=fields.digest(2), height=fields.uint(3))
        _finish(fields, "anchor")
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvictionRecord:
    """`e/<epoch><signer>`: a validator that contradicted itself."""

    evidence: Digest
    """SHA-256 of the evidence, which stands in the block of `height`."""
    height: int
    """Height at which it was recorded."""

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical({0: _SCHEMA, 1: self.evidence, 2: self.height})

    @classmethod
    def decode(cls, data: bytes) -> ConvictionRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = _fields(data, "conviction")
        record = cls(evidence=fields.digest(1), height=fields.uint(2))
        _finish(fields, "conviction")
        return record
