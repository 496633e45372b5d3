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
from ledger.simplex.rules import check_filler
from ledger.transition.genesis import genesis_validators
from ledger.validators import VALIDATOR_SET_BYTES_MAX, ValidatorSet, decode_validator_set
from ledger.vote import Verifier, VoteKind
from protocol.digest import BlockId, ChainId
from protocol.encoding import Value, as_array, as_bytes, decode_canonical, encode_canonical
from protocol.errors import EncodingError, VerificationError
from protocol.genesis import Genesis
from protocol.limits import KIB

EPOCH_STEPS_MAX: Final = 64
"""Epochs that one proof or message may bridge: more than a year of weekly ones."""
FILLERS_MAX: Final = 256
"""Fillers of one hand-over: no more blocks may wait for finality (E14)."""
EPOCH_STEP_BYTES_MAX: Final = 16 * KIB
"""One step as a message of its own: a set of 32 and about 20 fillers, of which two are rare."""
CHECKPOINT_EPOCHS_MAX: Final = 26
"""Epochs that may be bridged on the word of retired keys alone: half a year of weekly ones."""


class EpochForkError(VerificationError):
    """Two valid successors of one epoch: more than f of its keys lied or leaked; stop and alarm.

    Attributes:
        epoch: the epoch that was closed twice.
        first: the closing block seen first.
        second: the other one.
    """

    def __init__(self, epoch: int, first: BlockId, second: BlockId) -> None:
        super().__init__(
            f"epoch {epoch} was closed twice: by {first.hex()[:8]} and by {second.hex()[:8]}"
        )
        self.epoch = epoch
        self.first = first
        self.second = second


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
    bridged: int = 0
    """Epochs followed since trust was given by genesis, an operator or the governance root."""

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
    """Encoded closing header."""
    certificate: bytes
    """Finalize certificate of the closing header, or of its last filler, by the old set."""
    validators: bytes
    """The next set, encoded."""
    fillers: tuple[bytes, ...] = ()
    """Encoded headers of the fillers up to the certified one, oldest first; usually none (E15)."""

    def to_value(self) -> Value:
        """The wire form: [header, fillers, certificate, validators]."""
        return [self.header, list(self.fillers), self.certificate, self.validators]

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical(self.to_value())

    @classmethod
    def from_value(cls, value: Value) -> EpochStep:
        """Reads the wire form; raises EncodingError."""
        header, fillers, certificate, validators = as_array(value, "epoch step", size=4)
        if not isinstance(fillers, (list, tuple)) or len(fillers) > FILLERS_MAX:
            raise EncodingError(f"epoch step: fillers are not a list of at most {FILLERS_MAX}")
        return cls(
            header=as_bytes(header, "epoch header", maximum=HEADER_BYTES_MAX),
            fillers=tuple(as_bytes(item, "filler", maximum=HEADER_BYTES_MAX) for item in fillers),
            certificate=as_bytes(certificate, "epoch certificate", maximum=CERTIFICATE_BYTES_MAX),
            validators=as_bytes(validators, "epoch set", maximum=VALIDATOR_SET_BYTES_MAX),
        )


def decode_epoch_step(data: bytes) -> EpochStep:
    """Reads an encoded step without verifying it; raises EncodingError."""
    return EpochStep.from_value(decode_canonical(data, bytes_max=EPOCH_STEP_BYTES_MAX))


def advance_anchor(
    anchor: TrustAnchor, steps: Sequence[EpochStep], verifier: Verifier
) -> TrustAnchor:
    """Follows the hand-overs from the anchor's epoch on, one certificate check for each.

    Returns:
        The anchor of the epoch after the last step; `bridged` counts them.

    Raises:
        VerificationError: a step is not certified, closes no epoch, or names another set.
    """
    if len(steps) > EPOCH_STEPS_MAX:
        raise VerificationError(f"{len(steps)} epoch steps, at most {EPOCH_STEPS_MAX}")
    for step in steps:
        validators = _verify_step(step, anchor, verifier)
        anchor = replace(anchor, validators=validators, bridged=anchor.bridged + 1)
    return anchor


