"""A group with roles for tests of contracts, and shorthand for what its people sign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ledger.bodies.group import RotateRoot, SetPolicy, UpdateGroup, VetoPolicy
from ledger.bodies.manifest import (
    ApproveManifest,
    AttestManifest,
    OverrideManifest,
    RevokeManifest,
    SettleManifest,
)
from ledger.transition.kind import Body
from protocol.approval import Action
from protocol.digest import ManifestId, PolicyId
from protocol.encoding import encode_canonical
from protocol.group import Group, Placement, adoption_digest
from protocol.image import image_digest
from protocol.keys import PrivateKey
from protocol.manifest import SignedManifest
from protocol.owner_root import OwnerRoot
from protocol.policy import Policy
from protocol.rotation import root_digest
from protocol.transaction import SignedTransaction
from tests.support.ledger import Bench, make_bench, make_key, make_lab, make_policy, owner_keys

SITE = "site"
"""The group with roles; the lab's publisher may propose there."""
OWNERS = owner_keys(SITE)
"""Three owners, two of whom decide."""
AUDITOR = make_key("site/auditor")
BUILDERS = tuple(sorted((make_key(f"site/builder/{i}") for i in range(2)), key=lambda k: k.public))
EMERGENCY = make_key("site/emergency")
STRANGER = make_key("site/stranger")


def site_root(
    owners: Sequence[PrivateKey] = OWNERS, *, version: int = 1, threshold: int = 2
) -> OwnerRoot:
    """An owner root with an auditor, two builders and an emergency key."""
    named = sorted((key.public, f"owner {key.public.raw.hex()[:6]}") for key in owners)
    return OwnerRoot(
        version=version,
        threshold=threshold,
        owners=tuple(named),
        roles=(
            ("auditor", ((AUDITOR.public, "auditor"),)),
            ("builder", tuple((key.public, f"builder {i}") for i, key in enumerate(BUILDERS))),
            ("emergency", ((EMERGENCY.public, "duty"),)),
        ),
    )


def site_policy(**changes: Any) -> Policy:
    """A policy under which the lab's publisher may propose."""
    return make_policy(publishers=(make_lab().publisher.did,), **changes)


def site_group(policy: Policy | None = None, **changes: Any) -> Group:
    """The group with roles."""
    group = Group(name=SITE, owner_root=site_root(), policy=policy or site_policy())
    return replace(group, **changes)


def site_bench(policy: Policy | None = None, others: Sequence[Group] = (), **changes: Any) -> Bench:
    """A bench whose genesis has the group with roles."""
    return make_bench(groups=(site_group(policy, **changes), *others))


def policy_in_force(bench: Bench, group: str = SITE, after_ms: int = 1000) -> PolicyId:
    """The policy that approvals of the next block must name."""
    record = bench.state.group(group)
    assert record is not None
    return record.policy_at(bench.time_ms + after_ms)


def signed(
    bench: Bench,
    action: Action,
    subject: bytes,
    keys: Sequence[PrivateKey],
    *,
    group: str = SITE,
    policy: PolicyId | None = None,
    **changes: Any,
) -> tuple[bytes, ...]:
    """Approvals of one thing by some keys."""
    policy = policy or policy_in_force(bench, group)
    return tuple(
        bench.lab.approval(action, subject, key, group=group, policy=policy, **changes)
        for key in keys
    )


def submit(bench: Bench, body: Body) -> SignedTransaction:
    """A transaction by the second gateway, who is nobody in the group.

    Every refusal leaves the nonce free, so the account's lowest one is taken.
    """
    gateway = bench.lab.gateways[1]
    nonce = bench.state.account(gateway.did).nonce
    until_ms = bench.time_ms + 20 * 3_600_000
    return bench.lab.transaction(gateway, body, nonce=nonce, valid_until_ms=until_ms)


def wait(bench: Bench, time_ms: int) -> None:
    """Lets header time pass without a block."""
    bench.time_ms += time_ms


def proposal(bench: Bench, *, sequence: int = 1, **changes: Any) -> SignedManifest:
    """Proposes a manifest in the group with roles."""
    manifest = bench.lab.manifest(**{"sequence": sequence, "groups": (SITE,), **changes})
    bench.apply(bench.lab.propose(manifest))
    return manifest


