"""Every decision of owners is for one chain, era, policy, group and time, and serves once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ledger.transition.kinds import decode_body
from protocol.digest import ChainId, sha256
from protocol.group import Placement
from protocol.transaction import SignedTransaction
from tests.support.contracts import (
    BUILDERS,
    OWNERS,
    SITE,
    amending,
    approving,
    attesting,
    moving,
    overriding,
    policy_in_force,
    proposal,
    revoking,
    rotating,
    site_bench,
    site_policy,
    site_root,
    submit,
    vetoing,
)
from tests.support.ledger import FLEET, GENESIS_MS, Bench, make_group, owner_keys

NEXT = site_policy(revoke_threshold=1)
FRESH = owner_keys("fresh")
ROOT = site_root(FRESH, version=2)
Make = Callable[..., SignedTransaction]
MAKERS: dict[str, Make] = {
    "manifest.approve": lambda b, m, **c: approving(b, m, OWNERS[:2], **c),
    "manifest.revoke": lambda b, m, **c: revoking(b, m, OWNERS[:2], **c),
    "manifest.override": lambda b, m, **c: overriding(b, m, OWNERS[:2], **c),
    "manifest.attest": lambda b, m, **c: attesting(b, m, BUILDERS[:1], **c),
    "policy.set": lambda b, _m, **c: amending(b, NEXT, OWNERS[:2], **c),
    "policy.veto": lambda b, _m, **c: vetoing(b, NEXT.policy_id, OWNERS[:2], **c),
    "group.rotate": lambda b, _m, **c: rotating(b, ROOT, [*OWNERS[:2], *FRESH[:2]], **c),
    "group.update": lambda b, _m, **c: moving(b, "child", Placement(parent=FLEET), **c),
}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"era": 1}, "approval.era"),
    ({"chain": ChainId(sha256(b"another chain"))}, "approval.signature"),
    ({"policy": NEXT.policy_id}, "approval.policy"),
    ({"valid_until_ms": GENESIS_MS}, "approval.expired"),
]


def ready(kind: str) -> tuple[Bench, Any]:
    """A bench in which the decision would be taken."""
    bench = site_bench(others=[make_group("child")])
    manifest = proposal(bench)
    if kind == "policy.veto":
        bench.apply(amending(bench, NEXT))
    return bench, manifest


@pytest.mark.parametrize("kind", MAKERS)
def test_what_is_signed_for_something_else_decides_nothing(kind: str) -> None:
    bench, manifest = ready(kind)
    for changes, rule in WRONG:
        assert bench.refusal(MAKERS[kind](bench, manifest, **changes)).rule == rule
    assert bench.state.group(SITE) is not None
    signed = MAKERS[kind](bench, manifest)
    assert signed.transaction.kind == kind
    bench.apply(signed)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_decision_is_not_taken_twice(kind: str) -> None:
    bench, manifest = ready(kind)
    first = MAKERS[kind](bench, manifest)
    bench.apply(first)
    assert bench.refusal(first).rule == "tx.nonce"
    again = MAKERS[kind](bench, manifest)  # the same approvals in another envelope
    assert again.transaction.body == first.transaction.body or kind == "group.update"
    expected = {
        "manifest.approve": "approval.duplicate",
        "manifest.revoke": "manifest.revoked",
        "manifest.override": "manifest.override",
        "manifest.attest": "approval.duplicate",
        "policy.set": "approval.used",
        "policy.veto": "policy.not_scheduled",
        "group.rotate": "root.version",
        "group.update": "group.same",
    }
    assert bench.refusal(again).rule == expected[kind]


@pytest.mark.parametrize("kind", MAKERS)
def test_approvals_of_one_kind_decide_nothing_of_another(kind: str) -> None:
    bench, manifest = ready(kind)
    target = MAKERS[kind](bench, manifest)
    body: Any = decode_body(kind, target.transaction.body)
    for other, make in MAKERS.items():
        if other in (kind, "group.update") or (other == "policy.veto" and kind != "policy.veto"):
            continue
        donor: Any = decode_body(other, make(bench, manifest).transaction.body)
        swapped = replace(body, approvals=donor.approvals)
        refusal = bench.refusal(submit(bench, swapped))
        assert refusal.rule in ("approval.action", "approval.owner"), (other, refusal)
    assert policy_in_force(bench) == site_policy().policy_id
