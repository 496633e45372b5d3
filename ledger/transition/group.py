"""What `group.create` and `policy.set` do."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ledger.bodies.group import CreateGroup, SetPolicy
from ledger.errors import LedgerError, LedgerNotYetError
from ledger.records.group import GroupRecord
from ledger.state import Draft
from ledger.state_keys import group_key, origin_key, policy_key
from ledger.transition.approvals import (
    Consent,
    check_approvals,
    record_approvals,
    require_threshold,
)
from ledger.transition.context import BlockContext
from ledger.transition.kind import Kind
from protocol.approval import Action, SignedApproval
from protocol.digest import DidId, Digest, sha256
from protocol.encoding import INTEGER_MAX
from protocol.errors import EncodingError
from protocol.group import Group, Policy, check_policy_fits, decode_group, decode_policy


def create_group(draft: Draft, _signer: DidId, body: CreateGroup, context: BlockContext) -> None:
    """Adds a group if enough governance keys agree (L53).

    Raises:
        LedgerError: `group.malformed`, `group.known`, `approval.*`.
    """
    try:
        group = decode_group(body.group)
    except EncodingError as error:
        raise LedgerError("group.malformed", str(error)) from error
    if draft.group(group.name) is not None:
        raise LedgerError("group.known", f"group {group.name!r} exists already")
    root = draft.governance_root()
    consent = Consent(
        root=root,
        action=Action.CREATE_GROUP,
        subject=sha256(body.group),
        group=group.name,
        policy=group.policy.policy_id,
    )
    checked = check_approvals(body.approvals, consent, context)
    require_threshold(len(checked), root.threshold, "a new group")
    write_group(draft, group, creators=record_approvals(draft, checked))


def write_group(draft: Draft, group: Group, *, creators: tuple[Digest, ...]) -> None:
    """Writes a new group, its first policy and its original bytes, which proofs show."""
    policy = group.policy.policy_id
    record = GroupRecord(
        owner_root=group.owner_root,
        policy=policy,
        scheduled=None,
        creators=creators,
    )
    draft.put(policy_key(policy), group.policy.encode())
    draft.put(group_key(group.name), record.encode())
    draft.put(origin_key(group.name), group.encode())


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
    is_waiting = group.scheduled is not None and context.time_ms < group.scheduled[1]
    if policy.policy_id == current_id and not is_waiting:
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
    for signed in checked:
        _require_unused(draft, signed)
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


def _require_unused(draft: Draft, signed: SignedApproval) -> None:
    """A group may return to an old policy; what led away from it must not serve again."""
    content = signed.approval
    known = draft.approval(content.subject, content.action, signed.signed.key_id, content.group)
    if known == signed.signed.raw:
        raise LedgerError("approval.used", "this approval has changed the policy before")


KINDS: Final = (
    Kind(
        name="group.create",
        body=CreateGroup,
        read=CreateGroup.read,
        apply=create_group,
    ),
    Kind(
        name="policy.set",
        body=SetPolicy,
        read=SetPolicy.read,
        apply=set_policy,
    ),
)
"""Kinds of this area."""
