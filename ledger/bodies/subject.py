"""Bodies of `did.*`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.bodies.codec import MapValue, read_approval_list, read_approvals
from protocol.did import (
    KEYS_MAX,
    JoinStatement,
    Keys,
    keys_from_value,
    keys_to_value,
)
from protocol.digest import ChainId, DidId, Digest
from protocol.encoding import Fields, Value, as_bytes, encode_canonical
from protocol.enrolment_token import SeatClaim
from protocol.group import check_group_name
from protocol.keys import SIGNATURE_BYTES, signing_context
from protocol.limits import TARGET_GROUPS_MAX

ROTATION_TAG: Final = "swarmd/rotate/1"
"""Domain of the signatures by which new keys take over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateSubject:
    """`did.create`: admits a subject by consent of each of its groups, given to it or to a seat."""

    join: JoinStatement
    """Its inception record, signed by all its keys."""
    approvals: tuple[tuple[bytes, ...], ...]
    """For each group of the record, in its order: ENROL approvals by that group's owners; none
    with a seat, unless its tokens ask for confirmation."""
    seat: SeatClaim | None = None
    """The seat it takes, which owners gave away before."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {
            0: self.join.to_value(),
            1: [list(entry) for entry in self.approvals],
            2: None if self.seat is None else self.seat.to_value(),
        }

    @classmethod
    def read(cls, fields: Fields) -> CreateSubject:
        """Reads the wire form; raises EncodingError."""
        return cls(
            join=JoinStatement.from_value(fields.value(0)),
            approvals=fields.items(1, read_approval_list, maximum=TARGET_GROUPS_MAX),
            seat=None if fields.value(2) is None else SeatClaim.from_value(fields.value(2)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RotateKeys:
    """`did.rotate`: replaces a subject's keys, but a vote key, by those it committed to."""

    did: DidId
    """Whose keys."""
    keys: Keys
    """The new keys; their digest is the current commitment."""
    next_keys: Digest | None
    """Commitment to the rotation after this one; None: the last one."""
    signatures: tuple[bytes, ...]
    """By each new key over `rotation_message`, in the order of `keys`."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {
            0: self.did,
            1: keys_to_value(self.keys),
            2: self.next_keys,
            3: list(self.signatures),
        }

    @classmethod
    def read(cls, fields: Fields) -> RotateKeys:
        """Reads the wire form; raises EncodingError."""
        return cls(
            did=DidId(fields.digest(0)),
            keys=keys_from_value(fields.array(1, maximum=KEYS_MAX)),
            next_keys=None if fields.value(2) is None else fields.digest(2),
            signatures=fields.items(3, read_signature, maximum=KEYS_MAX),
        )


def rotation_message(
    chain: ChainId, era: int, did: DidId, *, sequence: int, keys: Keys, next_keys: Digest | None
) -> bytes:
    """The bytes that every new key signs.

    Args:
        chain: chain of the ledger.
        era: era of the ledger.
        did: whose keys are replaced.
        sequence: the subject's rotation count after this one.
        keys: the new keys.
        next_keys: commitment to the rotation after this one.
    """
    return signing_context(ROTATION_TAG, chain, era) + encode_canonical(
        [did, sequence, keys_to_value(keys), next_keys]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspendSubject:
    """`did.suspend`: leaves a subject nothing but reading."""

    did: DidId
    """Whom."""
    group: str
    """A group the subject belongs to, whose owners decide."""
    approvals: tuple[bytes, ...]
    """SUSPEND approvals, 1 to 32."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.did, 1: self.group, 2: list(self.approvals)}

    @classmethod
    def read(cls, fields: Fields) -> SuspendSubject:
        """Reads the wire form; raises EncodingError."""
        return cls(
            did=DidId(fields.digest(0)),
            group=check_group_name(fields.name(1)),
            approvals=read_approvals(fields, 2),
        )


def read_signature(value: Value) -> bytes:
    """Reads a signature by a new key; raises EncodingError."""
    return as_bytes(value, "rotation signature", size=SIGNATURE_BYTES)
