"""How a rollout begins, goes on and stops: `rollout.command`, `rollout.stop` and health.

Automatic rules halt, and promote where the plan says so; nothing here authorises anything. Every
step raises the rollout's sequence, which owners name when they command. The rules are
docs/spec/rollout.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ledger.bodies.rollout import Command, CommandRollout, StopRollout
from ledger.errors import LedgerError, LedgerNotYetError
from ledger.records.manifest import ManifestRecord, ManifestStatus
from ledger.records.rollout import HaltCause, RolloutRecord, RolloutStatus
from ledger.state import Draft, StateReader
from ledger.state_keys import rollout_key
from ledger.transition.approvals import (
    Consent,
    check_approvals,
    record_approvals,
    require_threshold,
)
from ledger.transition.context import BlockContext
from ledger.transition.kind import Kind, Lane
from protocol.approval import Action
from protocol.digest import DidId, Digest, ManifestId
from protocol.group import Policy
from protocol.rollout import SHARE_WHOLE, Promotion, RolloutPlan, RolloutStage

SHARE_SITES_MIN: Final = 2
"""Sites with failures before the failing share can halt: one site alone never does by its share."""


def begin_rollout(
    draft: Draft, manifest: ManifestId, group: str, policy: Policy, context: BlockContext
) -> None:
    """Starts the rollout of a release that this block authorises, if its policy has a plan (R11).

    Called by the rule that authorises; without a plan every device is offered it at once.
    """
    plan = policy.rollout
    if plan is None:
        return
    record = RolloutRecord(
        status=RolloutStatus.RUNNING,
        stage=0,
        started_ms=context.time_ms,
        priority=plan.priority,
    )
    draft.put(rollout_key(manifest, group), record.encode())


def command_rollout(
    draft: Draft, _signer: DidId, body: CommandRollout, context: BlockContext
) -> None:
    """Promotes, resumes or ranks a rollout by owners; or promotes it because that is due (R21).

    Raises:
        LedgerError: `rollout.unknown`, `rollout.sequence`, `rollout.status`, `rollout.same`,
            `rollout.consent`, `approval.*`; `rollout.conditions` while a promotion is not due.
    """
    record, manifest = _find(draft, body.manifest, body.group)
    _check_sequence(body.sequence, record.sequence, record.sequence)
    policy = draft.policy(manifest.policy)
    if body.approvals:
        _check_consent(draft, body, manifest, policy.approve_threshold, context)
        following = _commanded(record, body, _plan(policy), context)
        following = replace(following, sequence_floor=following.sequence)
    else:
        following = _promoted_when_due(record, body, _plan(policy), context)
    draft.put(rollout_key(body.manifest, body.group), following.encode())


def _commanded(
    record: RolloutRecord, body: CommandRollout, plan: RolloutPlan, context: BlockContext
) -> RolloutRecord:
    if body.command is Command.PROMOTE:
        _require_status(record, RolloutStatus.RUNNING)
        return promoted(record, plan, context.time_ms)
    if body.command is Command.RESUME:
        _require_status(record, RolloutStatus.PAUSED, RolloutStatus.HALTED)
        return _resumed(record, context.time_ms)
    if body.priority == record.priority:
        raise LedgerError("rollout.same", f"its priority is {record.priority} already")
    return replace(record, priority=body.priority, sequence=record.sequence + 1)


def _promoted_when_due(
    record: RolloutRecord, body: CommandRollout, plan: RolloutPlan, context: BlockContext
) -> RolloutRecord:
    """Anybody may point out that an automatic promotion is due (R31)."""
    if body.command is not Command.PROMOTE or plan.promotion is not Promotion.AUTOMATIC:
        raise LedgerError("rollout.consent", "this command needs owners' approvals")
    _require_status(record, RolloutStatus.RUNNING)
    if not is_promotion_due(record, plan, context.time_ms):
        raise LedgerNotYetError("rollout.conditions", "the stage's conditions do not hold yet")
    return promoted(record, plan, context.time_ms)


def stop_rollout(draft: Draft, _signer: DidId, body: StopRollout, context: BlockContext) -> None:
    """Pauses a rollout by one owner, or halts it by as many as revoke (R22).

    Raises:
        LedgerError: `rollout.unknown`, `rollout.sequence`, `rollout.status`, `approval.*`.
    """
    record, manifest = _find(draft, body.manifest, body.group)
    _check_sequence(body.sequence, record.sequence_floor, record.sequence)
    is_halt = body.command is Command.HALT
    needed = draft.policy(manifest.policy).revoke_threshold if is_halt else 1
    _check_consent(draft, body, manifest, needed, context)
    if is_halt:
        if record.status is RolloutStatus.HALTED:
            raise LedgerError("rollout.status", "the rollout is halted already")
        following = _halted(record, HaltCause.OWNERS)
    else:
        _require_status(record, RolloutStatus.RUNNING, RolloutStatus.DONE)
        following = replace(record, status=RolloutStatus.PAUSED, sequence=record.sequence + 1)
    following = replace(following, sequence_floor=following.sequence)
    draft.put(rollout_key(body.manifest, body.group), following.encode())


def _find(
    state: StateReader, manifest: ManifestId, group: str
) -> tuple[RolloutRecord, ManifestRecord]:
    record, known = state.rollout(manifest, group), state.manifest(manifest, group)
    if record is None or known is None:
        raise LedgerNotYetError(
            "rollout.unknown", f"no rollout of {manifest.hex()[:8]} in group {group!r}"
        )
    if known.status is not ManifestStatus.AUTHORISED:
        raise LedgerError("rollout.manifest", f"the release is {known.status.name.lower()}")
    return record, known


def _plan(policy: Policy) -> RolloutPlan:
    plan = policy.rollout
    assert plan is not None, "a rollout begins under a policy with a plan, which never changes"
    return plan


def _check_sequence(sequence: int, lowest: int, current: int) -> None:
    """Commands are bound to what their owners saw, so that none acts twice or too late (R23)."""
    if sequence < lowest:
        raise LedgerError("rollout.sequence", f"command for step {sequence}, it is at {current}")
    if sequence > current:
        raise LedgerNotYetError("rollout.ahead", f"command for step {sequence}, it is at {current}")


def _require_status(record: RolloutRecord, *allowed: RolloutStatus) -> None:
    if record.status not in allowed:
        raise LedgerError("rollout.status", f"the rollout is {record.status.name.lower()}")


def _check_consent(
    draft: Draft,
    body: CommandRollout | StopRollout,
    manifest: ManifestRecord,
    needed: int,
    context: BlockContext,
) -> None:
    group = draft.group(body.group)
    assert group is not None, "a manifest is proposed in existing groups only"
    consent = Consent(
        root=group.owner_root,
        action=Action.ROLLOUT,
        subject=Digest(body.subject),
        group=body.group,
        policy=manifest.policy,
    )
    checked = check_approvals(body.approvals, consent, context)
    # The policy is that of the proposal: after a rotation to fewer owners, all of them suffice.
    needed = min(needed, len(group.owner_root.owners))
    require_threshold(len(checked), needed, f"to {body.command.name.lower()} a rollout")
    record_approvals(draft, checked)


# Steps; pure.


def promoted(record: RolloutRecord, plan: RolloutPlan, time_ms: int) -> RolloutRecord:
    """The next stage with zero counters; after the last one it is done (R30)."""
    following = replace(record, sequence=record.sequence + 1)
    if record.stage + 1 == len(plan.stages):
        return replace(following, status=RolloutStatus.DONE)
    return _counting_anew(replace(following, stage=record.stage + 1, started_ms=time_ms))


def _resumed(record: RolloutRecord, time_ms: int) -> RolloutRecord:
    """Goes on in the same stage; its soak begins anew, after a halt its counters too (R24)."""
    following = replace(
        record,
        status=RolloutStatus.RUNNING,
        started_ms=time_ms,
        sequence=record.sequence + 1,
        cause=HaltCause.NONE,
    )
    return _counting_anew(following) if record.status is RolloutStatus.HALTED else following


def _halted(record: RolloutRecord, cause: HaltCause) -> RolloutRecord:
    return replace(record, status=RolloutStatus.HALTED, cause=cause, sequence=record.sequence + 1)


def _counting_anew(record: RolloutRecord) -> RolloutRecord:
    return replace(
        record,
        period=record.period + 1,
        success_sites=0,
        failure_sites=0,
        successes=0,
        failures=0,
    )


def is_promotion_due(record: RolloutRecord, plan: RolloutPlan, time_ms: int) -> bool:
    """Whether soak and successes suffice and no failure threshold is passed (R30)."""
    stage = plan.stages[record.stage]
    return (
        record.status is RolloutStatus.RUNNING
        and time_ms - record.started_ms >= stage.soak_ms
        and record.success_sites >= stage.success_sites_min
        and failing(record, stage) is HaltCause.NONE
    )


def failing(record: RolloutRecord, stage: RolloutStage) -> HaltCause:
    """Which failure threshold of its stage a rollout is beyond (R33)."""
    if record.failure_sites > stage.failure_sites_max:
        return HaltCause.FAILING_SITES
    reports = record.successes + record.failures
    if (
        record.failure_sites >= SHARE_SITES_MIN
        and reports >= stage.sample_min
        and record.failures * SHARE_WHOLE > stage.failure_share_max * reports
    ):
        return HaltCause.FAILING_SHARE
    return HaltCause.NONE


def judged(record: RolloutRecord, plan: RolloutPlan, time_ms: int) -> RolloutRecord:
    """What the automatic rules make of a rollout whose counters have changed (R32, R33)."""
    if record.status is not RolloutStatus.HALTED:
        cause = failing(record, plan.stages[record.stage])
        if cause is not HaltCause.NONE:
            return _halted(record, cause)
    if plan.promotion is Promotion.AUTOMATIC and is_promotion_due(record, plan, time_ms):
        return promoted(record, plan, time_ms)
    return record


KINDS: Final = (
    Kind(
        name="rollout.command",
        body=CommandRollout,
        read=CommandRollout.read,
        apply=command_rollout,
    ),
    Kind(
        name="rollout.stop",
        body=StopRollout,
        read=StopRollout.read,
        apply=stop_rollout,
        lane=Lane.PROTECTING,
    ),
)
"""Kinds of this area."""
