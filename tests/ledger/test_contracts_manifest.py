"""Attacks on the judging of manifests: approvals, attestations, rules, soak, freezes, overrides."""

from __future__ import annotations

import pytest

from ledger.bodies.manifest import ApproveManifest
from ledger.errors import LedgerNotYetError
from ledger.records.manifest import ManifestStatus
from ledger.rules.release import counting_holders
from protocol.approval import Action
from protocol.calendar import DAY_MS, HOUR_MS, Freeze
from protocol.digest import ChainId, sha256
from protocol.errors import EncodingError
from protocol.image import image_digest
from protocol.owner_root import OwnerRoot
from protocol.policy import Policy
from protocol.rule import Age, All, Comparison, Count, Counter, KOf, Moment, Not
from tests.support.contracts import (
    AUDITOR,
    BUILDERS,
    EMERGENCY,
    OWNERS,
    SITE,
    STRANGER,
    amending,
    approving,
    attesting,
    overriding,
    proposal,
    revoking,
    settling,
    site_bench,
    site_group,
    site_policy,
    site_root,
    submit,
    wait,
)
from tests.support.ledger import GENESIS_MS, make_lab

AUDITED = KOf(1, ("auditor",))


def standing(bench, manifest):
    record = bench.state.manifest(manifest.manifest_id, SITE)
    assert record is not None
    return record


def test_only_owners_count_for_the_threshold() -> None:
    bench = site_bench()
    manifest = proposal(bench)
    bench.apply(approving(bench, manifest, [OWNERS[0], AUDITOR, *BUILDERS, EMERGENCY]))
    assert standing(bench, manifest).status is ManifestStatus.PROPOSED
    assert bench.refusal(approving(bench, manifest, [STRANGER])).rule == "approval.owner"
    bench.apply(approving(bench, manifest, [OWNERS[1]]))
    record = standing(bench, manifest)
    assert record.status is ManifestStatus.AUTHORISED
    assert record.authorised_ms == bench.time_ms
    assert record.root_version == 1


def test_a_rule_asks_for_more_than_the_threshold() -> None:
    bench = site_bench(site_policy(rule=AUDITED))
    manifest = proposal(bench)
    bench.apply(approving(bench, manifest, OWNERS))
    assert standing(bench, manifest).status is ManifestStatus.PROPOSED
    error = bench.refusal(settling(bench, manifest))
    assert (error.rule, type(error)) == ("manifest.unsettled", LedgerNotYetError)
    assert "auditor" in str(error)
    bench.apply(approving(bench, manifest, [AUDITOR]))
    assert standing(bench, manifest).status is ManifestStatus.AUTHORISED


def test_a_rule_alone_authorises_nothing() -> None:
    bench = site_bench(site_policy(rule=AUDITED))
    manifest = proposal(bench)
    bench.apply(approving(bench, manifest, [AUDITOR, OWNERS[0]]))
    assert standing(bench, manifest).status is ManifestStatus.PROPOSED


def test_a_publisher_that_is_an_owner_cannot_approve_its_own_manifest() -> None:
    lab = make_lab()
    own = [lab.publisher.key(purpose) for purpose in lab.publisher.keys_of(0)]
    person = own[-1]
    owners = sorted([person, *OWNERS[:2]], key=lambda key: key.public.raw)
    root = site_root(owners)
    bench = site_bench(owner_root=root)
    manifest = proposal(bench)
    assert bench.refusal(approving(bench, manifest, [person])).rule == "approval.self"
    error = bench.refusal(approving(bench, manifest, [OWNERS[0], person]))
    assert error.rule == "approval.self"
    bench.apply(approving(bench, manifest, [OWNERS[0]]))
    assert standing(bench, manifest).status is ManifestStatus.PROPOSED


def test_an_approver_whose_key_becomes_the_publishers_no_longer_counts() -> None:
    """Attack: approve first, then rotate the publisher to the approving key."""
    lab = make_lab()
    person = list(lab.publisher.keys_of(0).values())[-1]
    root = site_root(sorted([person, *OWNERS[:2]], key=lambda key: key.public.raw))
    bench = site_bench(owner_root=root)
    ids = tuple(sorted((person.public.key_id, OWNERS[0].public.key_id)))
    counted = counting_holders(bench.state, root, ids, bench.lab.publisher.did)
    assert [holder.key for holder in counted] == [OWNERS[0].public]


def test_attestations_by_independent_builders_are_a_condition() -> None:
    bench = site_bench(site_policy(attestations=2))
    manifest = proposal(bench)
    bench.apply(approving(bench, manifest, OWNERS[:2]))
    bench.apply(attesting(bench, manifest, BUILDERS[:1]))
    assert standing(bench, manifest).status is ManifestStatus.PROPOSED
    assert bench.refusal(attesting(bench, manifest, BUILDERS[:1])).rule == "approval.duplicate"
    bench.apply(attesting(bench, manifest, BUILDERS[1:]))
    record = standing(bench, manifest)
    assert record.status is ManifestStatus.AUTHORISED
    assert len(record.attesters) == 2


