"""`d/<did>`: a subject as it is now."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from ledger.records.codec import (
    RECORD_SCHEMA,
    close_record,
    open_record,
)
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
from protocol.digest import Digest
from protocol.encoding import (
    Fields,
    Value,
    as_array,
    as_digest,
    as_uint,
    check_identifier,
    check_sorted_unique,
    check_text,
    encode_canonical,
)
from protocol.errors import EncodingError
from protocol.keys import PublicKey
from protocol.limits import NAME_BYTES_MAX

ATTRIBUTES_MAX: Final = 16
"""Attributes that owners may certify of one subject in one group."""
Attributes = tuple[tuple[str, str], ...]
"""Names (identifiers) and values (1 to 64 bytes of display text), ascending by name."""


class SubjectStatus(IntEnum):
    """What a subject may do."""

    ACTIVE = 1
    """All that its kind and groups allow."""
    SUSPENDED = 2
    """Read the ledger, nothing else."""
    REVOKED = 3
    """Nothing; final."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingRecovery:
    """Keys that owners or governance have decided on and that do not rule yet."""

    digest: Digest
    """`recovery_digest` of the keys and their commitment."""
    number: int
    """Owners' decisions about the subject before this one, as in the digest."""
    effective_ms: int
    """Header time from which they may be claimed, milliseconds."""

    def to_value(self) -> Value:
        """The wire form: [digest, number, effective]."""
        return [self.digest, self.number, self.effective_ms]

    @classmethod
    def from_value(cls, value: Value) -> PendingRecovery:
        """Reads the wire form; raises EncodingError."""
        digest, number, effective = as_array(value, "pending recovery", size=3)
        return cls(
            digest=as_digest(digest, "pending recovery"),
            number=as_uint(number, "pending recovery's number"),
            effective_ms=as_uint(effective, "pending recovery's time"),
        )


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
    """Key rotations and recoveries so far."""
    suspended_by: tuple[str, ...] = ()
    """Groups whose owners have suspended it and not resumed it, ascending."""
    changes: int = 0
    """Decisions of owners or governance about it so far; what they sign names it (I45)."""
    pending: PendingRecovery | None = None
    """A recovery that waits."""

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
                0: RECORD_SCHEMA,
                1: int(self.kind),
                2: self.name,
                3: keys_to_value(self.keys),
                4: self.next_keys,
                5: self.groups,
                6: int(self.status),
                7: self.sequence,
                8: self.suspended_by,
                9: self.changes,
                10: None if self.pending is None else self.pending.to_value(),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> SubjectRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "subject")
        record = cls(
            kind=fields.enum(1, SubjectKind),
            name=fields.name(2),
            keys=keys_from_value(fields.array(3, maximum=KEYS_MAX)),
            next_keys=None if fields.value(4) is None else fields.digest(4),
            groups=read_groups(fields, 5, minimum=0),
            status=fields.enum(6, SubjectStatus),
            sequence=fields.uint(7),
            suspended_by=read_groups(fields, 8, minimum=0),
            changes=fields.uint(9),
            pending=_read_pending(fields, 10),
        )
        close_record(fields, "subject")
        return record


def _read_pending(fields: Fields, key: int) -> PendingRecovery | None:
    return None if fields.value(key) is None else PendingRecovery.from_value(fields.value(key))


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributesRecord:
    """`at/<did><group>`: what a group's owners certify of a subject."""

    version: int
    """Certifications so far; what owners sign names it."""
    attributes: Attributes
    """The newest certification; it replaces all earlier ones."""

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical(
            {0: RECORD_SCHEMA, 1: self.version, 2: attributes_to_value(self.attributes)}
        )

    @classmethod
    def decode(cls, data: bytes) -> AttributesRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "attributes")
        record = cls(version=fields.uint(1, minimum=1), attributes=read_attributes(fields, 2))
        close_record(fields, "attributes")
        return record


def attributes_to_value(attributes: Attributes) -> Value:
    """The wire form: [[name, value], ...]."""
    return [list(entry) for entry in attributes]


def read_attributes(fields: Fields, key: int) -> Attributes:
    """Reads a field of at most 16 attributes, strictly ascending by name; raises EncodingError."""

    def read(item: Value) -> tuple[str, str]:
        name, value = as_array(item, "attribute", size=2)
        if not isinstance(name, str) or not isinstance(value, str):
            raise EncodingError("attribute: name and value are texts")
        check_identifier(name, "attribute's name")
        check_text(value, f"attribute {name}", maximum=NAME_BYTES_MAX, empty=False)
        return name, value

    attributes = fields.items(key, read, maximum=ATTRIBUTES_MAX)
    check_sorted_unique((name.encode() for name, _ in attributes), "attributes")
    return attributes
