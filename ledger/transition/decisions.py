"""What owners, builders and time decide about a proposed manifest.

`manifest.approve`, `manifest.attest`, `manifest.override` and `manifest.settle` add a signature, a
privilege or nothing, and then ask the same question: does the policy hold now? `manifest.revoke`
takes back. All judging is `ledger.rules.judge`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ledger.bodies.manifest import (
    ApproveManifest,
    AttestManifest,
    OverrideManifest,
    RevokeManifest,
    SettleManifest,
)
from ledger.errors import LedgerError, LedgerNotYetError
from ledger.records.manifest import SIGNERS_MAX, LatestRecord, ManifestRecord, ManifestStatus
from ledger.records.subject import SubjectStatus
from ledger.rules.judge import Judgement, judge
from ledger.rules.release import collect_release
from ledger.state import Draft, StateReader
from ledger.state_keys import events_key, latest_key, manifest_key
from ledger.transition.approvals import (
    Consent,
    check_approvals,
    record_approvals,
    require_threshold,
)
from ledger.transition.context import BlockContext
from ledger.transition.rollout import begin_rollout
from protocol.approval import Action, SignedApproval
from protocol.digest import DidId, Digest, ManifestId
from protocol.owner_root import BUILDER_ROLE, OWNER_ROLE, OwnerRoot
from protocol.rule import Counter


def approve_manifest(
    draft: Draft, _signer: DidId, body: ApproveManifest, context: BlockContext
) -> None:
    """Adds approvals; once the policy holds the manifest is authorised and the latest (L56).

    Everybody whom the owner root names may approve; thresholds count owners, a rule may count
    others. More than needed are welcome: a gateway may ask for more than the policy does.

    Raises:
        LedgerError: `manifest.unknown`, `manifest.revoked`, `manifest.expired`,
            `manifest.sequence`, `manifest.publisher`, `approval.*`.
    """
    record = _find_live(draft, body.manifest, body.group, context)
    consent = _consent(draft, body, record, Action.AUTHORISE, role=None)
    checked = _check_foreign(draft, body.approvals, consent, record, context)
    approvers = _extended(draft, body.manifest, record.approvers, checked)
    _conclude(draft, body.manifest, body.group, replace(record, approvers=approvers), context)


def attest_manifest(
    draft: Draft, _signer: DidId, body: AttestManifest, context: BlockContext
) -> None:
    """Adds builders' attestations of the image (K45, K46).

    Raises:
        LedgerError: as `approve_manifest`.
    """
    record = _find_live(draft, body.manifest, body.group, context)
    content = draft.facts(body.manifest)
    assert content is not None, "facts are written with the proposal"
    consent = _consent(draft, body, record, Action.ATTEST, role=BUILDER_ROLE)
    consent = replace(consent, subject=content.image)
    checked = _check_foreign(draft, body.approvals, consent, record, context)
    attesters = _extended(draft, body.manifest, record.attesters, checked)
    _conclude(draft, body.manifest, body.group, replace(record, attesters=attesters), context)


def override_manifest(
    draft: Draft, _signer: DidId, body: OverrideManifest, context: BlockContext
) -> None:
    """Lets a release pass pauses and freezes, if as many owners agree as may amend (K47).

    It authorises nothing: the policy's approvals, attestations, soak and rule hold as before.

    Raises:
        LedgerError: as `approve_manifest`; `manifest.override`: it may already.
    """
    record = _find_live(draft, body.manifest, body.group, context)
    if record.is_override:
        raise LedgerError("manifest.override", "this manifest passes freezes already")
    consent = _consent(draft, body, record, Action.OVERRIDE, role=OWNER_ROLE)
    checked = check_approvals(body.approvals, consent, context)
    policy = draft.policy(record.policy)
    needed = max(policy.amend_threshold, consent.root.threshold)
    require_threshold(len(checked), needed, "an override")
    record_approvals(draft, checked)
    _conclude(draft, body.manifest, body.group, replace(record, is_override=True), context)


def settle_manifest(
    draft: Draft, _signer: DidId, body: SettleManifest, context: BlockContext
) -> None:
    """Judges again a manifest that only waited for time, or for a rotation (K48).

    Raises:
        LedgerError: `manifest.unknown`, `manifest.revoked`, `manifest.expired`,
            `manifest.sequence`, `manifest.publisher`; `manifest.settled`: it is authorised.
        LedgerNotYetError: `manifest.unsettled`: its policy still does not hold.
    """
    record = _find_live(draft, body.manifest, body.group, context)
    if record.status is ManifestStatus.AUTHORISED:
        raise LedgerError("manifest.settled", "this manifest is authorised already")
    judgement = judge_now(draft, body.manifest, body.group, record, context.time_ms)
    if not judgement.is_satisfied:
        first = judgement.missing[0]
        raise LedgerNotYetError("manifest.unsettled", f"{first.rule}: {first.reason.text}")
    _conclude(draft, body.manifest, body.group, record, context)


def judge_now(
    state: StateReader, manifest: ManifestId, group: str, record: ManifestRecord, time_ms: int
) -> Judgement:
    """Judges a record under the policy at its proposal, at a header time."""
    policy, known = state.policy(record.policy), state.group(group)
    assert known is not None, "a manifest is proposed in existing groups only"
    release = collect_release(state, manifest, group, record, policy, time_ms=time_ms)
    return judge(release, policy, state.policy(known.policy_at(time_ms)), time_ms)


def _conclude(
    draft: Draft, manifest: ManifestId, group: str, record: ManifestRecord, context: BlockContext
) -> None:
    """Writes a record, authorised if its policy holds now."""
    following = record
    is_open = record.status is ManifestStatus.PROPOSED
    if is_open and judge_now(draft, manifest, group, record, context.time_ms).is_satisfied:
        known = draft.group(group)
        assert known is not None, "a manifest is proposed in existing groups only"
        following = replace(
            record,
            status=ManifestStatus.AUTHORISED,
            authorised_height=context.height,
            authorised_ms=context.time_ms,
            root_version=known.owner_root.version,
        )
        latest = LatestRecord(manifest=manifest, sequence=record.sequence)
        draft.put(latest_key(group, record.product), latest.encode())
        record_event(draft, group, Counter.AUTHORISED, context)
        begin_rollout(draft, manifest, group, draft.policy(record.policy), context)
    draft.put(manifest_key(manifest, group), following.encode())


def revoke_manifest(
    draft: Draft, _signer: DidId, body: RevokeManifest, context: BlockContext
) -> None:
    """Adds revocations; with enough of them the manifest is revoked for good (L57).

    Owners of the root in force count, so that nobody counts twice by a new key; all there are
    suffice, so that no rotation to fewer owners makes a release irrevocable. The floor against
    rollback stays where it was.

    Raises:
        LedgerError: `manifest.unknown`, `manifest.revoked`, `approval.*`.
    """
    record = _find(draft, body.manifest, body.group)
    if record.status is ManifestStatus.REVOKED:
        raise LedgerError("manifest.revoked", "this manifest is revoked already")
    consent = _consent(draft, body, record, Action.REVOKE, role=OWNER_ROLE)
    checked = check_approvals(body.approvals, consent, context)
    root = consent.root
    needed = min(draft.policy(record.policy).revoke_threshold, len(root.owners))
    revokers = record.revokers
    if _count_owners(root, revokers) < needed:  # a rotation may have made them enough
        revokers = _extended(draft, body.manifest, revokers, checked)
    following = replace(record, revokers=revokers)
    if _count_owners(root, revokers) >= needed:
        following = replace(following, status=ManifestStatus.REVOKED, revoked_height=context.height)
        record_event(draft, body.group, Counter.REVOKED, context)
    draft.put(manifest_key(body.manifest, body.group), following.encode())


def _count_owners(root: OwnerRoot, key_ids: Sequence[Digest]) -> int:
    return sum(root.owner(key_id) is not None for key_id in key_ids)


def record_event(draft: Draft, group: str, counter: Counter, context: BlockContext) -> None:
    """Remembers what happened in a group, for rules that count."""
    events = draft.events(group).having(counter, context.time_ms)
    draft.put(events_key(group), events.encode())


def _find(draft: Draft, manifest: ManifestId, group: str) -> ManifestRecord:
    record = draft.manifest(manifest, group)
    if record is None:
        raise LedgerNotYetError(
            "manifest.unknown", f"manifest {manifest.hex()[:8]} is not proposed in {group!r}"
        )
    return record


def _find_live(
    draft: Draft, manifest: ManifestId, group: str, context: BlockContext
) -> ManifestRecord:
    """A record that may still gain something: not revoked, not expired, not overtaken."""
    record = _find(draft, manifest, group)
    if record.status is ManifestStatus.REVOKED:
        raise LedgerError("manifest.revoked", "a revoked manifest is never authorised again")
    if record.is_expired(context.time_ms):
        raise LedgerError("manifest.expired", f"expired at {record.expires_ms}")
    if record.status is ManifestStatus.PROPOSED:
        require_above_floor(draft, group, record.product, record.sequence)
        publisher = draft.subject(record.publisher)
        if publisher is None or publisher.status is not SubjectStatus.ACTIVE:
            raise LedgerError("manifest.publisher", "the publisher has been suspended")
    return record


def require_above_floor(draft: Draft, group: str, product: str, sequence: int) -> None:
    """Checks that a release is newer than every one the group has authorised.

    Raises:
        LedgerError: `manifest.sequence`.
    """
    latest = draft.latest(group, product)
    if latest is not None and sequence <= latest.sequence:
        raise LedgerError(
            "manifest.sequence",
            f"sequence {sequence} of {product!r} is not above {latest.sequence} in {group!r}",
        )


def _consent(
    draft: Draft,
    body: ApproveManifest | AttestManifest | OverrideManifest | RevokeManifest,
    record: ManifestRecord,
    action: Action,
    *,
    role: str | None,
) -> Consent:
    return Consent(
        root=_root(draft, body.group),
        action=action,
        subject=Digest(body.manifest),
        group=body.group,
        policy=record.policy,
        role=role,
    )


def _root(draft: Draft, group: str) -> OwnerRoot:
    known = draft.group(group)
    assert known is not None, "a manifest is proposed in existing groups only"
    return known.owner_root


def _check_foreign(
    draft: Draft,
    approvals: Sequence[bytes],
    consent: Consent,
    record: ManifestRecord,
    context: BlockContext,
) -> tuple[SignedApproval, ...]:
    """Checks approvals, and that none is by a key that is or was the publisher's own (K41).

    Raises:
        LedgerError: `approval.self` and all that `check_approvals` raises.
    """
    checked = check_approvals(approvals, consent, context)
    for signed in checked:
        holder = consent.root.holder(signed.signed.key_id)
        if holder is not None and draft.holder(holder.key) == record.publisher:
            raise LedgerError("approval.self", f"{holder.name!r} is the publisher")
    return checked


def _extended(
    draft: Draft,
    manifest: ManifestId,
    known: tuple[Digest, ...],
    approvals: tuple[SignedApproval, ...],
) -> tuple[Digest, ...]:
    """Adds those who had not agreed before; what the others signed first stays.

    What they signed is kept under the manifest also where it names an image: another manifest with
    the same image may come under another policy.

    Approvals are public: who submits one of several first must not make the others void.

    Raises:
        LedgerError: `approval.duplicate`: nobody else is among them; `approval.full`.
    """
    fresh = tuple(signed for signed in approvals if signed.signed.key_id not in known)
    if not fresh:
        raise LedgerError("approval.duplicate", "these owners have agreed before")
    added = record_approvals(draft, fresh, under=Digest(manifest))
    following = tuple(sorted((*known, *added)))
    if len(following) > SIGNERS_MAX:
        raise LedgerError("approval.full", f"{SIGNERS_MAX} keys have signed, most are retired")
    return following
