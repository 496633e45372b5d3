"""Builders for tests of rollouts, health reports and emergency pauses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ledger.bodies.emergency import DecidePause, PauseOffers
from ledger.bodies.health import ReportHealth
from ledger.bodies.rollout import STOPPING, Command, CommandRollout, StopRollout
from ledger.bodies.subject_decisions import CertifySubject, attributes_digest
from ledger.records.rollout import RolloutRecord
from protocol.approval import Action
from protocol.digest import ManifestId
from protocol.governance import GOVERNANCE_GROUP, GOVERNANCE_POLICY
from protocol.group import Group, Policy
from protocol.keys import PrivateKey
from protocol.manifest import SignedManifest
from protocol.owner_root import EMERGENCY_ROLE, OwnerRoot
from protocol.rollout import SHARE_WHOLE, Promotion, RolloutPlan, RolloutStage
from protocol.transaction import SignedTransaction
from tests.support.ledger import (
    FLEET,
    GENESIS_MS,
    HOUR_MS,
    Bench,
    Lab,
    Member,
    make_bench,
    make_key,
    make_policy,
    make_root,
    owner_keys,
)

SOAK_MS = HOUR_MS
"""Soak of each stage of `make_plan`."""
LONG_MS = GENESIS_MS + 10_000 * HOUR_MS
"""Approvals of these builders are valid until then."""


def make_stage(share: int = SHARE_WHOLE, **changes: int) -> RolloutStage:
    """A stage that tolerates one failing site and a fifth of failures among ten reports."""
    values = {
        "share": share,
        "soak_ms": SOAK_MS,
        "success_sites_min": 1,
        "failure_sites_max": 1,
        "failure_share_max": 2000,
        "sample_min": 10,
    }
    return RolloutStage(**{**values, **changes})


def make_plan(
    *shares: int, promotion: Promotion = Promotion.OWNERS, priority: int = 0, **changes: int
) -> RolloutPlan:
    """A plan with equal stages of these shares; 10 %, 50 % and all unless given."""
    return RolloutPlan(
        stages=tuple(make_stage(share, **changes) for share in shares or (1000, 5000, SHARE_WHOLE)),
        priority=priority,
        promotion=promotion,
    )


def rollout_policy(plan: RolloutPlan | None = None, **changes: object) -> Policy:
    """A policy with a plan."""
    return make_policy(rollout=plan or make_plan(), **changes)


def emergency_keys(group: str = FLEET, count: int = 2) -> list[PrivateKey]:
    """Emergency keys of a group, ascending by public key."""
    keys = [make_key(f"emergency/{group}/{index}") for index in range(count)]
    return sorted(keys, key=lambda key: key.public.raw)


def with_emergency(root: OwnerRoot, keys: list[PrivateKey]) -> OwnerRoot:
    """A root that names emergency keys."""
    holders = tuple((key.public, f"emergency-{index}") for index, key in enumerate(keys))
    return replace(root, roles=((EMERGENCY_ROLE, holders),))


def emergency_group(name: str = "pumps", policy: Policy | None = None, keys: int = 2) -> Group:
    """A group with emergency keys."""
    root = with_emergency(make_root(owner_keys(name)), emergency_keys(name, keys))
    return Group(name=name, owner_root=root, policy=policy or make_policy())


def rollout_of(bench: Bench, manifest: SignedManifest, group: str = FLEET) -> RolloutRecord:
    """The rollout of a release."""
    record = bench.state.rollout(manifest.manifest_id, group)
    assert record is not None, "the release has a rollout"
    return record


def command(
    lab: Lab,
    manifest: ManifestId,
    what: Command,
    *,
    owners: int = 2,
    sequence: int = 0,
    priority: int = 0,
    signer: Member | None = None,
    group: str = FLEET,
    **changes: object,
) -> SignedTransaction:
    """A command by the first `owners` owners; `changes` go to their approvals."""
    stop = StopRollout(
        manifest=manifest, group=group, command=what, sequence=sequence, approvals=()
    )
    go = CommandRollout(
        manifest=manifest,
        group=group,
        command=what,
        priority=priority,
        sequence=sequence,
        approvals=(),
    )
    body = stop if what in STOPPING else go
    approvals = tuple(
        lab.approval(
            Action.ROLLOUT,
            body.subject,
            key,
            **{"group": group, "valid_until_ms": LONG_MS, **changes},  # type: ignore[arg-type]
        )
        for key in owner_keys(group)[:owners]
    )
    return lab.transaction(
        signer or lab.gateways[0],
        replace(body, approvals=approvals),
    )


def health(
    lab: Lab,
    manifest: ManifestId,
    signer: Member,
    *,
    good: int = 0,
    bad: int = 0,
    devices: int = 0,
    group: str = FLEET,
) -> SignedTransaction:
    """A gateway's report."""
    body = ReportHealth(
        manifest=manifest, group=group, successes=good, failures=bad, devices=devices
    )
    return lab.transaction(signer, body)


