"""The beginning of an era: what a recovery file makes of the last final block. Pure.

A recovery is adopted by an operator's command. The block that begins the era follows from the file
and the state alone, so that every node that adopts it computes the same; the file, not a
certificate, is what makes it final. Rules: docs/spec/governance.md, G20 to G26.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ledger.block import Block, body_root
from ledger.errors import ForkAlarmError, LedgerError, LedgerNotYetError
from ledger.header import HEADER_TIME_MS_MAX, Header, decode_header
from ledger.light import TrustAnchor, verify_header
from ledger.records.governance import EraRecord
from ledger.records.subject import SubjectRecord, SubjectStatus
from ledger.records.validators import EpochRecord
from ledger.state import Draft, LedgerState
from ledger.state_keys import EPOCH_KEY, ERA_KEY, validators_key
from ledger.transition.block import Outcome
from ledger.transition.subject import write_subject
from ledger.transition.validators import write_certified
from ledger.validators import Validator, ValidatorSet
from ledger.vote import Verifier
from protocol.did import SubjectKind
from protocol.digest import DidId
from protocol.errors import VerificationError
from protocol.governance import Recovery, RecoveryPlan, Seat
from protocol.group import OwnerRoot


@dataclass(frozen=True, slots=True, kw_only=True)
class EraStart:
    """The first block of an era, executed."""

    block: Block
    """Without entries."""
    outcome: Outcome
    """State after it."""
    validators: ValidatorSet
    """Who goes on from here."""


def begin_era(header: Header, state: LedgerState, recovery: Recovery, root: OwnerRoot) -> EraStart:
    """Computes the block that begins an era.

    Args:
        header: newest final header of this node.
        state: state after it.
        recovery: the file, untrusted.
        root: the governance root of genesis.

    Raises:
        LedgerNotYetError: `recovery.behind`: this node has not caught up with the plan's header.
        LedgerError: `recovery.later` this node holds a later final header, `recovery.era`,
            `recovery.time`, `recovery.key`, `recovery.seat`, `recovery.record`.
        ForkAlarmError: the plan goes on from another block of this height.
        VerificationError: the governance root does not agree, or a seat's key is not held.
    """
    last = _require_last(header, recovery)
    recovery.verify(root, header.chain, last.block_id)
    plan = recovery.plan
    if not header.time_ms < plan.time_ms <= HEADER_TIME_MS_MAX:
        raise LedgerError("recovery.time", f"time {plan.time_ms} is not after {header.time_ms}")
    draft = Draft(state)
    epoch = state.epoch().epoch + 1
    _seat(draft, recovery, epoch)
    members = tuple(Validator(seat.did, seat.key) for seat in plan.seats)
    validators = ValidatorSet(epoch, members)
    height = header.height + 1
    opened = _opened(state.epoch(), epoch, height=height, time_ms=plan.time_ms)
    draft.put(EPOCH_KEY, opened.encode())
    draft.put(validators_key(epoch), validators.encode())
    draft.put(ERA_KEY, EraRecord(era=plan.era, plan=plan.digest, height=height).encode())
    writes = dict(draft.writes)
    after = LedgerState(state.tree.update(writes), state.log)
    block = Block(
        Header(
            chain=header.chain,
            era=plan.era,
            epoch=epoch,
            view=0,
            height=height,
            parent=header.block_id,
            parent_view=0,
            time_ms=plan.time_ms,
            proposer=0,
            body_root=body_root((), (), ()),
            log_size=state.log.size,
            log_root=state.log.root,
            state_root=after.tree.root,
            validators=validators.digest,
            next_validators=validators.digest,
        )
    )
    outcome = Outcome(state=after, writes=writes, leaves=())
    return EraStart(block=block, outcome=outcome, validators=validators)


def epoch_after(last: Header) -> int:
    """The first epoch of an era that goes on from a header; one that it closed into is skipped."""
    return last.epoch + (2 if last.closes_epoch else 1)


def _require_last(header: Header, recovery: Recovery) -> Header:
    """The plan goes on from this node's newest final header, and nothing was final after it."""
    last = decode_header(recovery.plan.header)
    if last.chain != header.chain:
        raise LedgerError("recovery.chain", "a recovery of another chain")
    if recovery.plan.era != header.era + 1 or last.era != header.era:
        raise LedgerError(
            "recovery.era", f"the plan begins era {recovery.plan.era}, this is era {header.era}"
        )
    if last.height > header.height:
        raise LedgerNotYetError(
            "recovery.behind", f"catch up to height {last.height} first, this is {header.height}"
        )
    if last.height < header.height:
        raise LedgerError(
            "recovery.later",
            f"height {header.height} is final here, the plan stops at {last.height}",
        )
    if last.block_id != header.block_id:
        raise ForkAlarmError(
            last.block_id,
            "recovery.fork",
            f"governance goes on from another block of height {last.height}",
            recovery.plan.certificate,
        )
    return last


