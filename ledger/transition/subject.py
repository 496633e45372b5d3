"""What `did.create` and `did.rotate` do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from ledger.bodies.subject import CreateSubject, RotateKeys, rotation_message
from ledger.errors import LedgerError, LedgerNotYetError
from ledger.records.subject import SubjectRecord, SubjectStatus
from ledger.state import Draft
from ledger.state_keys import holder_key, subject_key
from ledger.transition.context import BlockContext
from ledger.transition.enrolment import require_enrolment, take_seat
from ledger.transition.kind import Kind, Lane
from protocol.did import (
    DidRecord,
    Keys,
    SubjectKind,
    next_keys_digest,
    rotating,
    with_rotated,
)
from protocol.digest import DidId
from protocol.errors import SignatureError


def create_subject(
    draft: Draft, _signer: DidId, body: CreateSubject, context: BlockContext
) -> None:
    """Admits a subject if owners of each of its groups agree, or gave it a seat (L50, I30).

    Raises:
        LedgerError: `did.join`, `did.kind`, `did.groups`, `did.known`, `did.key`, `group.unknown`,
            `approval.*`, `seat.*`.
    """
    record = _verify_join(body)
    if record.kind is SubjectKind.VALIDATOR:
        raise LedgerError("did.kind", "validators enter by a change of the validator set only")
    did = record.did
    if draft.subject(did) is not None:
        raise LedgerError("did.known", f"subject {did.hex()[:8]} exists already")
    if body.seat is None:
        require_enrolment(draft, record, body.approvals, context)
    else:
        take_seat(draft, record, body.seat, body.approvals, context)
    write_subject(draft, did, SubjectRecord.of(record))


def _verify_join(body: CreateSubject) -> DidRecord:
    try:
        return body.join.verify()
    except SignatureError as error:
        raise LedgerError("did.join", str(error)) from error


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


def find_subject(draft: Draft, did: DidId) -> SubjectRecord:
    """The record of a subject that a transaction is about.

    Raises:
        LedgerNotYetError: `did.unknown`.
    """
    record = draft.subject(did)
    if record is None:
        raise LedgerNotYetError("did.unknown", f"subject {did.hex()[:8]} does not exist")
    return record


def rotate_keys(draft: Draft, _signer: DidId, body: RotateKeys, context: BlockContext) -> None:
    """Replaces a subject's keys by those it committed to earlier (L51).

    A thief of the current keys cannot rotate, since the next ones are known by digest only. Vote
    keys are no part of it: a record's is for one epoch, later ones are certified. A recovery that
    waits is void: who holds the committed keys needs none.

    Raises:
        LedgerError: `did.unknown`, `did.status`, `did.commitment`, `did.purposes`, `did.signature`,
            `did.key`.
    """
    record = find_subject(draft, body.did)
    if record.status is not SubjectStatus.ACTIVE:
        status = record.status.name.lower()
        raise LedgerError("did.status", f"a {status} subject cannot rotate its keys")
    if record.next_keys is None or record.next_keys != next_keys_digest(body.keys):
        raise LedgerError("did.commitment", "the new keys are not those committed to")
    sequence = record.sequence + 1
    message = rotation_message(
        context.chain,
        context.era,
        body.did,
        sequence=sequence,
        keys=body.keys,
        next_keys=body.next_keys,
    )
    _check_purposes(record.keys, body.keys)
    check_key_signatures(body.keys, body.signatures, message)
    check_key_change(draft, record, body.keys)
    following = replace(
        record,
        keys=with_rotated(record.keys, body.keys),
        next_keys=body.next_keys,
        sequence=sequence,
        pending=None,
    )
    write_subject(draft, body.did, following)


def check_key_signatures(keys: Keys, signatures: Sequence[bytes], message: bytes) -> None:
    """Checks that each new key signed the change, in the order of the keys.

    Raises:
        LedgerError: `did.signature`.
    """
    if len(signatures) != len(keys):
        raise LedgerError("did.signature", "each new key must sign the change")
    for (_, key), signature in zip(keys, signatures, strict=True):
        try:
            key.verify(signature, message)
        except SignatureError as error:
            raise LedgerError("did.signature", str(error)) from error


def check_key_change(draft: Draft, record: SubjectRecord, keys: Keys) -> None:
    """Checks that keys may take the place of a subject's own.

    A key may stay in its place; a retired key or one for another purpose may not return.

    Raises:
        LedgerError: `did.purposes`, `did.key`.
    """
    _check_purposes(record.keys, keys)
    for entry in keys:
        if entry not in record.keys and draft.holder(entry[1]) is not None:
            raise LedgerError("did.key", f"key {entry[1].raw.hex()[:8]} was in use before")


def _check_purposes(old: Keys, new: Keys) -> None:
    if tuple(purpose for purpose, _ in new) != rotating([purpose for purpose, _ in old]):
        raise LedgerError(
            "did.purposes", "the new keys are not one for each old one but the vote key"
        )


def is_seated(did: DidId, context: BlockContext) -> bool:
    """Tells whether a subject has a seat in the current validator set."""
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
        lane=Lane.PROTECTING,
        # A subject's own keys suffice for it: eight an hour end a compromise, and are no flood.
        hourly_max=8,
    ),
)
"""Kinds of this area."""
