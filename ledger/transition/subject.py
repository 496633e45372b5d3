"""What `did.create`, `did.rotate` and `did.suspend` do."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ledger.bodies.subject import CreateSubject, RotateKeys, SuspendSubject, rotation_message
from ledger.errors import LedgerError, LedgerNotYetError
from ledger.records.subject import SubjectRecord, SubjectStatus
from ledger.state import Draft
from ledger.state_keys import holder_key, subject_key
from ledger.transition.approvals import (
    Consent,
    check_approvals,
    record_approvals,
    require_threshold,
)
from ledger.transition.context import BlockContext
from ledger.transition.kind import Kind, Lane
from protocol.approval import Action
from protocol.did import DidRecord, KeyPurpose, Keys, SubjectKind, next_keys_digest
from protocol.digest import DidId, Digest
from protocol.errors import SignatureError


def create_subject(
    draft: Draft, _signer: DidId, body: CreateSubject, context: BlockContext
) -> None:
    """Admits a subject if owners of each of its groups agree, `enrol_threshold` of them (L50).

    Raises:
        LedgerError: `did.join`, `did.kind`, `did.groups`, `did.known`, `did.key`, `group.unknown`,
            `approval.*`.
    """
    record = _verify_join(body)
    if record.kind is SubjectKind.VALIDATOR:
        raise LedgerError("did.kind", "validators enter by a change of the validator set only")
    if not record.groups or len(record.groups) != len(body.approvals):
        raise LedgerError(
            "did.groups",
            f"{len(body.approvals)} approval lists for {len(record.groups)} groups (at least 1)",
        )
    did = record.did
    if draft.subject(did) is not None:
        raise LedgerError("did.known", f"subject {did.hex()[:8]} exists already")
    for group, approvals in zip(record.groups, body.approvals, strict=True):
        _check_enrolment(draft, did, group, approvals, context)
    write_subject(draft, did, SubjectRecord.of(record))


def _verify_join(body: CreateSubject) -> DidRecord:
    try:
        return body.join.verify()
    except SignatureError as error:
        raise LedgerError("did.join", str(error)) from error


def _check_enrolment(
    draft: Draft, did: DidId, group: str, approvals: tuple[bytes, ...], context: BlockContext
) -> None:
    known = draft.group(group)
    if known is None:
        raise LedgerNotYetError("group.unknown", f"group {group!r} does not exist")
    policy = known.policy_at(context.time_ms)
    consent = Consent(
        root=known.owner_root, action=Action.ENROL, subject=Digest(did), group=group, policy=policy
    )
    checked = check_approvals(approvals, consent, context)
    needed = draft.policy(policy).enrol_threshold
    require_threshold(len(checked), needed, f"enrolment in {group!r}")
    record_approvals(draft, checked)


def write_subject(draft: Draft, did: DidId, record: SubjectRecord) -> None:
    """Writes a subject and claims its keys.

    Raises:
        LedgerError: `did.key`: another subject holds or held one of them.
    """
    for _, key in record.keys:
        if draft.holder(key) not in (None, did):
            raise LedgerError("did.key", f"key {key.raw.hex()[:8]} belongs to another subject")
        draft.put(holder_key(key), did)
    draft.put(subject_key(did), record.encode())


def rotate_keys(draft: Draft, _signer: DidId, body: RotateKeys, context: BlockContext) -> None:
    """Replaces a subject's keys by those it committed to earlier (L51).

    A thief of the current keys cannot rotate, since the next ones are known by digest only. The
    seat of a validator keeps its vote key, which changes with the validator set.

    Raises:
        LedgerError: `did.unknown`, `did.status`, `did.commitment`, `did.purposes`, `did.signature`,
            `did.validator`, `did.key`.
    """
    record = draft.subject(body.did)
    if record is None:
        raise LedgerNotYetError("did.unknown", f"subject {body.did.hex()[:8]} does not exist")
    _require_active(record, "rotate its keys")
    if record.next_keys is None or record.next_keys != next_keys_digest(body.keys):
        raise LedgerError("did.commitment", "the new keys are not those committed to")
    if tuple(purpose for purpose, _ in body.keys) != tuple(purpose for purpose, _ in record.keys):
        raise LedgerError("did.purposes", "the new keys serve other purposes than the old ones")
    following = replace(
        record, keys=body.keys, next_keys=body.next_keys, sequence=record.sequence + 1
    )
    _check_possession(body, following.sequence, context)
    _check_reuse(draft, record.keys, body)
    if _is_validator(body.did, context):
        vote_key = record.key(KeyPurpose.VALIDATOR)
        if vote_key != following.key(KeyPurpose.VALIDATOR):
            raise LedgerError("did.validator", "a sitting validator cannot change its vote key")
    write_subject(draft, body.did, following)


def _check_possession(body: RotateKeys, sequence: int, context: BlockContext) -> None:
    message = rotation_message(
        context.chain,
        context.era,
        body.did,
        sequence=sequence,
        keys=body.keys,
        next_keys=body.next_keys,
    )
    if len(body.signatures) != len(body.keys):
        raise LedgerError("did.signature", "each new key must sign the rotation")
    for (_, key), signature in zip(body.keys, body.signatures, strict=True):
        try:
            key.verify(signature, message)
        except SignatureError as error:
            raise LedgerError("did.signature", str(error)) from error


def _check_reuse(draft: Draft, old: Keys, body: RotateKeys) -> None:
    """A key may stay in its place; a retired key or one for another purpose may not return."""
    for entry in body.keys:
        if entry not in old and draft.holder(entry[1]) is not None:
            raise LedgerError("did.key", f"key {entry[1].raw.hex()[:8]} was in use before")


def suspend_subject(
    draft: Draft, _signer: DidId, body: SuspendSubject, context: BlockContext
) -> None:
    """Suspends a subject by owners of one of its groups, `revoke_threshold` of them (L52).

    Raises:
        LedgerError: `did.unknown`, `did.status`, `did.group`, `did.validator`, `approval.*`.
    """
    record = draft.subject(body.did)
    if record is None:
        raise LedgerNotYetError("did.unknown", f"subject {body.did.hex()[:8]} does not exist")
    _require_active(record, "be suspended again")
    if record.kind is SubjectKind.VALIDATOR or _is_validator(body.did, context):
        raise LedgerError("did.validator", "validators leave by a change of the validator set only")
    group = draft.group(body.group)
    if group is None or body.group not in record.groups:
        raise LedgerError("did.group", f"the subject does not belong to group {body.group!r}")
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
    record_approvals(draft, checked)
    draft.put(subject_key(body.did), replace(record, status=SubjectStatus.SUSPENDED).encode())


def _require_active(record: SubjectRecord, what: str) -> None:
    if record.status is not SubjectStatus.ACTIVE:
        raise LedgerError("did.status", f"a {record.status.name.lower()} subject cannot {what}")


def _is_validator(did: DidId, context: BlockContext) -> bool:
    return any(member.did == did for member in context.validators.members)


KINDS: Final = (
    Kind(
        name="did.create",
        body=CreateSubject,
        read=CreateSubject.read,
        apply=create_subject,
    ),
    Kind(
        name="did.rotate",
        body=RotateKeys,
        read=RotateKeys.read,
        apply=rotate_keys,
    ),
    Kind(
        name="did.suspend",
        body=SuspendSubject,
        read=SuspendSubject.read,
        apply=suspend_subject,
        lane=Lane.PROTECTING,
    ),
)
"""Kinds of this area."""
