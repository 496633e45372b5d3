"""May a release be offered to this device, in this group, now? Pure; docs/spec/rollout.md, R80.

Authorisation says that a release may be installed at all; what follows here says when, and on which
device first. The questions are asked in one order, so that two gateways that know the same give the
same reason. Freshness, alarms and owners' signatures are the node's own affair and come before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from ledger.records.emergency import PauseEntry
from ledger.records.manifest import ManifestRecord, ManifestStatus
from ledger.records.rollout import RolloutRecord, RolloutStatus
from ledger.state import StateReader
from protocol.digest import BlockId, ManifestId
from protocol.manifest import SignedManifest
from protocol.policy import Policy
from protocol.rollout import SHARE_WHOLE, RolloutPlan, is_in_stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What is known of a device that might be offered a release."""

    device_id: bytes | None = None
    """Its id; None: unknown, as with a plain download by digest."""
    installed_sequence: int | None = None
    """Sequence of the product it runs, or None."""
    installed: ManifestId | None = None
    """Release of the product it runs, or None."""


UNKNOWN_DEVICE: Final = Device()
"""A device of which nothing is known."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One question that was answered in favour of the offer."""

    rule: str
    """Stable name of the rule."""
    text: str
    """The answer, for people."""


@dataclass(frozen=True, slots=True)
class OfferPermit:
    """The release may be offered."""

    reasons: tuple[Reason, ...]
    """Every question that was asked, in order."""


@dataclass(frozen=True, slots=True)
class OfferRefusal:
    """The release may not be offered."""

    rule: str
    """Stable name of the rule that forbids it."""
    text: str
    """For people."""
    may_retry: bool
    """Whether waiting may help."""
    reasons: tuple[Reason, ...] = ()
    """The questions before it, which were answered in favour."""


OfferVerdict = OfferPermit | OfferRefusal
"""Every answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """Everything the questions are about."""

    state: StateReader
    manifest: SignedManifest
    group: str
    device: Device
    now_ms: int
    block_id: BlockId | None
    record: ManifestRecord
    policy: Policy
    """The group's policy in force now."""


_Answer = Reason | OfferRefusal


def offer_verdict(
    state: StateReader,
    manifest: SignedManifest,
    group: str,
    *,
    device: Device,
    now_ms: int,
    block_id: BlockId | None,
) -> OfferVerdict:
    """Answers all questions in order; the first refusal decides (R80).

    Args:
        state: newest final state.
        manifest: the release.
        group: group of the device, one of the release's targets.
        device: what is known of the device.
        now_ms: the node's ledger time, milliseconds.
        block_id: the block at the height at which the release was authorised in this group; None:
            not known here, then only a stage of all devices is open.
    """
    record = state.manifest(manifest.manifest_id, group)
    known = state.group(group)
    if record is None or known is None:
        return OfferRefusal("manifest.unknown", f"not proposed in group {group!r}", True)
    case = _Case(
        state=state,
        manifest=manifest,
        group=group,
        device=device,
        now_ms=now_ms,
        block_id=block_id,
        record=record,
        policy=state.policy(known.policy_at(now_ms)),
    )
    reasons: list[Reason] = []
    for question in _QUESTIONS:
        answer = question(case)
        if isinstance(answer, OfferRefusal):
            return replace(answer, reasons=tuple(reasons))
        reasons.append(answer)
    return OfferPermit(tuple(reasons))


def _standing(case: _Case) -> _Answer:
    """R81: authorised, not revoked, not expired."""
    status = case.record.status
    if status is ManifestStatus.REVOKED:
        return OfferRefusal("manifest.revoked", f"revoked in group {case.group!r}", False)
    if status is ManifestStatus.PROPOSED:
        return OfferRefusal("manifest.proposed", "waits for approvals", True)
    if case.record.is_expired(case.now_ms):
        return OfferRefusal("manifest.expired", f"expired at {case.record.expires_ms}", False)
    return Reason("manifest.authorised", f"authorised at height {case.record.authorised_height}")