def _verify_step(step: EpochStep, anchor: TrustAnchor, verifier: Verifier) -> ValidatorSet:
    """Checks one hand-over and returns the next set (E16)."""
    closing = _read_header(step.header, anchor)
    if not closing.closes_epoch:
        raise VerificationError(f"header {closing.height} closes no epoch")
    validators = decode_validator_set(step.validators)
    if (validators.digest, validators.epoch) != (closing.next_validators, closing.epoch + 1):
        raise VerificationError(f"header {closing.height} hands over to another set")
    last = closing
    for raw in step.fillers:
        filler = _read_header(raw, anchor)
        check_filler(filler, last)
        last = filler
    _verify_certificate(last, step.certificate, anchor, verifier)
    return validators


class EpochHistory:
    """A client's way through the epochs: one anchor, and a memory that notices forks (E61)."""

    def __init__(self, anchor: TrustAnchor, verifier: Verifier) -> None:
        """Starts at a trusted anchor."""
        self.anchor = anchor
        """Whom to believe now."""
        self.alarm: EpochForkError | None = None
        """Set for good when two valid successors of one epoch were seen."""
        self.first: Final = anchor.validators.epoch
        """The epoch it began in; hand-overs of earlier ones it can neither follow nor compare."""
        self._verifier = verifier
        self._passed: dict[int, tuple[TrustAnchor, BlockId]] = {}

    def advance(self, steps: Sequence[EpochStep]) -> int:
        """Follows steps; those of epochs passed before are compared with what was seen then.

        Returns:
            How many epochs were newly bridged.

        Raises:
            EpochForkError: a second valid successor of an epoch, now or earlier.
            VerificationError: a step is not certified, closes no epoch, or leaves a gap; those
                before it were followed.
        """
        if self.alarm is not None:
            raise self.alarm
        if len(steps) > EPOCH_STEPS_MAX:
            raise VerificationError(f"{len(steps)} epoch steps, at most {EPOCH_STEPS_MAX}")
        bridged = 0
        for step in steps:
            header = decode_header(step.header)
            if header.epoch in self._passed:
                self._compare(step, header)
                continue
            before = self.anchor
            self.anchor = advance_anchor(before, (step,), self._verifier)
            self._passed[header.epoch] = (before, header.block_id)
            bridged += 1
        return bridged

    def anchor_of(self, epoch: int) -> TrustAnchor | None:
        """Whom to believe about an epoch on the way here; None: it is not on it."""
        if epoch == self.anchor.validators.epoch:
            return self.anchor
        passed = self._passed.get(epoch)
        return None if passed is None else passed[0]

    def check_closing(self, epoch: int, closing: BlockId) -> None:
        """Compares how an epoch ended elsewhere, such as in the own ledger, with what was seen.

        Raises:
            EpochForkError: it was closed by another block.
        """
        passed = self._passed.get(epoch)
        if passed is not None and passed[1] != closing:
            self.alarm = EpochForkError(epoch, passed[1], closing)
            raise self.alarm

    def _compare(self, step: EpochStep, header: Header) -> None:
        anchor, known = self._passed[header.epoch]
        if header.block_id == known:
            return
        _verify_step(step, anchor, self._verifier)
        self.alarm = EpochForkError(header.epoch, known, header.block_id)
        raise self.alarm


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
    decoded = _read_header(header, anchor)
    if not certificate:
        if anchor.first is None or decoded.block_id != anchor.first:
            raise VerificationError(f"header {decoded.height} has no certificate")
        return decoded
    _verify_certificate(decoded, certificate, anchor, verifier)
    return decoded


def _read_header(raw: bytes, anchor: TrustAnchor) -> Header:
    """Reads a header of the anchor's epoch."""
    header = decode_header(raw)
    _require("chain", anchor.chain.hex(), header.chain.hex())
    _require("era", anchor.era, header.era)
    _require("epoch", anchor.validators.epoch, header.epoch)
    _require("validator set", anchor.validators.digest.hex(), header.validators.hex())
    return header


def _verify_certificate(
    header: Header, certificate: bytes, anchor: TrustAnchor, verifier: Verifier
) -> None:
    votes = decode_certificate(certificate)
    if votes.kind is not VoteKind.FINALIZE or votes.block_id != header.block_id:
        raise VerificationError(f"no finalize certificate of header {header.height}")
    _require("certificate's view", header.view, votes.view)
    votes.verify(anchor.validators, anchor.chain, anchor.era, verifier)


def _require(what: str, expected: object, actual: object) -> None:
    if actual != expected:
        raise VerificationError(f"header of another {what}: {actual}, expected {expected}")