@pytest.mark.parametrize(
    ("keys", "changes", "rule"),
    [
        ([OWNERS[0]], {}, "approval.owner"),
        ([AUDITOR], {}, "approval.owner"),
        ([STRANGER], {}, "approval.owner"),
        (BUILDERS[:1], {"subject": sha256(b"another image")}, "approval.subject"),
        (BUILDERS[:1], {"era": 1}, "approval.era"),
        (BUILDERS[:1], {"chain": ChainId(sha256(b"other chain"))}, "approval.signature"),
        (BUILDERS[:1], {"valid_until_ms": GENESIS_MS}, "approval.expired"),
        ([BUILDERS[0], BUILDERS[0]], {}, "approval.duplicate"),
    ],
)
def test_what_is_no_attestation(keys, changes, rule) -> None:
    bench = site_bench(site_policy(attestations=1))
    manifest = proposal(bench)
    assert bench.refusal(attesting(bench, manifest, keys, **changes)).rule == rule


def test_builders_attest_content_and_not_its_wrapping() -> None:
    lab = make_lab()
    one, other = lab.manifest(sequence=1, image=b"same"), lab.manifest(sequence=2, image=b"same")
    assert image_digest(one.manifest) == image_digest(other.manifest)
    assert image_digest(one.manifest) != image_digest(lab.manifest(image=b"else").manifest)
    assert image_digest(one.manifest) != image_digest(lab.manifest(product="x").manifest)


def test_soak_and_a_rule_about_time_settle_by_themselves_never() -> None:
    """Between blocks nothing happens: somebody must ask, and anybody may."""
    rule = Age(Moment.PROPOSED, Comparison.AT_LEAST, 3 * HOUR_MS)
    bench = site_bench(site_policy(soak_ms=2 * HOUR_MS, rule=rule))
    manifest = proposal(bench)
    bench.apply(approving(bench, manifest, OWNERS[:2]))
    assert bench.refusal(settling(bench, manifest)).rule == "manifest.unsettled"
    assert bench.refusal(settling(bench, manifest), after_ms=2 * HOUR_MS).rule == (
        "manifest.unsettled"
    )
    bench.apply(settling(bench, manifest), after_ms=3 * HOUR_MS)
    assert standing(bench, manifest).status is ManifestStatus.AUTHORISED
    assert bench.refusal(settling(bench, manifest)).rule == "manifest.settled"


def test_a_settled_manifest_must_still_be_the_newest_and_unexpired() -> None:
    bench = site_bench(site_policy(soak_ms=HOUR_MS))
    first = proposal(bench, expires_ms=GENESIS_MS + 2 * HOUR_MS)
    second = proposal(bench, sequence=2)
    bench.apply(approving(bench, first, OWNERS[:2]))
    bench.apply(approving(bench, second, OWNERS[:2]))
    assert bench.refusal(settling(bench, first), after_ms=3 * HOUR_MS).rule == "manifest.expired"
    bench.apply(settling(bench, second), after_ms=HOUR_MS)
    assert bench.refusal(settling(bench, first)).rule == "manifest.sequence"
    third = proposal(bench, sequence=3)
    bench.apply(revoking(bench, third, OWNERS[:2]))
    assert bench.refusal(settling(bench, third)).rule == "manifest.revoked"
    unknown = bench.lab.manifest(sequence=9, groups=(SITE,))
    assert bench.refusal(settling(bench, unknown)).rule == "manifest.unknown"


def frozen(policy: Policy | None = None) -> Policy:
    freeze = Freeze(GENESIS_MS, GENESIS_MS + DAY_MS)
    return site_policy(freezes=(freeze,)) if policy is None else policy


def test_a_freeze_holds_authorisation_back_and_an_override_passes_it() -> None:
    bench = site_bench(frozen())
    first, second = proposal(bench), proposal(bench, sequence=2)
    bench.apply(approving(bench, first, OWNERS))
    assert standing(bench, first).status is ManifestStatus.PROPOSED
    assert bench.refusal(overriding(bench, first, OWNERS[:1])).rule == "approval.threshold"
    assert bench.refusal(overriding(bench, first, [OWNERS[0], AUDITOR])).rule == "approval.owner"
    assert bench.refusal(overriding(bench, first, [EMERGENCY])).rule == "approval.owner"
    bench.apply(overriding(bench, first, OWNERS[:2]))
    record = standing(bench, first)
    assert (record.status, record.is_override) == (ManifestStatus.AUTHORISED, True)
    assert bench.refusal(overriding(bench, first, OWNERS[1:])).rule == "manifest.override"
    bench.apply(approving(bench, second, OWNERS[:2]))
    wait(bench, DAY_MS)
    bench.apply(settling(bench, second))
    assert standing(bench, second).status is ManifestStatus.AUTHORISED