def certify_site(lab: Lab, member: Member, site: str, *, group: str = FLEET) -> SignedTransaction:
    """Two owners certify where a gateway stands, for the first time."""
    attributes = (("site", site),)
    subject = attributes_digest(member.did, group, 1, attributes)
    approvals = lab.approvals(Action.CERTIFY, subject, group=group)
    body = CertifySubject(did=member.did, group=group, attributes=attributes, approvals=approvals)
    return lab.transaction(lab.publisher, body)


def pause(
    lab: Lab,
    key: PrivateKey,
    *,
    group: str | None = "pumps",
    product: str | None = None,
    manifest: ManifestId | None = None,
    sequence: int = 1,
    **changes: object,
) -> PauseOffers:
    """A pause by one key."""
    body = PauseOffers(
        group=group, product=product, manifest=manifest, sequence=sequence, approval=b""
    )
    approval = lab.approval(
        Action.PAUSE,
        body.subject,
        key,
        **{**_scope(lab, group), **changes},  # type: ignore[arg-type]
    )
    return replace(body, approval=approval)


def decide(
    lab: Lab,
    key: PrivateKey,
    until_ms: int,
    *,
    group: str | None = "pumps",
    sequence: int = 1,
    owners: list[PrivateKey] | None = None,
    **changes: object,
) -> DecidePause:
    """Two owners' decision about a key's pause; 0 lifts it."""
    body = DecidePause(
        group=group,
        key_id=key.public.key_id,
        sequence=sequence,
        until_ms=until_ms,
        approvals=(),
    )
    if owners is None:
        owners = lab.governance[:2] if group is None else owner_keys(group)[:2]
    approvals = tuple(
        lab.approval(
            Action.CONFIRM,
            body.subject,
            owner,
            **{**_scope(lab, group), **changes},  # type: ignore[arg-type]
        )
        for owner in owners
    )
    return replace(body, approvals=approvals)


def _scope(lab: Lab, group: str | None) -> dict[str, object]:
    if group is None:
        return {
            "group": GOVERNANCE_GROUP,
            "policy": GOVERNANCE_POLICY,
            "valid_until_ms": LONG_MS,
        }
    return {"group": group, "policy": lab.policy_id(group), "valid_until_ms": LONG_MS}


def running(
    gateways: int = 2, sites: Sequence[str] = (), **plan: Any
) -> tuple[Bench, SignedManifest]:
    """A bench with an authorised release whose rollout has begun, and certified sites."""
    bench = make_bench(gateways=gateways, policy=rollout_policy(make_plan(**plan)))
    for member, site in zip(bench.lab.gateways, sites, strict=False):
        bench.apply(certify_site(bench.lab, member, site))
    manifest = bench.lab.manifest()
    bench.apply(bench.lab.propose(manifest))
    bench.apply(bench.lab.approve(manifest.manifest_id))
    return bench, manifest


def report(
    bench: Bench, manifest: SignedManifest, gateway: int = 0, **counts: int
) -> SignedTransaction:
    """What one of the lab's gateways reports."""
    return health(bench.lab, manifest.manifest_id, bench.lab.gateways[gateway], **counts)
