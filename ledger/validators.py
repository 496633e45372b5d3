"""Validator sets: who votes in an epoch, how many votes decide, who leads a view.

One validator, one vote. The fault limit and the quorum are computed here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.digest import DidId, Digest, tagged_digest
from protocol.encoding import (
    Fields,
    Value,
    as_array,
    as_digest,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError
from protocol.keys import PublicKey
from protocol.limits import KIB, VALIDATORS_MAX, VALIDATORS_MIN

VALIDATOR_SET_BYTES_MAX = 4 * KIB
"""Encoded set: 32 members of about 72 bytes each."""
_SCHEMA = 1


def quorum_of(count: int) -> int:
    """Q = n - floor((n - 1) / 3), the votes of one kind that make a certificate (C1)."""
    return count - (count - 1) // 3


@dataclass(frozen=True, slots=True)
class Validator:
    """One member of a set."""

    did: DidId
    """The subject that holds the seat, whatever keys it rotates to."""
    key: PublicKey | None
    """Vote key of this epoch; None: an empty seat, which counts in n and can never vote (E12)."""


@dataclass(frozen=True, slots=True)
class ValidatorSet:
    """The members of one epoch; a member's position is its index in votes and certificates."""

    epoch: int
    """Span of the chain with this set, from 1."""
    members: tuple[Validator, ...]
    """4 to 32 validators with distinct subjects and keys, in an agreed order; a quorum has keys."""
    digest: Digest = field(init=False, repr=False, compare=False)
    """Digest of the encoded set; headers commit to it."""
    fault_limit: int = field(init=False, repr=False, compare=False)
    """f = floor((n - 1) / 3): how many members may lie without harm (C1)."""
    quorum: int = field(init=False, repr=False, compare=False)
    """q = n - f: votes of one kind that make a certificate (C1)."""

    def __post_init__(self) -> None:
        """Refuses a set of wrong size or with a repeated subject or key.

        Raises:
            EncodingError: the members do not form a valid set.
        """
        count = len(self.members)
        if not VALIDATORS_MIN <= count <= VALIDATORS_MAX:
            raise EncodingError(
                f"{count} validators, expected {VALIDATORS_MIN} to {VALIDATORS_MAX}"
            )
        if len({member.did for member in self.members}) != count:
            raise EncodingError("a subject holds two seats of the validator set")
        keys = [member.key for member in self.members if member.key is not None]
        if len(set(keys)) != len(keys):
            raise EncodingError("a key appears twice in the validator set")
        if self.epoch < 0:
            raise EncodingError(f"epoch {self.epoch} is negative")
        fault_limit = count - quorum_of(count)
        if len(keys) < quorum_of(count):
            raise EncodingError(
                f"{len(keys)} of {count} seats have a key, at least {quorum_of(count)} must"
            )
        object.__setattr__(self, "fault_limit", fault_limit)
        object.__setattr__(self, "quorum", quorum_of(count))
        object.__setattr__(self, "digest", tagged_digest("swarmd/validators/1", self.encode()))

    def leader(self, view: int) -> int:
        """Index of the member that may propose in `view` (C4)."""
        return view % len(self.members)

    def index_of(self, key: PublicKey) -> int | None:
        """Index of the member that votes with `key`, or None."""
        for index, member in enumerate(self.members):
            if member.key == key:
                return index
        return None

    def seat_of(self, did: DidId) -> int | None:
        """Index of a subject's seat, empty or not, or None."""
        return next((i for i, member in enumerate(self.members) if member.did == did), None)

    def key_of(self, index: int) -> PublicKey | None:
        """Vote key of a seat; None if the seat is empty or does not exist."""
        return self.members[index].key if 0 <= index < len(self.members) else None

    def encode(self) -> bytes:
        """The canonical bytes: {0: schema, 1: epoch, 2: [[did, key or null]...]}."""
        members: list[Value] = [
            [member.did, None if member.key is None else member.key.to_value()]
            for member in self.members
        ]
        return encode_canonical({0: _SCHEMA, 1: self.epoch, 2: members})


def decode_validator_set(data: bytes) -> ValidatorSet:
    """Reads an encoded set.

    Raises:
        EncodingError: malformed, of wrong size, or with a repeated subject or key.
    """
    fields = Fields(decode_canonical(data, bytes_max=VALIDATOR_SET_BYTES_MAX), "validator set")
    fields.constant(0, _SCHEMA)
    validators = ValidatorSet(
        fields.uint(1), fields.items(2, _decode_member, maximum=VALIDATORS_MAX)
    )
    if fields.finish():
        raise EncodingError("validator set: extensions are not allowed")
    return validators


def _decode_member(value: Value) -> Validator:
    did, key = as_array(value, "validator", size=2)
    vote_key = None if key is None else PublicKey.from_value(key)
    return Validator(DidId(as_digest(did, "validator")), vote_key)