def test_an_override_is_no_approval() -> None:
    bench = site_bench(site_policy(rule=AUDITED, soak_ms=HOUR_MS, attestations=1))
    manifest = proposal(bench)
    bench.apply(overriding(bench, manifest, OWNERS))
    assert standing(bench, manifest).approvers == ()
    bench.apply(approving(bench, manifest, OWNERS), after_ms=HOUR_MS)
    assert standing(bench, manifest).status is ManifestStatus.PROPOSED
    replayed = approving(bench, manifest, [AUDITOR], policy=site_policy().policy_id)
    assert bench.refusal(replayed).rule == "approval.policy"


def test_a_freeze_decided_later_holds_back_what_waits_already() -> None:
    bench = site_bench()
    manifest = proposal(bench)
    freeze = Freeze(GENESIS_MS + DAY_MS, GENESIS_MS + 3 * DAY_MS)
    bench.apply(amending(bench, site_policy(freezes=(freeze,))))
    wait(bench, 2 * DAY_MS)
    bench.apply(approving(bench, manifest, OWNERS))
    assert standing(bench, manifest).status is ManifestStatus.PROPOSED
    wait(bench, DAY_MS)
    bench.apply(settling(bench, manifest))
    assert standing(bench, manifest).status is ManifestStatus.AUTHORISED


def test_a_manifest_must_end_within_the_policys_time() -> None:
    bench = site_bench(site_policy(manifest_lifetime_ms_max=DAY_MS))
    for expires_ms in (None, GENESIS_MS + 2 * DAY_MS):
        manifest = bench.lab.manifest(groups=(SITE,), expires_ms=expires_ms)
        bench.lab.nonces.clear()
        assert bench.refusal(bench.lab.propose(manifest)).rule == "manifest.lifetime"
    bench.lab.nonces.clear()
    proposal(bench, expires_ms=GENESIS_MS + DAY_MS)


def test_counters_bound_how_often_a_group_updates() -> None:
    rule = Count(Counter.AUTHORISED, DAY_MS, Comparison.LESS, 1)
    bench = site_bench(site_policy(rule=rule))
    first, second = proposal(bench), proposal(bench, sequence=2)
    bench.apply(approving(bench, first, OWNERS[:2]))
    assert standing(bench, first).status is ManifestStatus.AUTHORISED
    bench.apply(approving(bench, second, OWNERS[:2]))
    assert standing(bench, second).status is ManifestStatus.PROPOSED
    wait(bench, DAY_MS)
    bench.apply(settling(bench, second))
    events = bench.state.events(SITE)
    assert (len(events.proposed), len(events.authorised), events.revoked) == (2, 2, ())


def test_absence_is_no_permission() -> None:
    """`not` over a fact that does not exist stays unknown, and unknown authorises nothing."""
    rule = Not(Age(Moment.LAST_AUTHORISED, Comparison.LESS, DAY_MS))
    bench = site_bench(site_policy(rule=All((rule,))))
    manifest = proposal(bench)
    bench.apply(approving(bench, manifest, OWNERS))
    assert standing(bench, manifest).status is ManifestStatus.PROPOSED


def test_revocations_count_owners_only_and_are_never_held_back() -> None:
    bench = site_bench(frozen())
    manifest = proposal(bench)
    assert bench.refusal(revoking(bench, manifest, [AUDITOR])).rule == "approval.owner"
    bench.apply(revoking(bench, manifest, OWNERS[:2]))
    assert standing(bench, manifest).status is ManifestStatus.REVOKED
    assert bench.refusal(overriding(bench, manifest, OWNERS)).rule == "manifest.revoked"
    assert bench.refusal(attesting(bench, manifest, BUILDERS)).rule == "manifest.revoked"


def test_approvals_of_one_kind_are_none_of_another() -> None:
    bench = site_bench()
    manifest = proposal(bench)
    for action in (Action.REVOKE, Action.OVERRIDE, Action.ATTEST):
        raw = [
            bench.lab.approval(
                action,
                manifest.manifest_id,
                key,
                group=SITE,
                policy=standing(bench, manifest).policy,
            )
            for key in OWNERS[:2]
        ]
        sent = ApproveManifest(manifest=manifest.manifest_id, group=SITE, approvals=tuple(raw))
        assert bench.refusal(submit(bench, sent)).rule == "approval.action"


def test_roles_kept_apart_are_refused_with_the_root() -> None:
    both = OwnerRoot(
        version=1,
        threshold=2,
        owners=site_root().owners,
        roles=(("auditor", site_root().owners[:1]),),
    )
    policy = site_policy(separation=(("auditor", "owner"),))
    site_group(policy)
    with pytest.raises(EncodingError, match="both auditor and owner"):
        site_group(policy, owner_root=both)
