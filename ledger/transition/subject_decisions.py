"""What owners and governance decide about a subject: its status and its certified attributes.

Each decision raises the record's count of changes, and what owners sign for it names the count or
is final, so that none of their statements serves twice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ledger.bodies.subject import SuspendSubject
from ledger.bodies.subject_decisions import (
    CertifySubject,
    ResumeSubject,
    RevokeSubject,
    attributes_digest,
    resume_digest,
)
from ledger.errors import LedgerError
from ledger.records.group import GroupRecord
from ledger.records.subject import AttributesRecord, SubjectRecord, SubjectStatus
from ledger.state import Draft, StateReader
from ledger.state_keys import attributes_key, subject_key
from ledger.transition.approvals import (
    Consent,
    check_approvals,
    record_approvals,
    require_newer,
    require_threshold,
)
from ledger.transition.context import BlockContext
from ledger.transition.kind import Kind, Lane
from ledger.transition.subject import find_subject, is_seated
from protocol.approval import Action
from protocol.did import SubjectKind
from protocol.digest import DidId, Digest
from protocol.governance import GOVERNANCE_GROUP, GOVERNANCE_POLICY


def suspend_subject(
    draft: Draft, _signer: DidId, body: SuspendSubject, context: BlockContext
) -> None:
    """Suspends a subject by owners of one of its groups, `revoke_threshold` of them (L52, I40).

    Raises:
        LedgerError: `did.unknown`, `did.status`, `did.group`, `did.validator`, `approval.*`, among
            them `approval.used` for one that is no newer than an earlier one of its owner.
    """
    record = find_subject(draft, body.did)
    _require_not_revoked(record)
    if body.group in record.suspended_by:
        raise LedgerError("did.status", f"owners of {body.group!r} have suspended it already")
    if record.kind is SubjectKind.VALIDATOR or is_seated(body.did, context):
        raise LedgerError("did.validator", "validators leave by a change of the validator set only")
    group = _group_of(draft, record, body.group)
    policy = group.policy_at(context.time_ms)
    consent = Consent(
        root=group.owner_root,
        action=Action.SUSPEND,
        subject=Digest(body.did),
        group=body.group,
        policy=policy,
    )
    checked = check_approvals(body.approvals, consent, context)
    require_threshold(len(checked), draft.policy(policy).revoke_threshold, "a suspension")
    require_newer(draft, checked)
    record_approvals(draft, checked)
    groups = tuple(sorted((*record.suspended_by, body.group), key=str.encode))
    _write_status(draft, body.did, record, SubjectStatus.SUSPENDED, groups)


def resume_subject(
    draft: Draft, _signer: DidId, body: ResumeSubject, context: BlockContext
) -> None:
    """Ends a group's suspension, by `enrol_threshold` of its owners (I41).

    The subject is active again once no other group keeps it suspended.

    Raises:
        LedgerError: `did.unknown`, `did.status`, `did.group`, `approval.*`.
    """
    record = find_subject(draft, body.did)
    _require_not_revoked(record)
    if body.group not in record.suspended_by:
        raise LedgerError("did.status", f"owners of {body.group!r} have not suspended it")
    group = _group_of(draft, record, body.group)
    policy = group.policy_at(context.time_ms)
    consent = Consent(
        root=group.owner_root,
        action=Action.RESUME,
        subject=resume_digest(body.did, record.changes),
        group=body.group,
        policy=policy,
    )
    checked = check_approvals(body.approvals, consent, context)
    require_threshold(len(checked), draft.policy(policy).enrol_threshold, "a resumption")
    groups = tuple(name for name in record.suspended_by if name != body.group)
    status = SubjectStatus.SUSPENDED if groups else SubjectStatus.ACTIVE
    _write_status(draft, body.did, record, status, groups)


def revoke_subject(
    draft: Draft, _signer: DidId, body: RevokeSubject, context: BlockContext
) -> None:
    """Ends a subject for good; its name and keys stay taken (I42).

    Raises:
        LedgerError: `did.unknown`, `did.status`, `did.group`, `did.validator`, `approval.*`.
    """
    record = find_subject(draft, body.did)
    _require_not_revoked(record)
    if is_seated(body.did, context):
        raise LedgerError("did.validator", "a sitting validator leaves by a change of the set only")
    if body.group is None:
        root = draft.governance_root()
        needed = root.threshold
        consent = Consent(
            root=root,
            action=Action.RETIRE,
            subject=Digest(body.did),
            group=GOVERNANCE_GROUP,
            policy=GOVERNANCE_POLICY,
        )
    else:
        if record.kind is SubjectKind.VALIDATOR:
            raise LedgerError("did.validator", "the governance root alone revokes validators")
        group = _group_of(draft, record, body.group)
        policy = group.policy_at(context.time_ms)
        needed = draft.policy(policy).revoke_threshold
        consent = Consent(
            root=group.owner_root,
            action=Action.RETIRE,
            subject=Digest(body.did),
            group=body.group,
            policy=policy,
        )
    checked = check_approvals(body.approvals, consent, context)
    require_threshold(len(checked), needed, "a revocation")
    record_approvals(draft, checked)
    final = replace(record, pending=None)
    _write_status(draft, body.did, final, SubjectStatus.REVOKED, record.suspended_by)


def certify_subject(
    draft: Draft, _signer: DidId, body: CertifySubject, context: BlockContext
) -> None:
    """States a subject's attributes in a group, by `enrol_threshold` of its owners (I43).

    Raises:
        LedgerError: `did.unknown`, `did.status`, `did.group`, `approval.*`.
    """
    record = find_subject(draft, body.did)
    _require_not_revoked(record)
    group = _group_of(draft, record, body.group)
    policy = group.policy_at(context.time_ms)
    before = draft.certification(body.did, body.group)
    version = 1 if before is None else before.version + 1
    consent = Consent(
        root=group.owner_root,
        action=Action.CERTIFY,
        subject=attributes_digest(body.did, body.group, version, body.attributes),
        group=body.group,
        policy=policy,
    )
    checked = check_approvals(body.approvals, consent, context)
    require_threshold(len(checked), draft.policy(policy).enrol_threshold, "attributes")
    following = AttributesRecord(version=version, attributes=body.attributes)
    draft.put(attributes_key(body.did, body.group), following.encode())


def _write_status(
    draft: Draft,
    did: DidId,
    record: SubjectRecord,
    status: SubjectStatus,
    suspended_by: tuple[str, ...],
) -> None:
    following = replace(
        record, status=status, suspended_by=suspended_by, changes=record.changes + 1
    )
    draft.put(subject_key(did), following.encode())


def _require_not_revoked(record: SubjectRecord) -> None:
    if record.status is SubjectStatus.REVOKED:
        raise LedgerError("did.status", "a revoked subject stays revoked")


def _group_of(state: StateReader, record: SubjectRecord, name: str) -> GroupRecord:
    group = state.group(name)
    if group is None or name not in record.groups:
        raise LedgerError("did.group", f"the subject does not belong to group {name!r}")
    return group


KINDS: Final = (
    Kind(
        name="did.suspend",
        body=SuspendSubject,
        read=SuspendSubject.read,
        apply=suspend_subject,
        lane=Lane.PROTECTING,
    ),
    Kind(
        name="did.resume",
        body=ResumeSubject,
        read=ResumeSubject.read,
        apply=resume_subject,
    ),
    Kind(
        name="did.revoke",
        body=RevokeSubject,
        read=RevokeSubject.read,
        apply=revoke_subject,
        lane=Lane.PROTECTING,
    ),
    Kind(
        name="did.certify",
        body=CertifySubject,
        read=CertifySubject.read,
        apply=certify_subject,
    ),
)
"""Kinds of this area."""
