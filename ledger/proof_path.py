"""From the genesis to the set that certified a proof's header: epochs, recoveries, checkpoint.

A hand-over is the word of the validators of one epoch; a recovery and a checkpoint are the word of
the governance root of the genesis. Validators delete the keys of an epoch that is over, but whoever
checks a file cannot know whether thieves were faster, so that at most 26 hand-overs in a row are
believed without a word of the governance root (docs/spec/governance.md, G12). A file begins at the
newest checkpoint there is, hence stays small however old the chain is. Format: docs/spec/proofs.md,
V6 to V9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from ledger.chain_queries import ChainQueries
from ledger.errors import LedgerError, LedgerNotYetError
from ledger.header import Header, decode_header
from ledger.light import (
    CHECKPOINT_EPOCHS_MAX,
    EPOCH_STEPS_MAX,
    EpochStep,
    TrustAnchor,
    advance_anchor,
)
from ledger.recovery import advance_era
from ledger.transition.genesis import FIRST_EPOCH
from ledger.validators import decode_validator_set
from ledger.vote import Verifier
from protocol.approval import APPROVAL_BYTES_MAX, Action, find_holders
from protocol.cose import parse_signed
from protocol.digest import Digest
from protocol.encoding import check_sorted_unique, encode_canonical
from protocol.errors import VerificationError
from protocol.genesis import Genesis
from protocol.governance import (
    GOVERNANCE_GROUP,
    GOVERNANCE_POLICY,
    Checkpoint,
    checkpoint_digest,
    decode_checkpoint,
    decode_recovery,
)

RECOVERIES_MAX: Final = 8
"""Recoveries of one file: catastrophes since the newest checkpoint, or since genesis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustPath:
    """How trust in the genesis becomes trust in a later set; not verified."""

    checkpoint: bytes | None = None
    """A checkpoint to begin from, encoded; None: begin at genesis."""
    epochs: tuple[EpochStep, ...] = ()
    """Hand-overs, oldest first; those of an era stand before the recovery that ended it."""
    recoveries: tuple[bytes, ...] = ()
    """Recovery files, oldest first."""

    def follow(self, genesis: Genesis, anchor: TrustAnchor, verifier: Verifier) -> TrustAnchor:
        """Goes all the way and returns whom to believe at its end.

        Args:
            genesis: the document that the checker trusts.
            anchor: what it makes one believe; passed over where there is a checkpoint.
            verifier: checks votes.

        Raises:
            VerificationError: a step does not follow from the one before, the governance root did
                not agree, or too many hand-overs follow its last word.
        """
        if self.checkpoint is not None:
            anchor = _begin(decode_checkpoint(self.checkpoint), genesis, anchor)
        steps = self.epochs
        for raw in self.recoveries:
            recovery = decode_recovery(raw)
            own = _count_of_era(steps, anchor.era)
            anchor = advance_anchor(anchor, steps[:own], verifier)
            plan = recovery.plan
            _require_all(recovery.approvals, genesis, anchor.era, Action.RECOVERY, plan.digest)
            anchor = advance_era(anchor, recovery, genesis.governance_root, verifier)
            steps = steps[own:]
        anchor = advance_anchor(anchor, steps, verifier)
        if anchor.bridged > CHECKPOINT_EPOCHS_MAX:
            raise VerificationError(
                f"{anchor.bridged} hand-overs since the governance root last spoke, at most "
                f"{CHECKPOINT_EPOCHS_MAX}: a checkpoint is needed"
            )
        return anchor


def _count_of_era(steps: Sequence[EpochStep], era: int) -> int:
    """How many steps at the front are hand-overs within an era."""
    for place, step in enumerate(steps):
        if decode_header(step.header).era != era:
            return place
    return len(steps)


def _begin(checkpoint: Checkpoint, genesis: Genesis, anchor: TrustAnchor) -> TrustAnchor:
    """The anchor that a checkpoint gives (V8)."""
    header = decode_header(checkpoint.header)
    validators = decode_validator_set(checkpoint.validators)
    if header.chain != genesis.chain or not header.closes_epoch:
        raise VerificationError("checkpoint: no closing header of this chain")
    if (validators.digest, validators.epoch) != (header.next_validators, header.epoch + 1):
        raise VerificationError("checkpoint: not the set that its header hands over to")
    subject = checkpoint_digest(header.height, header.block_id)
    _require_all(checkpoint.approvals, genesis, header.era, Action.CHECKPOINT, subject)
    return replace(anchor, era=header.era, validators=validators, first=None, bridged=0)


