"""What `policy.set` and `policy.veto` do."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ledger.bodies.group import SetPolicy, VetoPolicy
from ledger.errors import LedgerError, LedgerNotYetError
from ledger.state import Draft
from ledger.state_keys import group_key, policy_key
from ledger.transition.approvals import (
    Consent,
    check_approvals,
    record_approvals,
    require_newer,
    require_threshold,
)
from ledger.transition.context import BlockContext
from ledger.transition.kind import Kind, Lane
from protocol.approval import Action
from protocol.digest import DidId, Digest
from protocol.encoding import INTEGER_MAX
from protocol.errors import EncodingError
from protocol.policy import Policy, check_policy_fits, decode_policy, vetoes_needed


def set_policy(draft: Draft, _signer: DidId, body: SetPolicy, context: BlockContext) -> None:
    """Schedules a policy if the old one's rule is met; it waits the old one's delay (L54).

    A policy scheduled earlier and not yet in force is replaced, which is how owners take it back.

    Raises:
        LedgerError: `group.unknown`, `policy.malformed`, `policy.unfit`, `policy.same`,
            `approval.*`, among them `approval.used` for one that served before.
    """
    group = draft.group(body.group)
    if group is None:
        raise LedgerNotYetError("group.unknown", f"group {body.group!r} does not exist")
    policy = _read_policy(body.policy)
    try:
        check_policy_fits(policy, group.owner_root)
    except EncodingError as error:
        raise LedgerError("policy.unfit", str(error)) from error
    current_id = group.policy_at(context.time_ms)
    if policy.policy_id == current_id and group.waiting(context.time_ms) is None:
        raise LedgerError("policy.same", "this policy is in force already")
    current = draft.policy(current_id)
    consent = Consent(
        root=group.owner_root,
        action=Action.AMEND,
        subject=Digest(policy.policy_id),
        group=body.group,
        policy=current_id,
    )
    checked = check_approvals(body.approvals, consent, context)
    require_threshold(len(checked), current.amend_threshold, "another policy")
    require_newer(draft, checked)
    record_approvals(draft, checked)
    effective_ms = min(context.time_ms + current.amend_delay_ms, INTEGER_MAX)
    following = replace(group, policy=current_id, scheduled=(policy.policy_id, effective_ms))
    draft.put(policy_key(policy.policy_id), body.policy)
    draft.put(group_key(body.group), following.encode())


def _read_policy(raw: bytes) -> Policy:
    try:
        return decode_policy(raw)
    except EncodingError as error:
        raise LedgerError("policy.malformed", str(error)) from error


def veto_policy(draft: Draft, _signer: DidId, body: VetoPolicy, context: BlockContext) -> None:
    """Stops a scheduled policy within its delay, if `vetoes_needed` owners say so (K16).

    Raises:
        LedgerError: `group.unknown`, `policy.not_scheduled`, `approval.*`.
    """
    group = draft.group(body.group)
    if group is None:
        raise LedgerNotYetError("group.unknown", f"group {body.group!r} does not exist")
    if group.waiting(context.time_ms) != body.policy:
        raise LedgerError("policy.not_scheduled", "this policy does not wait to take effect")
    current_id = group.policy_at(context.time_ms)
    consent = Consent(
        root=group.owner_root,
        action=Action.VETO,
        subject=Digest(body.policy),
        group=body.group,
        policy=current_id,
    )
    checked = check_approvals(body.approvals, consent, context)
    needed = vetoes_needed(draft.policy(current_id), len(group.owner_root.owners))
    require_threshold(len(checked), needed, "a veto")
    require_newer(draft, checked)
    record_approvals(draft, checked)
    draft.put(group_key(body.group), replace(group, policy=current_id, scheduled=None).encode())


KINDS: Final = (
    Kind(
        name="policy.set",
        body=SetPolicy,
        read=SetPolicy.read,
        apply=set_policy,
    ),
    Kind(
        name="policy.veto",
        body=VetoPolicy,
        read=VetoPolicy.read,
        apply=veto_policy,
        lane=Lane.PROTECTING,
    ),
)
"""Kinds of this area."""
