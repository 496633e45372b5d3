"""What `emergency.pause` and `emergency.confirm` do.

A pause holds back offers to devices, for a scope and for 72 hours of header time. No other rule of
the transition reads it: it can neither authorise nor revoke, and nothing that protects (revoking,
rotating, recovering, releasing by override) waits for it. docs/spec/rollout.md, R60 to R69.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ledger.bodies.emergency import DecidePause, PauseOffers
from ledger.errors import LedgerError, LedgerNotYetError
from ledger.records.emergency import PAUSES_MAX, PauseEntry, PausesRecord
from ledger.state import Draft
from ledger.state_keys import pauses_key
from ledger.transition.approvals import (
    Consent,
    check_approvals,
    record_approvals,
    require_threshold,
)
from ledger.transition.context import BlockContext
from ledger.transition.kind import Kind, Lane
from protocol.approval import Action
from protocol.digest import DidId, Digest, PolicyId
from protocol.encoding import INTEGER_MAX
from protocol.governance import GOVERNANCE_GROUP, GOVERNANCE_POLICY
from protocol.group import DAY_MS
from protocol.owner_root import EMERGENCY_ROLE, OwnerRoot

PAUSE_MS: Final = 3 * DAY_MS
"""How long a pause holds by itself, milliseconds of header time: a long weekend."""
COOL_DOWN_MS: Final = 7 * DAY_MS
"""Header time between the end of a key's pause and its next one, milliseconds: alone, a stolen key
holds offers back for less than a third of the time."""
CONFIRMED_MS_MAX: Final = 90 * DAY_MS
"""Farthest end that owners may set at once, milliseconds from the block's header time."""


def pause_offers(draft: Draft, _signer: DidId, body: PauseOffers, context: BlockContext) -> None:
    """Holds offers back by one emergency key (R61, R62).

    Raises:
        LedgerError: `group.unknown`, `pause.role`, `pause.active`, `pause.sequence`,
            `pause.full`, `approval.*`; `pause.cool_down` while waiting helps.
    """
    root, policy, _ = _deciders(draft, body.group, context)
    holders = dict(root.roles).get(EMERGENCY_ROLE, ())
    if not holders:
        raise LedgerError("pause.role", "this root names no emergency key")
    consent = Consent(
        root=OwnerRoot(version=root.version, threshold=1, owners=holders),
        action=Action.PAUSE,
        subject=body.subject,
        group=_named(body.group),
        policy=policy,
    )
    (signed,) = check_approvals((body.approval,), consent, context)
    key_id = signed.signed.key_id
    if draft.approval(body.subject, Action.PAUSE, key_id, _named(body.group)) is not None:
        raise LedgerError("approval.used", "this approval has paused before")
    pauses = _without_old(draft.pauses(body.group), key_id, context.time_ms)
    _check_turn(pauses.of(key_id), body, context)
    entry = PauseEntry(
        key_id=key_id,
        product=body.product,
        manifest=body.manifest,
        sequence=body.sequence,
        began_ms=context.time_ms,
        until_ms=min(context.time_ms + PAUSE_MS, INTEGER_MAX),
    )
    following = pauses.replaced(entry)
    if len(following.entries) > PAUSES_MAX:
        raise LedgerNotYetError("pause.full", f"{PAUSES_MAX} keys have paused lately")
    record_approvals(draft, (signed,))
    draft.put(pauses_key(body.group), following.encode())


def _check_turn(before: PauseEntry | None, body: PauseOffers, context: BlockContext) -> None:
    """One pause of a key at a time, whatever its scope, and a rest after it (R62)."""
    if before is None:
        return
    if body.sequence <= before.sequence:
        raise LedgerError("pause.sequence", f"pause {body.sequence}, not above {before.sequence}")
    if before.is_active(context.time_ms):
        raise LedgerError("pause.active", "this key holds a pause already")
    rested_ms = before.until_ms + COOL_DOWN_MS
    if context.time_ms < rested_ms:
        raise LedgerNotYetError("pause.cool_down", f"this key may pause again at {rested_ms}")


def _without_old(pauses: PausesRecord, key_id: Digest, time_ms: int) -> PausesRecord:
    """Drops what neither holds anything back nor keeps a key from pausing.

    Keys that a root no longer names do not fill the record; the key's own stays, for its sequence.
    """
    kept = (
        entry
        for entry in pauses.entries
        if entry.key_id == key_id or time_ms < entry.until_ms + COOL_DOWN_MS
    )
    return PausesRecord(entries=tuple(kept))


def decide_pause(draft: Draft, _signer: DidId, body: DecidePause, context: BlockContext) -> None:
    """Prolongs or lifts a pause by the owners (R63, R64).

    Raises:
        LedgerError: `group.unknown`, `pause.unknown`, `pause.ended`, `pause.until`, `approval.*`.
    """
    root, policy, needed = _deciders(draft, body.group, context)
    pauses = draft.pauses(body.group)
    entry = pauses.of(body.key_id)
    if entry is None or entry.sequence < body.sequence:
        raise LedgerNotYetError("pause.unknown", "there is no such pause")
    if entry.sequence > body.sequence or not entry.is_active(context.time_ms):
        raise LedgerError("pause.ended", "this pause has ended")
    consent = Consent(
        root=root,
        action=Action.CONFIRM,
        subject=body.subject,
        group=_named(body.group),
        policy=policy,
    )
    checked = check_approvals(body.approvals, consent, context)
    require_threshold(len(checked), needed, "a decision about a pause")
    record_approvals(draft, checked)
    following = pauses.replaced(_decided(entry, body.until_ms, context.time_ms))
    draft.put(pauses_key(body.group), following.encode())


def _decided(entry: PauseEntry, until_ms: int, time_ms: int) -> PauseEntry:
    if until_ms == 0:
        return replace(entry, until_ms=time_ms, is_lifted=True)
    if not entry.until_ms < until_ms <= time_ms + CONFIRMED_MS_MAX:
        raise LedgerError(
            "pause.until",
            f"until {until_ms}, allowed is after {entry.until_ms} "
            f"and at most {CONFIRMED_MS_MAX} ms from now",
        )
    return replace(entry, until_ms=until_ms, is_confirmed=True)


def _deciders(
    draft: Draft, group: str | None, context: BlockContext
) -> tuple[OwnerRoot, PolicyId, int]:
    """Root, policy and threshold that decide about a group, or about the whole chain."""
    if group is None:
        root = draft.governance_root()
        return root, GOVERNANCE_POLICY, root.threshold
    known = draft.group(group)
    if known is None:
        raise LedgerNotYetError("group.unknown", f"group {group!r} does not exist")
    policy = known.policy_at(context.time_ms)
    return known.owner_root, policy, draft.policy(policy).amend_threshold


def _named(group: str | None) -> str:
    return GOVERNANCE_GROUP if group is None else group


KINDS: Final = (
    Kind(
        name="emergency.pause",
        body=PauseOffers,
        read=PauseOffers.read,
        apply=pause_offers,
        lane=Lane.PROTECTING,
    ),
    Kind(
        name="emergency.confirm",
        body=DecidePause,
        read=DecidePause.read,
        apply=decide_pause,
        lane=Lane.PROTECTING,
    ),
)
"""Kinds of this area."""
