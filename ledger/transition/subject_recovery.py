"""Keys given back to a subject that lost its own: `did.recover`, a delay, `did.claim`.

Owners of every group the subject belongs to decide together, or the governance root does; for
publishers and validators the root alone. Who holds the committed next keys may object during the
delay by rotating to them: a thief of the current keys cannot, the owner of a safe copy can.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ledger.bodies.subject_decisions import (
    ClaimKeys,
    Decider,
    RecoverKeys,
    recovery_digest,
    recovery_message,
)
from ledger.errors import LedgerError, LedgerNotYetError
from ledger.records.subject import PendingRecovery, SubjectRecord, SubjectStatus
from ledger.state import Draft
from ledger.state_keys import subject_key
from ledger.transition.approvals import Consent, check_approvals, require_threshold
from ledger.transition.context import BlockContext
from ledger.transition.kind import Kind, Lane
from ledger.transition.subject import (
    check_key_change,
    check_key_signatures,
    find_subject,
    write_subject,
)
from protocol.approval import Action
from protocol.did import SubjectKind, with_rotated
from protocol.digest import DidId, Digest
from protocol.encoding import INTEGER_MAX
from protocol.governance import GOVERNANCE_GROUP, GOVERNANCE_POLICY

RECOVERY_DELAY_MS: Final = 24 * 3600 * 1000
"""Header time between decision and effect: a day in which a living owner notices and rotates."""
_GOVERNED: Final = (SubjectKind.VALIDATOR, SubjectKind.PUBLISHER)
"""Kinds whose keys reach beyond the groups they name."""


def recover_keys(draft: Draft, _signer: DidId, body: RecoverKeys, context: BlockContext) -> None:
    """Decides on new keys for a subject; a recovery that waits already is replaced (I50 to I52).

    Raises:
        LedgerError: `did.unknown`, `did.status`, `did.purposes`, `did.signature`, `did.key`,
            `did.decider`, `did.groups`, `approval.*`.
    """
    record = find_subject(draft, body.did)
    if record.status is SubjectStatus.REVOKED:
        raise LedgerError("did.status", "the keys of a revoked subject never return")
    digest = recovery_digest(
        body.did,
        sequence=record.sequence + 1,
        number=record.changes,
        keys=body.keys,
        next_keys=body.next_keys,
    )
    message = recovery_message(context.chain, context.era, digest)
    check_key_signatures(body.keys, body.signatures, message)
    check_key_change(draft, record, body.keys)
    _require_consent(draft, record, body, digest, context)
    effective_ms = min(context.time_ms + RECOVERY_DELAY_MS, INTEGER_MAX)
    pending = PendingRecovery(digest=digest, number=record.changes, effective_ms=effective_ms)
    following = replace(record, pending=pending, changes=record.changes + 1)
    draft.put(subject_key(body.did), following.encode())


def _require_consent(
    draft: Draft, record: SubjectRecord, body: RecoverKeys, digest: Digest, context: BlockContext
) -> None:
    if body.decider is Decider.GOVERNANCE:
        if len(body.approvals) != 1:
            raise LedgerError("did.groups", "the governance root gives one list of approvals")
        root = draft.governance_root()
        consent = Consent(
            root=root,
            action=Action.RECOVER,
            subject=digest,
            group=GOVERNANCE_GROUP,
            policy=GOVERNANCE_POLICY,
        )
        checked = check_approvals(body.approvals[0], consent, context)
        require_threshold(len(checked), root.threshold, "a recovery")
        return
    if record.kind in _GOVERNED:
        kind = record.kind.name.lower()
        raise LedgerError("did.decider", f"the governance root alone recovers a {kind}")
    if len(body.approvals) != len(record.groups):
        raise LedgerError(
            "did.groups", f"{len(body.approvals)} approval lists for {len(record.groups)} groups"
        )
    for name, approvals in zip(record.groups, body.approvals, strict=True):
        group = draft.group(name)
        assert group is not None, "subjects enter existing groups only, and groups stay"
        policy = group.policy_at(context.time_ms)
        consent = Consent(
            root=group.owner_root,
            action=Action.RECOVER,
            subject=digest,
            group=name,
            policy=policy,
        )
        checked = check_approvals(approvals, consent, context)
        require_threshold(len(checked), draft.policy(policy).amend_threshold, "a recovery")


def claim_keys(draft: Draft, _signer: DidId, body: ClaimKeys, context: BlockContext) -> None:
    """Puts recovered keys in force (I53).

    Raises:
        LedgerError: `did.unknown`, `did.pending`, `did.key`, `did.purposes`.
        LedgerNotYetError: `did.waiting`: the delay is not over.
    """
    record = find_subject(draft, body.did)
    pending = record.pending
    if pending is None:
        raise LedgerError("did.pending", "no recovery of this subject is under way")
    digest = recovery_digest(
        body.did,
        sequence=record.sequence + 1,
        number=pending.number,
        keys=body.keys,
        next_keys=body.next_keys,
    )
    if digest != pending.digest:
        raise LedgerError("did.pending", "these are not the keys that were decided on")
    if context.time_ms < pending.effective_ms:
        raise LedgerNotYetError(
            "did.waiting", f"the keys may be claimed from header time {pending.effective_ms} on"
        )
    check_key_change(draft, record, body.keys)
    following = replace(
        record,
        keys=with_rotated(record.keys, body.keys),
        next_keys=body.next_keys,
        sequence=record.sequence + 1,
        pending=None,
    )
    write_subject(draft, body.did, following)


KINDS: Final = (
    Kind(
        name="did.recover",
        body=RecoverKeys,
        read=RecoverKeys.read,
        apply=recover_keys,
        lane=Lane.PROTECTING,
    ),
    Kind(
        name="did.claim",
        body=ClaimKeys,
        read=ClaimKeys.read,
        apply=claim_keys,
        lane=Lane.PROTECTING,
    ),
)
"""Kinds of this area."""
