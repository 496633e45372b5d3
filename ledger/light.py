"""The light client: trusts a genesis, verifies headers, executes nothing.

A trust anchor is a validator set with the chain it belongs to. It moves from epoch to epoch by
headers that close one: certified by the old set, naming the new. A header is as good as its
certificate; what a header says about state is shown by a `StateProof` against its state root.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from ledger.certificate import CERTIFICATE_BYTES_MAX, decode_certificate
from ledger.header import HEADER_BYTES_MAX, Header, decode_header
from ledger.transition.genesis import genesis_validators
from ledger.validators import VALIDATOR_SET_BYTES_MAX, ValidatorSet, decode_validator_set
from ledger.vote import Verifier, VoteKind
from protocol.digest import BlockId, ChainId
from protocol.encoding import Value, as_array, as_bytes
from protocol.errors import VerificationError
from protocol.genesis import Genesis

EPOCH_STEPS_MAX: Final = 64
"""Epochs that one proof may bridge: more than a year of weekly ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustAnchor:
    """Whom to believe."""

    chain: ChainId
    """Chain id."""
    era: int
    """Era of the chain."""
    validators: ValidatorSet
    """The set that certifies headers of its epoch."""
    first: BlockId | None
    """Id of the genesis header, which has no certificate; None: not known, and not accepted."""

    @classmethod
    def of_genesis(cls, genesis: Genesis, first: BlockId | None = None) -> TrustAnchor:
        """Trusts the validators that a genesis document names.

        Args:
            genesis: the document, checked.
            first: id of the genesis header, where it was computed by execution.
        """
        return cls(
            chain=genesis.chain,
            era=genesis.era,
            validators=genesis_validators(genesis),
            first=first,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochStep:
    """The header that closes an epoch, with the set that it hands over to."""

    header: bytes
    """Encoded header."""
    certificate: bytes
    """Its finalize certificate by the closing epoch's set, encoded."""
    validators: bytes
    """The next set, encoded."""

    def to_value(self) -> Value:
        """The wire form: [header, certificate, validators]."""
        return [self.header, self.certificate, self.validators]

    @classmethod
    def from_value(cls, value: Value) -> EpochStep:
        """Reads the wire form; raises EncodingError."""
        header, certificate, validators = as_array(value, "epoch step", size=3)
        return cls(
            header=as_bytes(header, "epoch header", maximum=HEADER_BYTES_MAX),
            certificate=as_bytes(certificate, "epoch certificate", maximum=CERTIFICATE_BYTES_MAX),
            validators=as_bytes(validators, "epoch set", maximum=VALIDATOR_SET_BYTES_MAX),
        )


def advance_anchor(
    anchor: TrustAnchor, steps: Sequence[EpochStep], verifier: Verifier
) -> TrustAnchor:
    """Follows the hand-overs from the anchor's epoch on.

    Raises:
        VerificationError: a step is not certified, closes no epoch, or names another set.
    """
    if len(steps) > EPOCH_STEPS_MAX:
        raise VerificationError(f"{len(steps)} epoch steps, at most {EPOCH_STEPS_MAX}")
    for step in steps:
        header = verify_header(step.header, step.certificate, anchor, verifier)
        validators = decode_validator_set(step.validators)
        if header.next_validators == header.validators:
            raise VerificationError(f"header {header.height} closes no epoch")
        if (validators.digest, validators.epoch) != (header.next_validators, header.epoch + 1):
            raise VerificationError(f"header {header.height} hands over to another set")
        anchor = replace(anchor, validators=validators)
    return anchor


def verify_header(
    header: bytes, certificate: bytes, anchor: TrustAnchor, verifier: Verifier
) -> Header:
    """Checks that a header is final in the anchor's epoch.

    Args:
        header: encoded header, untrusted.
        certificate: its encoded finalize certificate; empty for the genesis header only.
        anchor: whom to believe.
        verifier: checks votes.

    Raises:
        VerificationError: malformed, of another chain, era or epoch, or not certified.
    """
    decoded = decode_header(header)
    _require("chain", anchor.chain.hex(), decoded.chain.hex())
    _require("era", anchor.era, decoded.era)
    _require("epoch", anchor.validators.epoch, decoded.epoch)
    _require("validator set", anchor.validators.digest.hex(), decoded.validators.hex())
    if not certificate:
        if anchor.first is None or decoded.block_id != anchor.first:
            raise VerificationError(f"header {decoded.height} has no certificate")
        return decoded
    votes = decode_certificate(certificate)
    if votes.kind is not VoteKind.FINALIZE or votes.block_id != decoded.block_id:
        raise VerificationError(f"no finalize certificate of header {decoded.height}")
    _require("certificate's view", decoded.view, votes.view)
    votes.verify(anchor.validators, anchor.chain, anchor.era, verifier)
    return decoded


def _require(what: str, expected: object, actual: object) -> None:
    if actual != expected:
        raise VerificationError(f"header of another {what}: {actual}, expected {expected}")
