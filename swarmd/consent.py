"""What owners and builders agreed to, checked from their signatures against a pinned owner root.

This is where a gateway does not take the validators' word (promise G2): who approved is found anew,
the policy's counts are made anew, and its rule must not be refuted by what is shown (K37).
"""

from __future__ import annotations

from collections.abc import Sequence

from ledger.records.facts import ManifestFacts
from ledger.records.manifest import ManifestRecord
from ledger.rules.judge import check_consent
from ledger.state import StateReader
from ledger.state_keys import policy_key
from protocol.approval import Action, check_holders, find_holders, verify_threshold
from protocol.digest import ChainId, Digest, ManifestId
from protocol.errors import VerificationError
from protocol.image import image_digest
from protocol.manifest import SignedManifest
from protocol.owner_root import BUILDER_ROLE, Holder, OwnerRoot
from protocol.policy import Policy


def verified_consent(
    state: StateReader,
    signed: SignedManifest,
    group: str,
    *,
    root: OwnerRoot,
    roots: Sequence[OwnerRoot],
    chain: ChainId,
    era: int,
) -> tuple[Holder, ...]:
    """Checks that a manifest was authorised by those its policy asks for.

    Args:
        state: newest final state, whose record says that it is authorised.
        signed: the manifest.
        group: group that authorised it.
        root: the owner root under which it was, pinned or followed from a pinned one.
        roots: every owner root of the group so far; an override may have come under another one.
        chain: chain of the ledger.
        era: newest era that approvals may be signed for.

    Returns:
        Owners and holders of roles whose approvals verify.

    Raises:
        VerificationError: too few owners or builders signed, the rule cannot have been met, the
            record says something else than the manifest, or claims an override that nobody signed.
    """
    manifest = signed.manifest_id
    record = state.manifest(manifest, group)
    if record is None:
        raise VerificationError(f"no record of manifest {manifest.hex()[:8]} in group {group!r}")
    policy = _find_policy(state, record, group)
    _check_record(record, signed, group)

    def found(action: Action, subject: bytes) -> tuple[Holder, ...]:
        return find_holders(
            state.approvals(manifest, group, action),
            root=root,
            chain=chain,
            era=era,
            action=action,
            subject=subject,
            group=group,
            policy=record.policy,
        )

    holders = found(Action.AUTHORISE, manifest)
    check_holders(
        holders,
        root=root,
        threshold=policy.approve_threshold,
        action=Action.AUTHORISE,
        group=group,
    )
    attesters = found(Action.ATTEST, image_digest(signed.manifest))
    builders = sum(holder.has_role(BUILDER_ROLE) for holder in attesters)
    _check_rule(policy, record, signed, group, holders=holders, builders=builders)
    if record.is_override and not any(
        _is_override(state, signed, group, policy, root=one, chain=chain, era=era) for one in roots
    ):
        raise VerificationError(
            f"group {group!r}: owners agreed to no override of {_name(manifest)}"
        )
    return holders


def verify_revocation(
    state: StateReader,
    manifest: ManifestId,
    group: str,
    record: ManifestRecord,
    roots: Sequence[OwnerRoot],
    *,
    chain: ChainId,
    era: int,
) -> None:
    """Checks that as many owners of one of a group's roots revoked a manifest as L57 asks for.

    Raises:
        VerificationError: they did not.
    """
    policy = _find_policy(state, record, group)
    stored = state.approvals(manifest, group, Action.REVOKE)
    for root in roots:
        holders = find_holders(
            stored,
            root=root,
            chain=chain,
            era=era,
            action=Action.REVOKE,
            subject=manifest,
            group=group,
            policy=record.policy,
        )
        needed = min(policy.revoke_threshold, len(root.owners))
        if sum(holder.is_owner for holder in holders) >= needed:
            return
    raise VerificationError(f"group {group!r}: owners did not revoke {_name(manifest)}")


def _find_policy(state: StateReader, record: ManifestRecord, group: str) -> Policy:
    is_there = state.get(policy_key(record.policy)) is not None
    policy = state.policy(record.policy) if is_there else None
    if policy is None or policy.policy_id != record.policy:
        raise VerificationError(f"group {group!r}: the ledger names another policy than it has")
    return policy


def _check_record(record: ManifestRecord, signed: SignedManifest, group: str) -> None:
    """A record repeats the manifest: rules, pauses and the floor against rollback read it there."""
    content = signed.manifest
    said = (record.publisher, record.product, record.sequence, record.expires_ms)
    if said != (content.publisher, content.product, content.sequence, content.expires_ms):
        raise VerificationError(
            f"group {group!r}: the record of {_name(signed.manifest_id)} is another manifest's"
        )


def _is_override(
    state: StateReader,
    signed: SignedManifest,
    group: str,
    policy: Policy,
    *,
    root: OwnerRoot,
    chain: ChainId,
    era: int,
) -> bool:
    """Whether as many owners of a root as K47 asks for let a release pass freezes and pauses."""
    subject = Digest(signed.manifest_id)
    stored = (state.approval(subject, Action.OVERRIDE, key_id, group) for key_id in root.key_ids())
    try:
        verify_threshold(
            (raw for raw in stored if raw is not None),
            root=root,
            threshold=policy.amend_threshold,
            chain=chain,
            era=era,
            action=Action.OVERRIDE,
            subject=subject,
            group=group,
            policy=policy.policy_id,
        )
    except VerificationError:
        return False
    return True


def _check_rule(
    policy: Policy,
    record: ManifestRecord,
    signed: SignedManifest,
    group: str,
    *,
    holders: tuple[Holder, ...],
    builders: int,
) -> None:
    content = ManifestFacts.of(signed.manifest)
    reason = check_consent(policy, record, content, group, holders=holders, builders=builders)
    if reason.truth is False:
        raise VerificationError(
            f"group {group!r} authorised {_name(signed.manifest_id)} against its rule: "
            f"{reason.text}"
        )


def _name(manifest: ManifestId) -> str:
    return manifest.hex()[:8]