def manifest_policy(bench: Bench, manifest: ManifestId) -> PolicyId:
    """The policy under which a manifest was proposed."""
    record = bench.state.manifest(manifest, SITE)
    assert record is not None
    return record.policy


def approving(
    bench: Bench, manifest: SignedManifest, keys: Sequence[PrivateKey], **changes: Any
) -> SignedTransaction:
    """`manifest.approve` by some keys."""
    return _deciding(bench, ApproveManifest, Action.AUTHORISE, manifest, keys, **changes)


def revoking(
    bench: Bench, manifest: SignedManifest, keys: Sequence[PrivateKey], **changes: Any
) -> SignedTransaction:
    """`manifest.revoke` by some keys."""
    return _deciding(bench, RevokeManifest, Action.REVOKE, manifest, keys, **changes)


def overriding(
    bench: Bench, manifest: SignedManifest, keys: Sequence[PrivateKey], **changes: Any
) -> SignedTransaction:
    """`manifest.override` by some keys."""
    return _deciding(bench, OverrideManifest, Action.OVERRIDE, manifest, keys, **changes)


def attesting(
    bench: Bench, manifest: SignedManifest, keys: Sequence[PrivateKey], **changes: Any
) -> SignedTransaction:
    """`manifest.attest` by some keys."""
    changes.setdefault("subject", image_digest(manifest.manifest))
    return _deciding(bench, AttestManifest, Action.ATTEST, manifest, keys, **changes)


def _deciding(
    bench: Bench,
    body: Any,
    action: Action,
    manifest: SignedManifest,
    keys: Sequence[PrivateKey],
    *,
    subject: bytes | None = None,
    **changes: Any,
) -> SignedTransaction:
    changes.setdefault("policy", manifest_policy(bench, manifest.manifest_id))
    approvals = signed(bench, action, subject or manifest.manifest_id, keys, **changes)
    return submit(bench, body(manifest=manifest.manifest_id, group=SITE, approvals=approvals))


def settling(bench: Bench, manifest: SignedManifest) -> SignedTransaction:
    """`manifest.settle`."""
    return submit(bench, SettleManifest(manifest=manifest.manifest_id, group=SITE))


def amending(
    bench: Bench, policy: Policy, keys: Sequence[PrivateKey] = tuple(OWNERS[:2]), /, **changes: Any
) -> SignedTransaction:
    """`policy.set` by some keys."""
    approvals = signed(bench, Action.AMEND, policy.policy_id, keys, **changes)
    return submit(bench, SetPolicy(group=SITE, policy=policy.encode(), approvals=approvals))


def vetoing(
    bench: Bench, policy: PolicyId, keys: Sequence[PrivateKey], /, **changes: Any
) -> SignedTransaction:
    """`policy.veto` by some keys."""
    approvals = signed(bench, Action.VETO, policy, keys, **changes)
    return submit(bench, VetoPolicy(group=SITE, policy=policy, approvals=approvals))


def rotating(
    bench: Bench, root: OwnerRoot, keys: Sequence[PrivateKey], **changes: Any
) -> SignedTransaction:
    """`group.rotate` by some keys."""
    approvals = signed(bench, Action.ROTATE_ROOT, root_digest(root), keys, **changes)
    raw = encode_canonical(root.to_value())
    return submit(bench, RotateRoot(group=SITE, root=raw, approvals=approvals))


def moving(
    bench: Bench,
    group: str,
    placement: Placement,
    *,
    keys: Sequence[PrivateKey] | None = None,
    adopters: Sequence[PrivateKey] | None = None,
    **changes: Any,
) -> SignedTransaction:
    """`group.update` by owners of a group, and of its new parent if that changes."""
    keys = owner_keys(group)[:2] if keys is None else keys
    approvals = signed(bench, Action.UPDATE_GROUP, placement.digest(), keys, group=group, **changes)
    parent = placement.parent
    is_new = parent is not None and parent != bench.state.placement(group).parent
    if adopters is None:
        adopters = owner_keys(parent)[:2] if is_new and parent is not None else ()
    adoption = (
        ()
        if parent is None
        else signed(
            bench, Action.UPDATE_GROUP, adoption_digest(group), adopters, group=parent, **changes
        )
    )
    body = UpdateGroup(
        group=group, placement=placement.encode(), approvals=approvals, adoption=adoption
    )
    return submit(bench, body)
