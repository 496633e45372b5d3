"""Counting by site: against a naive count, and against a thousand members of one owner."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.bodies.health import ReportHealth
from ledger.records.health import SITE_REPORTS_MAX
from ledger.records.rollout import RolloutRecord, RolloutStatus
from ledger.records.subject import AttributesRecord, SubjectRecord
from ledger.state import Draft
from ledger.state_keys import approval_key, attributes_key, rollout_key, subject_key
from ledger.transition.health import HEALTH_INTERVAL_MS, report_health
from ledger.transition.rollout import judged
from protocol.approval import Action
from protocol.digest import DidId, Digest, ManifestId, sha256
from protocol.rollout import RolloutPlan
from tests.support.ledger import FLEET, Bench, Lab, make_bench, owner_keys
from tests.support.rollout import make_plan, rollout_of, rollout_policy

SITES = ("north", "south", "east")


@dataclass
class Naive:
    """Every report since the period began, added up anew each time."""

    plan: RolloutPlan
    record: RolloutRecord
    outcomes: list[tuple[int, str, int, int]] = field(default_factory=list)

    def add(self, site: str, good: int, bad: int, time_ms: int) -> None:
        period = self.record.period
        self.outcomes.append((period, site, good, bad))
        sums = {
            name: (
                sum(g for p, s, g, _ in self.outcomes if (p, s) == (period, name)),
                sum(b for p, s, _, b in self.outcomes if (p, s) == (period, name)),
            )
            for name in SITES
        }
        counted = [self._capped(*pair) for pair in sums.values()]
        record = replace(
            self.record,
            success_sites=sum(good > 0 for good, _ in sums.values()),
            failure_sites=sum(bad > 0 for _, bad in sums.values()),
            successes=sum(good for good, _ in counted),
            failures=sum(bad for _, bad in counted),
        )
        self.record = judged(record, self.plan, time_ms)

    @staticmethod
    def _capped(good: int, bad: int) -> tuple[int, int]:
        total = good + bad
        if total <= SITE_REPORTS_MAX:
            return good, bad
        part = (bad * SITE_REPORTS_MAX + total - 1) // total
        return SITE_REPORTS_MAX - part, part


def prepared(plan: RolloutPlan, members: int) -> tuple[Bench, ManifestId]:
    bench = make_bench(gateways=members, policy=rollout_policy(plan))
    manifest = bench.lab.manifest()
    bench.apply(bench.lab.propose(manifest))
    bench.apply(bench.lab.approve(manifest.manifest_id))
    return bench, manifest.manifest_id


def placed(bench: Bench) -> Draft:
    """The state with the lab's gateways at certified sites, one after the other."""
    draft = Draft(bench.state)
    for index, member in enumerate(bench.lab.gateways):
        attributes = (("site", SITES[index % len(SITES)]),)
        record = AttributesRecord(version=1, attributes=attributes)
        draft.put(attributes_key(member.did, FLEET), record.encode())
    return draft


reports = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 80), st.sampled_from((0, 0, 1, 40))), max_size=25
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(reports, st.integers(0, 4), st.booleans())
def test_counters_are_what_adding_up_gives(
    said: list[tuple[int, int, int]], tolerated: int, resumes: bool
) -> None:
    plan = make_plan(failure_sites_max=tolerated, failure_share_max=3000)
    bench, manifest = prepared(plan, members=6)
    draft = placed(bench)
    start = draft.rollout(manifest, FLEET)
    assert start is not None
    naive = Naive(plan, start)
    totals = [[0, 0] for _ in range(6)]
    time_ms = bench.time_ms
    for gateway, good, bad in said:
        if good + bad == 0:
            continue
        totals[gateway][0] += good
        totals[gateway][1] += bad
        time_ms += HEALTH_INTERVAL_MS
        body = ReportHealth(
            manifest=manifest,
            group=FLEET,
            successes=totals[gateway][0],
            failures=totals[gateway][1],
            devices=0,
        )
        signer = bench.lab.gateways[gateway].did
        report_health(draft, signer, body, bench.lab.context(height=9, time_ms=time_ms))
        naive.add(SITES[gateway % len(SITES)], good, bad, time_ms)
        record = draft.rollout(manifest, FLEET)
        assert record == naive.record
        if resumes and record.status is RolloutStatus.HALTED:
            again = RolloutRecord(
                status=RolloutStatus.RUNNING,
                stage=record.stage,
                started_ms=time_ms,
                priority=0,
                sequence=record.sequence + 1,
                period=record.period + 1,
            )
            naive.record = again
            draft.put(rollout_key(manifest, FLEET), again.encode())


def enrolled(draft: Draft, lab: Lab, index: int, owners: tuple[int, ...]) -> DidId:
    """A member that some owners let in, written as the ledger keeps it."""
    did = DidId(sha256(b"slanderer %d" % index))
    draft.put(subject_key(did), SubjectRecord.of(lab.gateways[0].record).encode())
    for owner in owners:
        key = owner_keys(FLEET)[owner]
        approval = approval_key(Digest(did), Action.ENROL, key.public.key_id, FLEET)
        draft.put(approval, b"an approval")
    return did


@pytest.mark.slow
@pytest.mark.parametrize("owners", [(0,), (0, 1), (1, 2)])
def test_a_thousand_members_of_one_owner_change_nothing(owners: tuple[int, ...]) -> None:
    bench, manifest = prepared(make_plan(), members=2)
    draft = Draft(bench.state)
    context = bench.lab.context(height=9, time_ms=bench.time_ms + 1000)
    for index in range(1000):
        did = enrolled(draft, bench.lab, index, owners)
        body = ReportHealth(
            manifest=manifest, group=FLEET, successes=0, failures=1_000_000, devices=0
        )
        report_health(draft, did, body, context)
    record = draft.rollout(manifest, FLEET)
    assert record is not None
    assert (record.status, record.failure_sites) == (RolloutStatus.RUNNING, 1)
    assert (record.failures, record.sequence) == (SITE_REPORTS_MAX, 0)
    assert rollout_of(bench, bench.lab.manifest()).failures == 0
