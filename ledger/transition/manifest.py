"""What `manifest.propose`, `manifest.approve` and `manifest.revoke` do."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ledger.bodies.manifest import ApproveManifest, ProposeManifest, RevokeManifest
from ledger.errors import LedgerError, LedgerNotYetError
from ledger.records.manifest import LatestRecord, ManifestRecord, ManifestStatus
from ledger.records.subject import SubjectStatus
from ledger.state import Draft
from ledger.state_keys import latest_key, manifest_key
from ledger.transition.approvals import Consent, check_approvals, record_approvals
from ledger.transition.context import BlockContext
from ledger.transition.kind import Kind, Lane
from ledger.transition.proposals import enter_proposal
from ledger.transition.rollout import begin_rollout
from protocol.approval import Action, SignedApproval
from protocol.did import KeyPurpose, SubjectKind
from protocol.digest import DidId, Digest, ManifestId
from protocol.errors import EncodingError, SignatureError
from protocol.manifest import Manifest, SignedManifest, parse_manifest


def propose_manifest(
    draft: Draft, signer: DidId, body: ProposeManifest, context: BlockContext
) -> None:
    """Enters a manifest as proposed in each of its target groups (L55).

    Raises:
        LedgerError: `manifest.malformed`, `manifest.era`, `manifest.publisher`,
            `manifest.signature`, `manifest.expired`, `manifest.known`, `manifest.sequence`,
            `group.unknown`, `manifest.open`.
    """
    try:
        signed = parse_manifest(body.manifest)
    except EncodingError as error:
        raise LedgerError("manifest.malformed", str(error)) from error
    manifest = signed.manifest
    if manifest.era != context.era:
        raise LedgerError("manifest.era", f"era {manifest.era}, expected {context.era}")
    if manifest.expires_ms is not None and manifest.expires_ms < context.time_ms:
        raise LedgerError("manifest.expired", f"expired at {manifest.expires_ms}")
    _check_publisher(draft, signer, signed, context)
    for group in manifest.groups:
        _propose_in_group(draft, signed.manifest_id, manifest, group, context)


def _check_publisher(
    draft: Draft, signer: DidId, signed: SignedManifest, context: BlockContext
) -> None:
    publisher = signed.manifest.publisher
    if publisher != signer:
        raise LedgerError("manifest.publisher", "only its publisher may propose a manifest")
    record = draft.subject(publisher)
    key = None if record is None else record.key(KeyPurpose.PERSON)
    if record is None or record.kind is not SubjectKind.PUBLISHER or key is None:
        raise LedgerError("manifest.publisher", f"{publisher.hex()[:8]} is no publisher")
    try:
        signed.verify(key, context.chain)
    except SignatureError as error:
        raise LedgerError("manifest.signature", str(error)) from error


def _propose_in_group(
    draft: Draft, manifest_id: ManifestId, manifest: Manifest, group: str, context: BlockContext
) -> None:
    known = draft.group(group)
    if known is None:
        raise LedgerNotYetError("group.unknown", f"group {group!r} does not exist")
    policy_id = known.policy_at(context.time_ms)
    _check_may_publish(draft, manifest.publisher, group, named=draft.policy(policy_id).publishers)
    if draft.manifest(manifest_id, group) is not None:
        raise LedgerError("manifest.known", "this manifest was proposed before")
    _require_above_floor(draft, group, manifest.product, manifest.sequence)
    record = ManifestRecord(
        status=ManifestStatus.PROPOSED,
        publisher=manifest.publisher,
        product=manifest.product,
        sequence=manifest.sequence,
        policy=policy_id,
        expires_ms=manifest.expires_ms,
        proposed_height=context.height,
    )
    enter_proposal(draft, manifest.publisher, group, manifest_id, context)
    draft.put(manifest_key(manifest_id, group), record.encode())


def _check_may_publish(
    draft: Draft, publisher: DidId, group: str, *, named: tuple[DidId, ...]
) -> None:
    """The policy's list decides if it has one, membership in the group otherwise."""
    record = draft.subject(publisher)
    assert record is not None, "the publisher was looked up before"
    if publisher not in named if named else group not in record.groups:
        raise LedgerError("manifest.publisher", f"publisher may not propose for {group!r}")


def _require_above_floor(draft: Draft, group: str, product: str, sequence: int) -> None:
    latest = draft.latest(group, product)
    if latest is not None and sequence <= latest.sequence:
        raise LedgerError(
            "manifest.sequence",
            f"sequence {sequence} of {product!r} is not above {latest.sequence} in {group!r}",
        )