def _require_all(
    approvals: Sequence[bytes], genesis: Genesis, era: int, action: Action, subject: Digest
) -> None:
    """The governance root agrees, in ascending order, and nothing else is there (V9)."""
    check_sorted_unique(
        [parse_signed(raw, bytes_max=APPROVAL_BYTES_MAX).key_id for raw in approvals],
        "governance approvals",
    )
    valid = _governors(approvals, genesis, era, action, subject)
    threshold = genesis.governance_root.threshold
    if len(valid) != len(approvals) or len(valid) < threshold:
        raise VerificationError(
            f"{len(valid)} of {len(approvals)} {action.name.lower()} approvals by the governance "
            f"root are valid, all and at least {threshold} must be"
        )


def _governors(
    approvals: Sequence[bytes], genesis: Genesis, era: int, action: Action, subject: Digest
) -> tuple[bytes, ...]:
    """The approvals that count, ascending by key id."""
    found: dict[Digest, bytes] = {}
    for raw in approvals:
        holders = find_holders(
            (raw,),
            root=genesis.governance_root,
            chain=genesis.chain,
            era=era,
            action=action,
            subject=subject,
            group=GOVERNANCE_GROUP,
            policy=GOVERNANCE_POLICY,
        )
        if any(holder.is_owner for holder in holders):
            found[parse_signed(raw, bytes_max=APPROVAL_BYTES_MAX).key_id] = raw
    return tuple(found[key_id] for key_id in sorted(found))


def path_to(chain: ChainQueries) -> TrustPath:
    """The way to the newest epoch of a chain: from its newest checkpoint, else from genesis.

    Raises:
        LedgerNotYetError: `proof.checkpoint`: governance must record a checkpoint first.
        LedgerError: `proof.epochs`: this copy lacks hand-overs, or there are too many.
    """
    start, era, checkpoint = _beginning(chain)
    steps = list(chain.epoch_steps(start, EPOCH_STEPS_MAX))
    recoveries: list[bytes] = []
    while era < chain.head.era:
        era += 1
        start, recovery = _recovery(chain, era)
        recoveries.append(recovery)
        last = chain.epoch_steps(start, EPOCH_STEPS_MAX)
        steps += last
        reached, newest = start + len(last), len(last)
    if not recoveries:
        reached, newest = start + len(steps), len(steps)
    if reached != chain.head.epoch or len(steps) > EPOCH_STEPS_MAX:
        raise LedgerError("proof.epochs", f"{len(steps)} hand-overs lead to epoch {reached}")
    if newest > CHECKPOINT_EPOCHS_MAX:
        raise LedgerNotYetError(
            "proof.checkpoint",
            f"{newest} hand-overs since the governance root last spoke, over "
            f"{CHECKPOINT_EPOCHS_MAX}: it must record a checkpoint first",
        )
    return TrustPath(checkpoint=checkpoint, epochs=tuple(steps), recoveries=tuple(recoveries))


def _beginning(chain: ChainQueries) -> tuple[int, int, bytes | None]:
    """Epoch and era to begin in, and the checkpoint that leads there."""
    genesis, state = chain.genesis, chain.tip.state
    record = state.checkpoint()
    header: Header | None = None if record is None else decode_header(record.header)
    validators = None if header is None else state.validators(header.epoch + 1)
    if record is None or header is None or validators is None:
        return FIRST_EPOCH, genesis.era, None
    subject = checkpoint_digest(header.height, header.block_id)
    kept = (
        state.approval(subject, Action.CHECKPOINT, key_id, GOVERNANCE_GROUP)
        for key_id in record.signers
    )
    signed = [raw for raw in kept if raw is not None]
    approvals = _governors(signed, genesis, header.era, Action.CHECKPOINT, subject)
    if len(approvals) < genesis.governance_root.threshold:
        return FIRST_EPOCH, genesis.era, None  # by a later root, which genesis does not show
    found = Checkpoint(header=record.header, validators=validators.encode(), approvals=approvals)
    return header.epoch + 1, header.era, found.encode()


def _recovery(chain: ChainQueries, era: int) -> tuple[int, bytes]:
    """First epoch of an era, and its recovery file as proofs show it."""
    began = chain.recovery_of(era)
    first = None if began is None else chain.header_at(began[0])
    if began is None or first is None:
        raise LedgerError("proof.epochs", f"this copy does not hold how era {era} began")
    recovery = decode_recovery(began[1])
    plan = recovery.plan
    approvals = _governors(recovery.approvals, chain.genesis, era - 1, Action.RECOVERY, plan.digest)
    shown = encode_canonical({0: 1, 1: plan.encode(), 2: list(approvals)})
    return first.epoch, shown
