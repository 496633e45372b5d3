"""Whole policies against a brute-force judge: 500 random ones, each with random circumstances."""

from __future__ import annotations

import random
from collections import Counter as Tally
from dataclasses import dataclass
from typing import Any

from ledger.records.manifest import ManifestRecord, ManifestStatus
from ledger.rules.evaluate import Facts
from ledger.rules.judge import judge
from ledger.rules.release import Release
from protocol.calendar import DAY_MS, HOUR_MS, Freeze
from protocol.owner_root import Holder, OwnerRoot
from protocol.policy import Policy
from protocol.rule import Counter, Moment, RuleField, Scope
from protocol.rule_codec import rule_from_value
from tests.support.contracts import AUDITOR, BUILDERS, OWNERS, site_root
from tests.support.ledger import make_lab
from tests.support.rule_oracle import START, World, holds, leaves, random_rule, random_world

LAB = make_lab()
EVERYBODY = (*OWNERS, AUDITOR, *BUILDERS)


@dataclass(frozen=True)
class Case:
    """A policy, what happened under it, and the rule's wire form."""

    policy: Policy
    in_force: Policy
    release: Release
    world: World
    rule: object
    time_ms: int


def random_policy(rng: random.Random, rule: Any) -> Policy:
    approve = rng.randint(1, 3)
    freezes = (
        (Freeze(START + rng.randint(0, 3) * DAY_MS, START + 4 * DAY_MS),)
        if rng.random() < 0.2
        else ()
    )
    return Policy(
        approve_threshold=approve,
        revoke_threshold=1,
        amend_threshold=3,
        enrol_threshold=1,
        soak_ms=rng.choice((0, 0, HOUR_MS)),
        attestations=rng.choice((0, 0, 1, 2)),
        freezes=freezes,
        rule=None if rule is None else rule_from_value(rule, Scope.RELEASE),
    )


def random_case(rng: random.Random) -> Case:
    world = random_world(rng)
    root: OwnerRoot = site_root(threshold=rng.randint(1, 2))
    signed = rng.sample(EVERYBODY, rng.randint(2, len(EVERYBODY)))
    holders = tuple(found for key in signed if (found := root.holder(key.public.key_id)))
    attested = rng.sample(BUILDERS, rng.randint(0, 2))
    builders = tuple(found for key in attested if (found := root.holder(key.public.key_id)))
    value = random_rule(rng) if rng.random() < 0.6 else None
    while value is not None and len(leaves(value)) > 8:
        value = random_rule(rng)
    roles = tuple((one.key.key_id, _roles(one)) for one in holders)
    world = World(
        fields={**world.fields, 14: sum(one.is_owner for one in holders), 15: len(builders)},
        roles=roles,
        now=world.now,
        moments=world.moments,
        events=world.events,
        publisher_groups=world.publisher_groups,
    )
    record = ManifestRecord(
        status=ManifestStatus.PROPOSED,
        publisher=LAB.publisher.did,
        product="pump",
        sequence=1,
        policy=LAB.policy_id(),
        expires_ms=None,
        proposed_height=1,
        proposed_ms=world.now - rng.choice((0, HOUR_MS - 1, HOUR_MS)),
        is_override=rng.random() < 0.3,
    )
    facts = Facts(
        fields={RuleField(number): (fact,) for number, fact in world.fields.items()},
        time_ms=world.now,
        holders=holders,
        moments={Moment(number): time for number, time in world.moments.items()},
        events={Counter(number): times for number, times in world.events.items()},
        publisher_groups=world.publisher_groups,
    )
    release = Release(record=record, root=root, holders=holders, builders=builders, facts=facts)
    return Case(
        policy=random_policy(rng, value),
        in_force=random_policy(rng, None),
        release=release,
        world=world,
        rule=value,
        time_ms=world.now,
    )


def _roles(holder: Holder) -> frozenset[str]:
    return frozenset((*holder.roles, *(("owner",) if holder.is_owner else ())))


def brute_force(case: Case) -> bool:
    """K30 to K35, read from docs/spec/contracts.md once more."""
    record, policy, root = case.release.record, case.policy, case.release.root
    owners = {key.raw for key, _ in root.owners}
    approving = len([one for one in case.release.holders if one.key.raw in owners])
    if approving < policy.approve_threshold or approving < root.threshold:
        return False
    if len({one.key.raw for one in case.release.builders}) < policy.attestations:
        return False
    if case.time_ms < record.proposed_ms + policy.soak_ms:
        return False
    if not record.is_override:
        for freeze in (*policy.freezes, *case.in_force.freezes):
            if freeze.from_ms <= case.time_ms and case.time_ms < freeze.to_ms:
                return False
    return case.rule is None or holds(case.rule, case.world) is True


def test_random_policies_judge_as_brute_force_does() -> None:
    rng = random.Random(500)
    verdicts: Tally[bool] = Tally()
    missing: Tally[str] = Tally()
    for _ in range(500):
        case = random_case(rng)
        judgement = judge(case.release, case.policy, case.in_force, case.time_ms)
        assert judgement.is_satisfied is brute_force(case), case
        verdicts[judgement.is_satisfied] += 1
        missing.update(one.rule for one in judgement.missing)
    assert min(verdicts[True], verdicts[False]) > 50
    expected = ("approvals", "attestations", "soak", "freeze", "rule")
    assert all(missing[f"policy.{name}"] > 10 for name in expected)
