"""Rules of `report.health`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.bodies.subject import CreateSubject
from ledger.errors import LedgerNotYetError
from ledger.records.health import SITE_REPORTS_MAX, SiteRecord
from ledger.records.rollout import RolloutStatus
from ledger.transition.health import HEALTH_INTERVAL_MS
from protocol.approval import Action
from protocol.did import SubjectKind
from tests.support.ledger import FLEET, Member, make_bench, make_group, owner_keys
from tests.support.rollout import health, report, rollout_of, rollout_policy, running


def test_only_gateways_of_the_group_report_and_only_what_is_authorised():
    pumps = make_group("pumps", rollout_policy())
    bench = make_bench(groups=[pumps], policy=rollout_policy())
    lab = bench.lab
    manifest = lab.manifest(groups=(FLEET,))
    bench.apply(lab.propose(manifest))
    assert bench.refusal(report(bench, manifest, good=1)).rule == "health.manifest"
    bench.apply(lab.approve(manifest.manifest_id))
    for signer in (lab.publisher, lab.validators[0]):
        signed = health(lab, manifest.manifest_id, signer, good=1)
        assert bench.refusal(signed).rule == "health.reporter"
    foreign = health(lab, manifest.manifest_id, lab.gateways[0], good=1, group="pumps")
    assert bench.refusal(foreign).rule == "health.reporter"


def test_counts_never_fall_and_reports_are_rare():
    bench, manifest = running(gateways=1, sites=("a",))
    bench.apply(report(bench, manifest, good=5, bad=1, devices=5))
    for counts in ({"good": 4, "bad": 1}, {"good": 5, "bad": 0}):
        signed = report(bench, manifest, devices=6, **counts)
        assert bench.refusal(signed).rule == "health.falling"
    same = report(bench, manifest, good=5, bad=1, devices=5)
    assert bench.refusal(same).rule == "health.same"
    more = report(bench, manifest, good=6, bad=1, devices=2)
    error = bench.refusal(more, after_ms=HEALTH_INTERVAL_MS - 1)
    assert (error.rule, type(error)) == ("health.early", LedgerNotYetError)
    bench.apply(more, after_ms=HEALTH_INTERVAL_MS)
    failing = report(bench, manifest, good=6, bad=2)
    assert bench.refusal(failing).rule == "health.early"
    did = bench.lab.gateways[0].did
    assert bench.state.health(manifest.manifest_id, did, FLEET).devices == 2


def test_a_first_failure_waits_for_nothing():
    bench, manifest = running(gateways=1, sites=("a",))
    bench.apply(report(bench, manifest, good=5))
    bench.apply(report(bench, manifest, good=5, bad=1))
    assert rollout_of(bench, manifest).failure_sites == 1


def test_a_report_without_a_rollout_is_kept_and_changes_nothing_else():
    bench = make_bench()
    manifest = bench.lab.manifest()
    bench.apply(bench.lab.propose(manifest))
    bench.apply(bench.lab.approve(manifest.manifest_id))
    bench.apply(report(bench, manifest, good=2))
    did = bench.lab.gateways[0].did
    assert bench.state.health(manifest.manifest_id, did, FLEET).successes == 2
    assert bench.state.rollout(manifest.manifest_id, FLEET) is None


def test_one_gateway_with_a_million_invented_devices_counts_as_a_site():
    bench, manifest = running(gateways=3, sites=("a", "b", "c"), failure_sites_max=5)
    for index in (1, 2):
        bench.apply(report(bench, manifest, index, good=SITE_REPORTS_MAX))
    bench.apply(report(bench, manifest, 0, good=900_000, bad=1_000_000))
    record = rollout_of(bench, manifest)
    assert record.failures <= SITE_REPORTS_MAX
    assert record.successes + record.failures == 3 * SITE_REPORTS_MAX
    assert record.status is RolloutStatus.RUNNING


def slanderers(bench, count, *, owners):
    """Gateways that the same owners let in, as many as they like."""
    lab = bench.lab
    for index in range(count):
        member = Member(label=f"slander-{index}", kind=SubjectKind.GATEWAY, groups=(FLEET,))
        approvals = tuple(
            lab.approval(Action.ENROL, member.did, key) for key in owner_keys(FLEET)[:owners]
        )
        bench.apply(
            lab.transaction(
                lab.gateways[0], CreateSubject(join=member.join, approvals=(approvals,))
            )
        )
        yield member


@pytest.mark.parametrize("owners", [1, 2])
def test_a_crowd_let_in_by_the_same_owners_is_one_site(owners):
    policy = rollout_policy(enrol_threshold=owners)
    bench = make_bench(policy=policy)
    manifest = bench.lab.manifest()
    bench.apply(bench.lab.propose(manifest))
    bench.apply(bench.lab.approve(manifest.manifest_id))
    for member in slanderers(bench, 8, owners=owners):
        bench.apply(health(bench.lab, manifest.manifest_id, member, bad=1000))
    record = rollout_of(bench, manifest)
    assert (record.status, record.failure_sites) == (RolloutStatus.RUNNING, 1)
    assert record.failures == SITE_REPORTS_MAX


def test_members_since_genesis_without_a_certified_site_are_one():
    bench, manifest = running(gateways=4)
    for index in range(4):
        bench.apply(report(bench, manifest, index, bad=1))
    assert rollout_of(bench, manifest).failure_sites == 1


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_site_counts_for_at_most_its_cap_and_hides_no_failure(good, bad):
    counted = SiteRecord(period=0, successes=good, failures=bad).counted()
    assert sum(counted) == min(good + bad, SITE_REPORTS_MAX)
    assert min(counted) >= 0
    assert (counted[1] > 0) == (bad > 0)
