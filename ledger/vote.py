"""Votes, and pairs of votes that convict their signer.

A vote is one signature over (kind, epoch, view, block) under a tag, chain and era. Two votes of one
signer in one view that no honest validator casts together are evidence (C20 to C24).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Protocol

from ledger.validators import ValidatorSet
from protocol.digest import BlockId, ChainId
from protocol.encoding import (
    Value,
    as_array,
    as_bytes,
    as_digest,
    as_uint,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError, SignatureError, VerificationError
from protocol.keys import SIGNATURE_BYTES, PublicKey, signing_context
from protocol.limits import VALIDATORS_MAX

VOTE_TAG: Final = "swarmd/vote/1"
"""Domain of vote signatures."""
VOTE_BYTES_MAX: Final = 160
"""Encoded vote: digest, signature and four integers need at most 130 bytes."""
EVIDENCE_BYTES_MAX: Final = 2 * VOTE_BYTES_MAX + 8
"""Encoded pair of votes."""


class Signer(Protocol):
    """Signs with one validator key; `protocol.keys.PrivateKey` is one."""

    def sign(self, message: bytes) -> bytes:
        """Returns the 64-byte signature over exactly `message`."""
        ...


class Verifier(Protocol):
    """Checks signatures; injected so that simulations can use an unforgeable oracle."""

    def verify(self, key: PublicKey, signature: bytes, message: bytes) -> bool:
        """Tells whether `signature` over exactly `message` is valid under `key`."""
        ...


class Ed25519Verifier:
    """Checks real signatures."""

    def verify(self, key: PublicKey, signature: bytes, message: bytes) -> bool:
        """Tells whether `signature` over exactly `message` is valid under `key`."""
        try:
            key.verify(signature, message)
        except SignatureError:
            return False
        return True


class VoteKind(IntEnum):
    """The three ballots of a view."""

    NOTARIZE = 1
    """This block is valid and the only one I support in this view."""
    NULLIFY = 2
    """This view may be skipped."""
    FINALIZE = 3
    """I saw the block notarized and did not nullify the view."""


def vote_message(
    chain: ChainId, era: int, kind: VoteKind, *, epoch: int, view: int, block_id: BlockId | None
) -> bytes:
    """The bytes a vote signs (C20): context(tag, chain, era) || [kind, epoch, view, block id]."""
    return signing_context(VOTE_TAG, chain, era) + encode_canonical(
        [int(kind), epoch, view, block_id]
    )


def check_subject(kind: VoteKind, block_id: BlockId | None) -> None:
    """Refuses a nullify that names a block and any other kind that names none (C21)."""
    if (kind is VoteKind.NULLIFY) != (block_id is None):
        raise EncodingError(
            f"{kind.name.lower()} must {'not ' * (block_id is not None)}name a block"
        )


def read_kind(value: Value, what: str) -> VoteKind:
    """Reads a vote kind.

    Raises:
        EncodingError: not 1, 2 or 3.
    """
    number = as_uint(value, what, maximum=VoteKind.FINALIZE)
    if number == 0:
        raise EncodingError(f"{what}: kind 0 does not exist")
    return VoteKind(number)


def read_block_id(value: Value, what: str) -> BlockId | None:
    """Reads a block id or null."""
    return None if value is None else BlockId(as_digest(value, what))


@dataclass(frozen=True, slots=True)
class Vote:
    """One signed ballot."""

    kind: VoteKind
    """What is said about the view."""
    epoch: int
    """Epoch of the validator set."""
    view: int
    """View the ballot belongs to, from 1."""
    block_id: BlockId | None
    """Block supported; None for nullify."""
    signer: int
    """Index in the validator set; not signed over, the key says who."""
    signature: bytes
    """64 bytes over `vote_message`."""

    def message(self, chain: ChainId, era: int) -> bytes:
        """The bytes this vote signs."""
        return vote_message(
            chain, era, self.kind, epoch=self.epoch, view=self.view, block_id=self.block_id
        )

    def is_valid(
        self, validators: ValidatorSet, chain: ChainId, era: int, verifier: Verifier
    ) -> bool:
        """Tells whether a member of this epoch's set signed this vote."""
        key = validators.key_of(self.signer)
        if self.epoch != validators.epoch or key is None:
            return False
        return verifier.verify(key, self.signature, self.message(chain, era))

    def to_value(self) -> Value:
        """The wire form: [kind, epoch, view, block id or null, signer, signature]."""
        return [int(self.kind), self.epoch, self.view, self.block_id, self.signer, self.signature]

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical(self.to_value())

    @classmethod
    def from_value(cls, value: Value) -> Vote:
        """Reads the wire form.

        Raises:
            EncodingError: malformed or out of bounds.
        """
        kind, epoch, view, block_id, signer, signature = as_array(value, "vote", size=6)
        vote = cls(
            read_kind(kind, "vote kind"),
            as_uint(epoch, "vote epoch"),
            as_uint(view, "vote view"),
            read_block_id(block_id, "vote block"),
            as_uint(signer, "vote signer", maximum=VALIDATORS_MAX - 1),
            as_bytes(signature, "vote signature", size=SIGNATURE_BYTES),
        )
        check_subject(vote.kind, vote.block_id)
        return vote