def _opened(ended: EpochRecord, epoch: int, *, height: int, time_ms: int) -> EpochRecord:
    """The new epoch keeps the chain's numbers; what was decided for a next set is void."""
    return replace(ended, epoch=epoch, start_ms=time_ms, start_height=height, next_members=None)


def _seat(draft: Draft, recovery: Recovery, epoch: int) -> None:
    for seat in recovery.plan.seats:
        is_certified = draft.validator(seat.did).key_for(epoch) == seat.key
        if draft.holder(seat.key) is not None and not is_certified:
            raise LedgerError("recovery.key", f"key {seat.key.raw.hex()[:8]} was in use before")
    for join in recovery.plan.joins:
        record = join.verify()
        if record.kind is not SubjectKind.VALIDATOR or draft.subject(record.did) is not None:
            raise LedgerError("recovery.record", f"{record.did.hex()[:8]} is no new validator")
        if any(draft.group(group) is None for group in record.groups):
            raise LedgerError("recovery.record", f"{record.did.hex()[:8]} names unknown groups")
        write_subject(draft, record.did, SubjectRecord.of(record))
    for seat in recovery.plan.seats:
        _require_seatable(draft, seat)
        if draft.validator(seat.did).key_for(epoch) != seat.key:
            write_certified(draft, seat.did, seat.key, epoch=epoch, current=epoch)


def _require_seatable(draft: Draft, seat: Seat) -> None:
    did: DidId = seat.did
    subject = draft.subject(did)
    if (
        subject is None
        or subject.kind is not SubjectKind.VALIDATOR
        or subject.status is not SubjectStatus.ACTIVE
        or draft.validator(did).convicted is not None
    ):
        raise LedgerError("recovery.seat", f"{did.hex()[:8]} is no active, honest validator")
    if draft.holder(seat.key) not in (None, did):
        raise LedgerError("recovery.key", f"key {seat.key.raw.hex()[:8]} is another subject's")


def _verify_last(plan: RecoveryPlan, anchor: TrustAnchor, verifier: Verifier) -> Header:
    """The plan's header is certified by the anchor's set, or is what handed over to that set.

    The client has verified that hand-over already, fillers and all, to get to its anchor. The first
    block of genesis or of an era has view 0 and never a certificate; a client that did not execute
    it takes the governance root's word, which chooses the seats anyway.
    """
    last = decode_header(plan.header)
    handed_over = (anchor.chain, anchor.era, anchor.validators.epoch - 1, anchor.validators.digest)
    if (last.chain, last.era, last.epoch, last.next_validators) == handed_over:
        return last
    if anchor.first is None and last.view == 0 and not plan.certificate:
        anchor = replace(anchor, first=last.block_id)
    return verify_header(plan.header, plan.certificate, anchor, verifier)


def advance_era(
    anchor: TrustAnchor, recovery: Recovery, root: OwnerRoot, verifier: Verifier
) -> TrustAnchor:
    """Carries a light client into the era that a recovery begins (G25).

    Args:
        anchor: the set of the last epoch of the era that ends.
        recovery: the file, untrusted.
        root: the governance root of genesis.
        verifier: checks votes.

    Raises:
        VerificationError: the plan's header is not certified by the anchor's set, the governance
            root does not agree, or the seats form no validator set.
    """
    plan = recovery.plan
    last = _verify_last(plan, anchor, verifier)
    recovery.verify(root, anchor.chain, last.block_id)
    if plan.era != anchor.era + 1 or plan.time_ms <= last.time_ms:
        raise VerificationError(f"recovery: era {plan.era} does not follow era {anchor.era}")
    epoch = epoch_after(last)
    members = tuple(Validator(seat.did, seat.key) for seat in plan.seats)
    validators = ValidatorSet(epoch, members)
    return replace(anchor, era=plan.era, validators=validators, first=None, bridged=0)
