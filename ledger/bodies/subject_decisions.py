"""Bodies of what owners and governance decide about a subject: status, recovery, attributes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from ledger.bodies.codec import MapValue, read_approval_list, read_approvals
from ledger.bodies.subject import read_signature
from ledger.records.subject import Attributes, attributes_to_value, read_attributes
from protocol.did import KEYS_MAX, Keys, keys_from_value, keys_to_value
from protocol.digest import ChainId, DidId, Digest, tagged_digest
from protocol.encoding import Fields, Value, encode_canonical
from protocol.group import check_group_name
from protocol.keys import signing_context
from protocol.limits import TARGET_GROUPS_MAX

RECOVERY_TAG: Final = "swarmd/recover/1"
"""Domain of the signatures by which keys show that they can take over."""


class Decider(IntEnum):
    """Who decides about a subject's keys."""

    GROUPS = 1
    """Owners of every group it belongs to."""
    GOVERNANCE = 2
    """The governance root."""


def resume_digest(did: DidId, changes: int) -> Digest:
    """What RESUME approvals are about: the subject, and how often owners decided about it before.

    An approval of one resumption thus does not serve after the next suspension.
    """
    return tagged_digest("swarmd/resume/1", encode_canonical([did, changes]))


def recovery_digest(
    did: DidId, *, sequence: int, number: int, keys: Keys, next_keys: Digest | None
) -> Digest:
    """What RECOVER approvals are about.

    Args:
        did: whose keys.
        sequence: the subject's rotation count once the keys rule.
        number: decisions about the subject before this one.
        keys: the keys that shall rule.
        next_keys: commitment to the ones after them.
    """
    fields: list[Value] = [did, sequence, number, keys_to_value(keys), next_keys]
    return tagged_digest("swarmd/key-recovery/1", encode_canonical(fields))


def recovery_message(chain: ChainId, era: int, digest: Digest) -> bytes:
    """The bytes that every new key signs: the `recovery_digest` in its domain."""
    return signing_context(RECOVERY_TAG, chain, era) + encode_canonical([digest])


def attributes_digest(did: DidId, group: str, version: int, attributes: Attributes) -> Digest:
    """What CERTIFY approvals are about; `version` is the count of certifications with this one."""
    fields: list[Value] = [did, group, version, attributes_to_value(attributes)]
    return tagged_digest("swarmd/attributes/1", encode_canonical(fields))


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeSubject:
    """`did.resume`: ends a suspension, by the owners who imposed it."""

    did: DidId
    """Whom."""
    group: str
    """The group whose owners suspended it."""
    approvals: tuple[bytes, ...]
    """RESUME approvals of `resume_digest`, 1 to 32."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.did, 1: self.group, 2: list(self.approvals)}

    @classmethod
    def read(cls, fields: Fields) -> ResumeSubject:
        """Reads the wire form; raises EncodingError."""
        return cls(
            did=DidId(fields.digest(0)),
            group=check_group_name(fields.name(1)),
            approvals=read_approvals(fields, 2),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeSubject:
    """`did.revoke`: ends a subject for good."""

    did: DidId
    """Whom."""
    group: str | None
    """A group it belongs to, whose owners decide; None: the governance root decides."""
    approvals: tuple[bytes, ...]
    """RETIRE approvals of the DID, 1 to 32."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.did, 1: self.group, 2: list(self.approvals)}

    @classmethod
    def read(cls, fields: Fields) -> RevokeSubject:
        """Reads the wire form; raises EncodingError."""
        return cls(
            did=DidId(fields.digest(0)),
            group=None if fields.value(1) is None else check_group_name(fields.name(1)),
            approvals=read_approvals(fields, 2),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverKeys:
    """`did.recover`: decides on new keys for a subject that lost its own; they rule after a delay
    and a `did.claim`, unless its committed keys take over first.
    """

    did: DidId
    """Whose keys."""
    keys: Keys
    """The new keys."""
    next_keys: Digest | None
    """Commitment to the ones after them; None: the last ones."""
    signatures: tuple[bytes, ...]
    """By each new key over `recovery_message`, in the order of `keys`."""
    decider: Decider
    """Who decides."""
    approvals: tuple[tuple[bytes, ...], ...]
    """RECOVER approvals of `recovery_digest`: one list for each group of the record, in its order,
    or one list by governance keys."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {
            0: self.did,
            1: keys_to_value(self.keys),
            2: self.next_keys,
            3: list(self.signatures),
            4: int(self.decider),
            5: [list(entry) for entry in self.approvals],
        }

    @classmethod
    def read(cls, fields: Fields) -> RecoverKeys:
        """Reads the wire form; raises EncodingError."""
        return cls(
            did=DidId(fields.digest(0)),
            keys=keys_from_value(fields.array(1, maximum=KEYS_MAX)),
            next_keys=None if fields.value(2) is None else fields.digest(2),
            signatures=fields.items(3, read_signature, maximum=KEYS_MAX),
            decider=fields.enum(4, Decider),
            approvals=fields.items(5, read_approval_list, minimum=1, maximum=TARGET_GROUPS_MAX),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimKeys:
    """`did.claim`: puts recovered keys in force once their delay is over."""

    did: DidId
    """Whose keys."""
    keys: Keys
    """The keys of the pending recovery."""
    next_keys: Digest | None
    """Their commitment."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.did, 1: keys_to_value(self.keys), 2: self.next_keys}

    @classmethod
    def read(cls, fields: Fields) -> ClaimKeys:
        """Reads the wire form; raises EncodingError."""
        return cls(
            did=DidId(fields.digest(0)),
            keys=keys_from_value(fields.array(1, maximum=KEYS_MAX)),
            next_keys=None if fields.value(2) is None else fields.digest(2),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifySubject:
    """`did.certify`: states a subject's attributes in a group, in place of all earlier ones."""

    did: DidId
    """Of whom."""
    group: str
    """In which group."""
    attributes: Attributes
    """At most 16, ascending by name."""
    approvals: tuple[bytes, ...]
    """CERTIFY approvals of `attributes_digest`, 1 to 32."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {
            0: self.did,
            1: self.group,
            2: attributes_to_value(self.attributes),
            3: list(self.approvals),
        }

    @classmethod
    def read(cls, fields: Fields) -> CertifySubject:
        """Reads the wire form; raises EncodingError."""
        return cls(
            did=DidId(fields.digest(0)),
            group=check_group_name(fields.name(1)),
            attributes=read_attributes(fields, 2),
            approvals=read_approvals(fields, 3),
        )