def _emergency(case: _Case) -> _Answer:
    """R82: no emergency pause of the group or of the chain covers it."""
    if case.record.is_override:
        return Reason("emergency.override", "an override release: no pause holds it back")
    product, manifest = case.record.product, case.manifest.manifest_id
    for group, where in ((None, "the whole chain"), (case.group, f"group {case.group!r}")):
        pause = case.state.pauses(group).holding(product, manifest, case.now_ms)
        if pause is not None:
            return OfferRefusal("emergency.pause", f"{_paused(pause)} in {where}", True)
    return Reason("emergency.pause", "no emergency pause covers it")


def _paused(pause: PauseEntry) -> str:
    return f"paused by emergency key {pause.key_id.hex()[:8]} until {pause.until_ms}"


def _freeze(case: _Case) -> _Answer:
    """R83: the group is not in a freeze."""
    if case.record.is_override:
        return Reason("policy.freeze", "an override release: no freeze holds it back")
    if case.policy.is_frozen(case.now_ms):
        return OfferRefusal("policy.freeze", f"group {case.group!r} is in a freeze", True)
    return Reason("policy.freeze", "the group is in no freeze")


def _rollout(case: _Case) -> _Answer:
    """R84: the rollout is going on, and the device is in its stage."""
    rollout = case.state.rollout(case.manifest.manifest_id, case.group)
    plan = case.state.policy(case.record.policy).rollout
    if rollout is None or plan is None:
        return Reason("rollout.none", "its policy has no rollout plan: all devices at once")
    if not rollout.is_offering:
        status = rollout.status.name.lower()
        cause = rollout.cause.name.lower().replace("_", " ")
        text = f"{status} ({cause})" if rollout.status is RolloutStatus.HALTED else status
        return OfferRefusal(f"rollout.{status}", f"the rollout is {text}", True)
    return _stage(case, rollout, plan)


def _stage(case: _Case, rollout: RolloutRecord, plan: RolloutPlan) -> _Answer:
    share = plan.stages[rollout.stage].share
    where = f"stage {rollout.stage + 1} of {len(plan.stages)} ({share} of {SHARE_WHOLE})"
    if share == SHARE_WHOLE:
        return Reason("rollout.stage", f"{where}: every device")
    if case.device.device_id is None:
        return OfferRefusal("rollout.device", f"{where}: which device asks is not known", True)
    if case.block_id is None:
        text = f"{where}: the block that authorised it is not known here"
        return OfferRefusal("rollout.block", text, True)
    if not is_in_stage(case.block_id, case.device.device_id, share):
        return OfferRefusal("rollout.stage", f"{where}: this device comes later", True)
    return Reason("rollout.stage", f"{where}: this device belongs to it")


def _window(case: _Case) -> _Answer:
    """R85: a maintenance window of the group is open."""
    if not case.policy.is_open(case.now_ms):
        return OfferRefusal("policy.window", "outside the group's maintenance windows", True)
    return Reason("policy.window", "a maintenance window is open, or none is set")


def _stepping_stone(case: _Case) -> _Answer:
    """R86: the device runs a release from which this one may be reached."""
    stones, installed = case.manifest.manifest.stepping_stones, case.device.installed
    if not stones:
        return Reason("device.stepping_stone", "it may be installed over any release")
    if installed is None:
        text = "it needs a stepping stone, and what the device runs is not known"
        return OfferRefusal("device.stepping_stone", text, True)
    if installed not in (*stones, case.manifest.manifest_id):
        text = "the device must install one of its stepping stones first"
        return OfferRefusal("device.stepping_stone", text, True)
    return Reason("device.stepping_stone", "the device runs one of its stepping stones")


def _sequence(case: _Case) -> _Answer:
    """R87: the device does not run a newer one."""
    installed, offered = case.device.installed_sequence, case.record.sequence
    if installed is not None and installed > offered:
        text = f"the device runs sequence {installed}, above {offered}"
        return OfferRefusal("device.rollback", text, False)
    return Reason("device.rollback", "no newer release is known to run on the device")


_QUESTIONS: Final[tuple[Callable[[_Case], _Answer], ...]] = (
    _standing,
    _emergency,
    _freeze,
    _rollout,
    _window,
    _stepping_stone,
    _sequence,
)
