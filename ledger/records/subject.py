"""`d/<did>`: a subject as it is now."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

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
    encode_canonical,
)
from protocol.keys import PublicKey


class SubjectStatus(IntEnum):
    """What a subject may do."""

    ACTIVE = 1
    """All that its kind and groups allow."""
    SUSPENDED = 2
    """Read the ledger, nothing else."""
    REVOKED = 3
    """Nothing; final."""


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
                0: RECORD_SCHEMA,
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
        fields = open_record(data, "subject")
        record = cls(
            kind=fields.enum(1, SubjectKind),
            name=fields.name(2),
            keys=keys_from_value(fields.array(3, maximum=KEYS_MAX)),
            next_keys=None if fields.value(4) is None else fields.digest(4),
            groups=read_groups(fields, 5, minimum=0),
            status=fields.enum(6, SubjectStatus),
            sequence=fields.uint(7),
        )
        close_record(fields, "subject")
        return record
