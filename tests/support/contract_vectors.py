"""Vectors of contracts: transactions of owners and builders, and rules with what they come to."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from ledger.bodies.manifest import ProposeManifest
from protocol.calendar import DAY_MS, HOUR_MS, Freeze
from protocol.encoding import encode_canonical
from protocol.group import Placement
from protocol.rule import Age, All, Comparison, Count, Counter, KOf, Moment
from protocol.transaction import SignedTransaction
from tests.support.contracts import (
    AUDITOR,
    BUILDERS,
    OWNERS,
    SITE,
    STRANGER,
    amending,
    approving,
    attesting,
    moving,
    overriding,
    revoking,
    rotating,
    settling,
    site_bench,
    site_policy,
    site_root,
    vetoing,
    wait,
)
from tests.support.ledger import FLEET, GENESIS_MS, Bench, make_group, owner_keys
from tests.support.ledger_vectors import Recorder
from tests.support.rule_oracle import holds, leaves, random_rule, random_world

RULES: int = 24
"""Rules that are pinned, each with two sets of facts."""


def contracts_vector() -> dict[str, Any]:
    """Every kind of contracts, in order, with what is refused on the way."""
    rule = All(
        (
            KOf(1, ("auditor",)),
            Age(Moment.PROPOSED, Comparison.AT_LEAST, HOUR_MS),
            Count(Counter.AUTHORISED, DAY_MS, Comparison.LESS, 2),
        )
    )
    freeze = Freeze(GENESIS_MS + 3 * DAY_MS, GENESIS_MS + 4 * DAY_MS)
    policy = site_policy(
        rule=rule,
        attestations=1,
        soak_ms=HOUR_MS,
        freezes=(freeze,),
        separation=(("auditor", "owner"),),
    )
    recorder = Recorder(site_bench(policy, [make_group("child")]), [])
    bench = recorder.bench
    first = bench.lab.manifest(groups=(SITE,))
    second = bench.lab.manifest(sequence=2, groups=(SITE,))
    relaxed = site_policy(attestations=1)
    fresh = sorted(owner_keys("fresh"), key=lambda key: key.public.raw)
    root = site_root(fresh, version=2)
    late = {"valid_until_ms": bench.time_ms + 300 * DAY_MS}
    steps: list[Callable[[Bench], SignedTransaction]] = [
        lambda b: b.lab.propose(first),
        lambda b: approving(b, first, OWNERS[:2]),
        lambda b: approving(b, first, [STRANGER]),
        lambda b: attesting(b, first, BUILDERS[:1]),
        lambda b: attesting(b, first, OWNERS[:1]),
        lambda b: approving(b, first, [AUDITOR]),
        lambda b: settling(b, first),
        lambda b: _later(b, HOUR_MS, settling, first),
        lambda b: amending(b, relaxed),
        lambda b: vetoing(b, relaxed.policy_id, OWNERS[:1]),
        lambda b: vetoing(b, relaxed.policy_id, OWNERS[1:]),
        lambda b: amending(b, relaxed),
        lambda b: amending(b, relaxed, **late),
        lambda b: moving(b, "child", Placement(parent="child")),
        lambda b: moving(b, "child", Placement(parent=FLEET), adopters=[]),
        lambda b: moving(b, "child", Placement(parent=FLEET)),
        lambda b: rotating(b, root, [OWNERS[0], *fresh]),
        lambda b: rotating(b, root, [*OWNERS[:2], *fresh[:2]]),
        lambda b: rotating(b, root, [*OWNERS[:2], *fresh[:2]]),
    ]
    for step in steps:
        recorder.apply(step(bench))
    wait(bench, 3 * DAY_MS)
    bench.lab.nonces.clear()
    until = bench.time_ms + HOUR_MS
    nonce = bench.state.account(bench.lab.publisher.did).nonce
    body = ProposeManifest(manifest=second.signed.raw)
    proposed = bench.lab.transaction(bench.lab.publisher, body, nonce=nonce, valid_until_ms=until)
    recorder.apply(proposed)
    for step in (
        lambda b: approving(b, second, OWNERS[:1]),
        lambda b: overriding(b, second, fresh[:1]),
        lambda b: overriding(b, second, fresh[:2]),
        lambda b: revoking(b, second, fresh[:2]),
        lambda b: approving(b, second, fresh[:2]),
    ):
        recorder.apply(step(bench))
    return {"genesis": bench.lab.genesis.encode().hex(), "group": SITE, "steps": recorder.steps}


def _later(
    bench: Bench, after_ms: int, make: Callable[..., SignedTransaction], *arguments: Any
) -> SignedTransaction:
    wait(bench, after_ms)
    return make(bench, *arguments)


def rules_vector() -> dict[str, Any]:
    """Rules with facts, and their truth by brute force: true, false or null."""
    rng = random.Random(1)
    cases: list[dict[str, Any]] = []
    while len(cases) < RULES:
        value = random_rule(rng)
        if len(leaves(value)) > 8:
            continue
        outcomes = []
        for _ in range(2):
            world = random_world(rng)
            outcomes.append(
                {
                    "fields": {str(number): fact for number, fact in world.fields.items()},
                    "approved": [[key.hex(), sorted(roles)] for key, roles in world.roles],
                    "time_ms": world.now,
                    "moments": {str(number): time for number, time in world.moments.items()},
                    "events": {str(number): list(times) for number, times in world.events.items()},
                    "publisher_groups": list(world.publisher_groups),
                    "truth": holds(value, world),
                }
            )
        cases.append({"rule": encode_canonical(value).hex(), "facts": outcomes})
    return {"rules": cases}
