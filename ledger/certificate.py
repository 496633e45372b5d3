"""Certificates: exactly q votes of one kind for one view, as a bitmap and a signature list.

A notarize certificate (N) lets a view pass with a block, a nullify certificate (U) skips it, and a
finalize certificate (F) makes a block and its ancestors final. Format: C30 to C32.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ledger.validators import ValidatorSet
from ledger.vote import (
    Evidence,
    Verifier,
    Vote,
    VoteKind,
    check_subject,
    is_conflict,
    read_block_id,
    read_kind,
    vote_message,
)
from protocol.digest import BlockId, ChainId, Digest, tagged_digest
from protocol.encoding import (
    Value,
    as_array,
    as_bytes,
    as_uint,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError, SignatureError, VerificationError
from protocol.keys import SIGNATURE_BYTES
from protocol.limits import VALIDATORS_MAX

CERTIFICATE_BYTES_MAX: Final = 80 + VALIDATORS_MAX * SIGNATURE_BYTES
"""Encoded certificate: 32 signatures, a digest, a bitmap and three integers."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A quorum of votes of one kind."""

    kind: VoteKind
    """Kind of every vote in it."""
    epoch: int
    """Epoch of the validator set."""
    view: int
    """View of every vote in it."""
    block_id: BlockId | None
    """Block of every vote in it; None for nullify."""
    bitmap: bytes
    """ceil(n / 8) bytes; bit i mod 8 (least significant first) of byte i div 8 is member i."""
    signatures: tuple[bytes, ...]
    """q signatures of 64 bytes, in ascending order of the signers' indices."""

    @classmethod
    def of(cls, votes: Iterable[Vote], validators: ValidatorSet) -> Certificate:
        """Builds a certificate from exactly q verified votes of one kind, view and block."""
        ordered = sorted(votes, key=lambda vote: vote.signer)
        assert len(ordered) == validators.quorum, "a certificate holds exactly q votes"
        bitmap = bytearray((len(validators.members) + 7) // 8)
        for vote in ordered:
            bitmap[vote.signer >> 3] |= 1 << (vote.signer & 7)
        first = ordered[0]
        signatures = tuple(vote.signature for vote in ordered)
        return cls(first.kind, first.epoch, first.view, first.block_id, bytes(bitmap), signatures)

    @property
    def digest(self) -> Digest:
        """Names this certificate; skip proofs in blocks refer to it."""
        return tagged_digest("swarmd/certificate/1", self.encode())

    @property
    def signers(self) -> tuple[int, ...]:
        """Indices of the members that signed, ascending."""
        bits = int.from_bytes(self.bitmap, "little")
        return tuple(i for i in range(8 * len(self.bitmap)) if bits >> i & 1)

    def votes(self) -> tuple[Vote, ...]:
        """The votes it is made of."""
        return tuple(
            Vote(self.kind, self.epoch, self.view, self.block_id, signer, signature)
            for signer, signature in zip(self.signers, self.signatures, strict=True)
        )

    def verify(
        self, validators: ValidatorSet, chain: ChainId, era: int, verifier: Verifier
    ) -> None:
        """Checks that exactly q members of this epoch's set signed (C31).

        Raises:
            VerificationError: another epoch, a bitmap of wrong length, or not exactly q signers.
            SignatureError: a signature is not valid.
        """
        count = len(validators.members)
        if self.epoch != validators.epoch:
            raise VerificationError(
                f"certificate of epoch {self.epoch}, expected {validators.epoch}"
            )
        signers = self.signers
        if len(self.bitmap) != (count + 7) // 8 or (signers and signers[-1] >= count):
            raise VerificationError(f"certificate bitmap does not fit {count} validators")
        if len(signers) != validators.quorum or len(self.signatures) != validators.quorum:
            raise VerificationError(
                f"certificate of {len(signers)} signers, expected {validators.quorum}"
            )
        message = vote_message(
            chain, era, self.kind, epoch=self.epoch, view=self.view, block_id=self.block_id
        )
        for signer, signature in zip(signers, self.signatures, strict=True):
            key = validators.key_of(signer)
            if key is None or not verifier.verify(key, signature, message):
                raise SignatureError(f"certificate: signature of validator {signer} is not valid")

    def to_value(self) -> Value:
        """The wire form: [kind, epoch, view, block id or null, bitmap, signatures]."""
        return [
            int(self.kind),
            self.epoch,
            self.view,
            self.block_id,
            self.bitmap,
            b"".join(self.signatures),
        ]

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical(self.to_value())

    @classmethod
    def from_value(cls, value: Value) -> Certificate:
        """Reads the wire form.

        Raises:
            EncodingError: malformed, out of bounds, or bits and signatures differ in number.
        """
        kind, epoch, view, block_id, bitmap, joined = as_array(value, "certificate", size=6)
        raw = as_bytes(joined, "certificate signatures", maximum=VALIDATORS_MAX * SIGNATURE_BYTES)
        if len(raw) % SIGNATURE_BYTES:
            raise EncodingError("certificate: signatures are not a multiple of 64 bytes")
        certificate = cls(
            read_kind(kind, "certificate kind"),
            as_uint(epoch, "certificate epoch"),
            as_uint(view, "certificate view"),
            read_block_id(block_id, "certificate block"),
            as_bytes(bitmap, "certificate bitmap", maximum=VALIDATORS_MAX // 8),
            tuple(raw[i : i + SIGNATURE_BYTES] for i in range(0, len(raw), SIGNATURE_BYTES)),
        )
        check_subject(certificate.kind, certificate.block_id)
        if len(certificate.signers) != len(certificate.signatures):
            raise EncodingError("certificate: bitmap and signatures differ in number")
        return certificate


def contradictions(first: Certificate, second: Certificate) -> tuple[Evidence, ...]:
    """Finds who contradicted itself by signing both certificates (C25).

    Two notarize certificates of one view for different blocks, two finalize certificates likewise,
    or nullify with finalize share at least n - 2f > f signers. All of them are convicted, and
    nobody who kept the rules is among them.
    """
    others = {vote.signer: vote for vote in second.votes()}
    return tuple(
        Evidence.of(vote, others[vote.signer])
        for vote in first.votes()
        if vote.signer in others and is_conflict(vote, others[vote.signer])
    )


def decode_certificate(data: bytes) -> Certificate:
    """Reads an encoded certificate; signatures are checked by `Certificate.verify`.

    Raises:
        EncodingError: malformed or out of bounds.
    """
    return Certificate.from_value(decode_canonical(data, bytes_max=CERTIFICATE_BYTES_MAX))