def approve_manifest(
    draft: Draft, _signer: DidId, body: ApproveManifest, context: BlockContext
) -> None:
    """Adds approvals; with enough of them the manifest is authorised and the latest (L56).

    More approvals than needed are welcome: a gateway may ask for more than the policy does.

    Raises:
        LedgerError: `manifest.unknown`, `manifest.revoked`, `manifest.expired`,
            `manifest.sequence`, `manifest.publisher`, `approval.*`.
    """
    record = _find(draft, body.manifest, body.group)
    if record.status is ManifestStatus.REVOKED:
        raise LedgerError("manifest.revoked", "a revoked manifest is never authorised again")
    if record.is_expired(context.time_ms):
        raise LedgerError("manifest.expired", f"expired at {record.expires_ms}")
    if record.status is ManifestStatus.PROPOSED:
        _require_above_floor(draft, body.group, record.product, record.sequence)
        publisher = draft.subject(record.publisher)
        if publisher is None or publisher.status is not SubjectStatus.ACTIVE:
            raise LedgerError("manifest.publisher", "the publisher has been suspended")
    checked = _check_owners(draft, body, record, Action.AUTHORISE, context)
    fresh = _without_known(record.approvers, checked)
    approvers = tuple(sorted((*record.approvers, *record_approvals(draft, fresh))))
    following = replace(record, approvers=approvers)
    policy = draft.policy(record.policy)
    if record.status is ManifestStatus.PROPOSED and len(approvers) >= policy.approve_threshold:
        following = replace(
            following, status=ManifestStatus.AUTHORISED, authorised_height=context.height
        )
        latest = LatestRecord(manifest=body.manifest, sequence=record.sequence)
        draft.put(latest_key(body.group, record.product), latest.encode())
        begin_rollout(draft, body.manifest, body.group, policy, context)
    draft.put(manifest_key(body.manifest, body.group), following.encode())


def revoke_manifest(
    draft: Draft, _signer: DidId, body: RevokeManifest, context: BlockContext
) -> None:
    """Adds revocations; with enough of them the manifest is revoked for good (L57).

    The floor against rollback stays where it was.

    Raises:
        LedgerError: `manifest.unknown`, `manifest.revoked`, `approval.*`.
    """
    record = _find(draft, body.manifest, body.group)
    if record.status is ManifestStatus.REVOKED:
        raise LedgerError("manifest.revoked", "this manifest is revoked already")
    checked = _check_owners(draft, body, record, Action.REVOKE, context)
    fresh = _without_known(record.revokers, checked)
    revokers = tuple(sorted((*record.revokers, *record_approvals(draft, fresh))))
    following = replace(record, revokers=revokers)
    if len(revokers) >= draft.policy(record.policy).revoke_threshold:
        following = replace(following, status=ManifestStatus.REVOKED, revoked_height=context.height)
    draft.put(manifest_key(body.manifest, body.group), following.encode())


def _find(draft: Draft, manifest: ManifestId, group: str) -> ManifestRecord:
    record = draft.manifest(manifest, group)
    if record is None:
        raise LedgerNotYetError(
            "manifest.unknown", f"manifest {manifest.hex()[:8]} is not proposed in {group!r}"
        )
    return record


def _check_owners(
    draft: Draft,
    body: ApproveManifest | RevokeManifest,
    record: ManifestRecord,
    action: Action,
    context: BlockContext,
) -> tuple[SignedApproval, ...]:
    group = draft.group(body.group)
    assert group is not None, "a manifest is proposed in existing groups only"
    consent = Consent(
        root=group.owner_root,
        action=action,
        subject=Digest(body.manifest),
        group=body.group,
        policy=record.policy,
    )
    return check_approvals(body.approvals, consent, context)


def _without_known(
    known: tuple[Digest, ...], approvals: tuple[SignedApproval, ...]
) -> tuple[SignedApproval, ...]:
    """Leaves out the owners that agreed before; what they signed first stays.

    Approvals are public: who submits one of several first must not make the others void.

    Raises:
        LedgerError: `approval.duplicate`: nobody else is among them.
    """
    fresh = tuple(signed for signed in approvals if signed.signed.key_id not in known)
    if not fresh:
        raise LedgerError("approval.duplicate", "these owners have agreed before")
    return fresh


KINDS: Final = (
    Kind(
        name="manifest.propose",
        body=ProposeManifest,
        read=ProposeManifest.read,
        apply=propose_manifest,
    ),
    Kind(
        name="manifest.approve",
        body=ApproveManifest,
        read=ApproveManifest.read,
        apply=approve_manifest,
    ),
    Kind(
        name="manifest.revoke",
        body=RevokeManifest,
        read=RevokeManifest.read,
        apply=revoke_manifest,
        lane=Lane.PROTECTING,
    ),
)
"""Kinds of this area."""