def decode_vote(data: bytes) -> Vote:
    """Reads an encoded vote.

    Raises:
        EncodingError: malformed or out of bounds.
    """
    return Vote.from_value(decode_canonical(data, bytes_max=VOTE_BYTES_MAX))


def is_conflict(first: Vote, second: Vote) -> bool:
    """Tells whether no honest validator casts both ballots (C22).

    Same signer, epoch and view, and: two notarize of different blocks, two finalize of different
    blocks, or nullify with finalize.
    """
    if (first.signer, first.epoch, first.view) != (second.signer, second.epoch, second.view):
        return False
    if first.kind is second.kind:
        return first.block_id != second.block_id
    return {first.kind, second.kind} == {VoteKind.NULLIFY, VoteKind.FINALIZE}


@dataclass(frozen=True, slots=True)
class Evidence:
    """Two votes that convict their signer; make it with `Evidence.of`."""

    first: Vote
    """The vote that sorts first by (kind, block id)."""
    second: Vote
    """The other one."""
    encoded: bytes = field(init=False, repr=False, compare=False)
    """The canonical bytes: [vote, vote]."""

    def __post_init__(self) -> None:
        """Refuses a pair that is no conflict or not in canonical order.

        Raises:
            VerificationError: an honest validator could have cast both.
            EncodingError: the pair is in the wrong order.
        """
        if not is_conflict(self.first, self.second):
            raise VerificationError("the two votes do not contradict each other")
        if _order(self.first) > _order(self.second):
            raise EncodingError("evidence: votes are not in canonical order")
        encoded = encode_canonical([self.first.to_value(), self.second.to_value()])
        object.__setattr__(self, "encoded", encoded)

    @classmethod
    def of(cls, one: Vote, other: Vote) -> Evidence:
        """Puts two conflicting votes in canonical order."""
        first, second = sorted((one, other), key=_order)
        return cls(first, second)

    @property
    def epoch(self) -> int:
        """Epoch of both votes."""
        return self.first.epoch

    @property
    def signer(self) -> int:
        """Index of the convicted validator in the epoch's set."""
        return self.first.signer

    def encode(self) -> bytes:
        """The canonical bytes."""
        return self.encoded

    def verify(
        self, validators: ValidatorSet, chain: ChainId, era: int, verifier: Verifier
    ) -> None:
        """Checks both signatures.

        Raises:
            SignatureError: one of them is not by the named member of this epoch's set.
        """
        for vote in (self.first, self.second):
            if not vote.is_valid(validators, chain, era, verifier):
                raise SignatureError(f"evidence: vote of validator {vote.signer} is not valid")


def _order(vote: Vote) -> tuple[int, bytes]:
    return (vote.kind, vote.block_id or b"")


def decode_evidence(data: bytes) -> Evidence:
    """Reads encoded evidence; signatures are checked by `Evidence.verify`.

    Raises:
        VerificationError: malformed, or an honest validator could have cast both votes.
    """
    first, second = as_array(
        decode_canonical(data, bytes_max=EVIDENCE_BYTES_MAX), "evidence", size=2
    )
    return Evidence(Vote.from_value(first), Vote.from_value(second))
