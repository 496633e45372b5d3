"""What `manifest.propose` does, and the kinds of the area; decisions are in `decisions`."""

from __future__ import annotations

from typing import Final

from ledger.bodies.manifest import (
    ApproveManifest,
    AttestManifest,
    OverrideManifest,
    ProposeManifest,
    RevokeManifest,
    SettleManifest,
)
from ledger.errors import LedgerError, LedgerNotYetError
from ledger.records.facts import ManifestFacts
from ledger.records.manifest import ManifestRecord, ManifestStatus
from ledger.rules.membership import belongs_to
from ledger.rules.membership import is_selected as is_selected_by
from ledger.state import Draft
from ledger.state_keys import facts_key, manifest_key
from ledger.transition.capability import may_by_capability
from ledger.transition.context import BlockContext
from ledger.transition.decisions import (
    approve_manifest,
    attest_manifest,
    override_manifest,
    record_event,
    require_above_floor,
    revoke_manifest,
    settle_manifest,
)
from ledger.transition.kind import Kind, Lane
from ledger.transition.proposals import enter_proposal
from protocol.capability import Verb
from protocol.did import KeyPurpose, SubjectKind
from protocol.digest import DidId, ManifestId
from protocol.errors import EncodingError, SignatureError
from protocol.manifest import Manifest, SignedManifest, parse_manifest
from protocol.policy import Policy
from protocol.rule import Counter


def propose_manifest(
    draft: Draft, signer: DidId, body: ProposeManifest, context: BlockContext
) -> None:
    """Enters a manifest as proposed in each of its target groups (L55).

    Raises:
        LedgerError: `manifest.malformed`, `manifest.era`, `manifest.publisher`,
            `manifest.signature`, `manifest.expired`, `manifest.known`, `manifest.sequence`,
            `manifest.lifetime`, `group.unknown`, `manifest.open`.
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
    draft.put(facts_key(signed.manifest_id), ManifestFacts.of(manifest).encode())
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
    policy = draft.policy(policy_id)
    may_publish = may_by_capability(
        draft,
        manifest.publisher,
        group,
        Verb.PUBLISH,
        product=manifest.product,
        manifest=manifest_id,
        time_ms=context.time_ms,
    )
    if not may_publish:
        _check_may_publish(draft, manifest.publisher, group, named=policy.publishers)
    _check_lifetime(manifest, policy, context)
    if draft.manifest(manifest_id, group) is not None:
        raise LedgerError("manifest.known", "this manifest was proposed before")
    require_above_floor(draft, group, manifest.product, manifest.sequence)
    record = ManifestRecord(
        status=ManifestStatus.PROPOSED,
        publisher=manifest.publisher,
        product=manifest.product,
        sequence=manifest.sequence,
        policy=policy_id,
        expires_ms=manifest.expires_ms,
        proposed_height=context.height,
        proposed_ms=context.time_ms,
    )
    record_event(draft, group, Counter.PROPOSED, context)
    enter_proposal(draft, manifest.publisher, group, manifest_id, context)
    draft.put(manifest_key(manifest_id, group), record.encode())


def _check_may_publish(
    draft: Draft, publisher: DidId, group: str, *, named: tuple[DidId, ...]
) -> None:
    """Without a capability the policy's list decides if it has one, else membership in the group.

    Belonging to a child is not enough here: its owners do not choose their parent's publishers.
    """
    record = draft.subject(publisher)
    assert record is not None, "the publisher was looked up before"
    if named:
        is_allowed = publisher in named
    else:
        is_selected = belongs_to(draft, publisher, group) and is_selected_by(
            draft, publisher, group
        )
        is_allowed = group in record.groups or is_selected
    if not is_allowed:
        raise LedgerError("manifest.publisher", f"publisher may not propose for {group!r}")


def _check_lifetime(manifest: Manifest, policy: Policy, context: BlockContext) -> None:
    """A policy may demand that releases end by themselves (K17)."""
    longest_ms = policy.manifest_lifetime_ms_max
    if longest_ms is None:
        return
    if manifest.expires_ms is None or manifest.expires_ms - context.time_ms > longest_ms:
        raise LedgerError(
            "manifest.lifetime",
            f"expires at {manifest.expires_ms}, the policy asks for {longest_ms} ms at most",
        )


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
        name="manifest.attest",
        body=AttestManifest,
        read=AttestManifest.read,
        apply=attest_manifest,
    ),
    Kind(
        name="manifest.settle",
        body=SettleManifest,
        read=SettleManifest.read,
        apply=settle_manifest,
    ),
    Kind(
        name="manifest.override",
        body=OverrideManifest,
        read=OverrideManifest.read,
        apply=override_manifest,
        lane=Lane.PROTECTING,
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
