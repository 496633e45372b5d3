"""What `cap.grant` and `cap.revoke` do, and whether a capability covers something."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ledger.bodies.capability import GrantCapability, RevokeCapability
from ledger.errors import LedgerError, LedgerNotYetError
from ledger.records.capability import CAPABILITIES_MAX, CapabilitiesRecord, IssueRecord
from ledger.records.subject import SubjectStatus
from ledger.standing import capabilities_of, issue_of
from ledger.state import Draft, StateReader
from ledger.state_keys import capabilities_key, issue_key
from ledger.transition.approvals import (
    Consent,
    check_approvals,
    record_approvals,
    require_threshold,
)
from ledger.transition.context import BlockContext
from ledger.transition.kind import Kind, Lane
from protocol.approval import Action
from protocol.capability import Capability, Verb, decode_capability
from protocol.digest import DidId, Digest, ManifestId
from protocol.errors import EncodingError


def may_by_capability(
    state: StateReader,
    did: DidId,
    group: str,
    verb: Verb,
    *,
    product: str,
    manifest: ManifestId | None,
    time_ms: int,
) -> bool:
    """Whether a capability in force lets a subject do something (A12, A13)."""
    held = capabilities_of(state, did, group, time_ms)
    return any(item.covers(verb, product=product, manifest=manifest) for item in held)


def grant_capability(
    draft: Draft, _signer: DidId, body: GrantCapability, context: BlockContext
) -> None:
    """Grants a capability if enough owners of its group agree (A10).

    Raises:
        LedgerError: `cap.malformed`, `cap.known`, `cap.expired`, `cap.subject`, `cap.count`,
            `group.unknown`, `approval.*`.
    """
    capability = _read_capability(body.capability)
    identifier = capability.capability_id
    if issue_of(draft, identifier) is not None:
        raise LedgerError("cap.known", "this capability was granted before")
    if capability.expires_ms < context.time_ms:
        raise LedgerError("cap.expired", f"void after {capability.expires_ms}")
    subject = draft.subject(capability.subject)
    if subject is None:
        raise LedgerNotYetError("cap.subject", "the subject does not exist")
    if subject.status is not SubjectStatus.ACTIVE:
        raise LedgerError("cap.subject", f"a {subject.status.name.lower()} subject is given none")
    granters, root_version = _check_grant(draft, capability, identifier, body.approvals, context)
    key = capabilities_key(capability.subject, capability.group)
    held = capabilities_of(draft, capability.subject, capability.group, context.time_ms)
    if len(held) >= CAPABILITIES_MAX:
        raise LedgerError("cap.count", f"{len(held)} capabilities are in force already")
    draft.put(key, CapabilitiesRecord((*held, capability)).encode())
    issue = IssueRecord(
        subject=capability.subject,
        group=capability.group,
        granted_height=context.height,
        granters=granters,
        root_version=root_version,
    )
    draft.put(issue_key(identifier), issue.encode())


def _read_capability(raw: bytes) -> Capability:
    try:
        return decode_capability(raw)
    except EncodingError as error:
        raise LedgerError("cap.malformed", str(error)) from error


def _check_grant(
    draft: Draft,
    capability: Capability,
    identifier: Digest,
    approvals: tuple[bytes, ...],
    context: BlockContext,
) -> tuple[tuple[Digest, ...], int]:
    """Who granted it, as key ids, and under which version of the owner root."""
    group = draft.group(capability.group)
    if group is None:
        raise LedgerNotYetError("group.unknown", f"group {capability.group!r} does not exist")
    policy = group.policy_at(context.time_ms)
    consent = Consent(
        root=group.owner_root,
        action=Action.GRANT,
        subject=identifier,
        group=capability.group,
        policy=policy,
    )
    checked = check_approvals(approvals, consent, context)
    # Gateways check grants themselves, and never with fewer owners than their pinned root asks for.
    needed = max(draft.policy(policy).enrol_threshold, group.owner_root.threshold)
    require_threshold(len(checked), needed, f"a capability in {capability.group!r}")
    return record_approvals(draft, checked), group.owner_root.version


def revoke_capability(
    draft: Draft, _signer: DidId, body: RevokeCapability, context: BlockContext
) -> None:
    """Withdraws a capability for good, by `revoke_threshold` owners of its group (A11).

    Raises:
        LedgerError: `cap.unknown`, `cap.withdrawn`, `approval.*`.
    """
    issue = issue_of(draft, body.capability)
    if issue is None:
        raise LedgerNotYetError("cap.unknown", "no such capability was granted")
    if issue.withdrawn_height is not None:
        raise LedgerError("cap.withdrawn", "this capability is withdrawn already")
    group = draft.group(issue.group)
    assert group is not None, "a capability names a group that exists"
    policy = group.policy_at(context.time_ms)
    consent = Consent(
        root=group.owner_root,
        action=Action.WITHDRAW,
        subject=body.capability,
        group=issue.group,
        policy=policy,
    )
    checked = check_approvals(body.approvals, consent, context)
    needed = draft.policy(policy).revoke_threshold
    require_threshold(len(checked), needed, "a withdrawal")
    record_approvals(draft, checked)
    key = capabilities_key(issue.subject, issue.group)
    raw = draft.get(key)
    assert raw is not None, "what was granted is on record"
    kept = (
        item
        for item in CapabilitiesRecord.decode(raw).granted
        if item.capability_id != body.capability
    )
    draft.put(key, CapabilitiesRecord(tuple(kept)).encode())
    withdrawn = replace(issue, withdrawn_height=context.height)
    draft.put(issue_key(body.capability), withdrawn.encode())


KINDS: Final = (
    Kind(
        name="cap.grant",
        body=GrantCapability,
        read=GrantCapability.read,
        apply=grant_capability,
    ),
    Kind(
        name="cap.revoke",
        body=RevokeCapability,
        read=RevokeCapability.read,
        apply=revoke_capability,
        lane=Lane.PROTECTING,
    ),
)
"""Kinds of this area."""
