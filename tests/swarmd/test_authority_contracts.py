"""The authority against validators that claim a policy was met; closed groups; the floor."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.records.manifest import ManifestStatus
from ledger.state_keys import approval_key, manifest_key
from protocol.approval import Action
from protocol.calendar import WeeklyWindow
from protocol.digest import Digest
from protocol.group import Placement
from protocol.image import image_digest
from protocol.keys import PrivateKey
from protocol.manifest import SignedManifest
from protocol.policy import Policy
from protocol.rule import Compare, Comparison, KOf, RuleField
from swarmd.floor import Floor
from swarmd.questions import Denial, Permit
from tests.support.authority import Bench, make_bench
from tests.support.contracts import AUDITOR, BUILDERS, OWNERS, SITE, site_group, site_policy
from tests.support.ledger import FLEET, make_group, make_lab, make_policy


def site(policy: Policy, floor: Floor | None = None) -> Bench:
    bench = make_bench(make_lab(groups=(site_group(policy),)), floor=floor or Floor())
    bench.groups = (SITE,)
    return bench


async def claimed(
    bench: Bench, approvers: list[PrivateKey], attesters: list[PrivateKey] | None = None
) -> SignedManifest:
    """A proposed manifest of which the state claims that it is authorised, with real approvals."""
    manifest = await bench.propose(bench.lab.manifest(groups=(SITE,)))
    record = bench.chain.state.manifest(manifest.manifest_id, SITE)
    assert record is not None
    writes: dict[bytes, bytes] = {}
    kinds = (
        (Action.AUTHORISE, Digest(manifest.manifest_id), approvers),
        (Action.ATTEST, image_digest(manifest.manifest), attesters or []),
    )
    for action, subject, keys in kinds:
        for key in keys:
            raw = bench.lab.approval(action, subject, key, group=SITE, policy=record.policy)
            key_id = key.public.key_id
            writes[approval_key(Digest(manifest.manifest_id), action, key_id, SITE)] = raw
    claim = replace(
        record,
        status=ManifestStatus.AUTHORISED,
        authorised_height=1,
        authorised_ms=bench.chain.head.time_ms,
        root_version=1,
        approvers=tuple(sorted(key.public.key_id for key in approvers)),
        attesters=tuple(sorted(key.public.key_id for key in attesters or [])),
    )
    writes[manifest_key(manifest.manifest_id, SITE)] = claim.encode()
    bench.poison(writes)
    return manifest


AUDITED = site_policy(rule=KOf(1, ("auditor",)))
TWO = list(OWNERS[:2])


@pytest.mark.parametrize(
    ("policy", "approvers", "attesters"),
    [
        (AUDITED, TWO, []),
        (AUDITED, [OWNERS[0], AUDITOR], []),
        (site_policy(attestations=1), TWO, []),
        (site_policy(attestations=1), TWO, [AUDITOR]),
        (site_policy(attestations=2), TWO, [BUILDERS[0]]),
        (site_policy(rule=Compare(RuleField.SIZE, Comparison.LESS, 1)), TWO, []),
        (site_policy(rule=Compare(RuleField.APPROVALS, Comparison.MORE, 2)), TWO, []),
    ],
)
async def test_validators_cannot_say_that_a_policy_was_met(policy, approvers, attesters) -> None:
    bench = site(policy)
    manifest = await claimed(bench, approvers, attesters)
    assert bench.refusal(manifest) == "manifest.owners"
    assert bench.ledger.alarm is not None


@pytest.mark.parametrize(
    ("policy", "approvers", "attesters"),
    [
        (site_policy(), TWO, []),
        (AUDITED, [*TWO, AUDITOR], []),
        (site_policy(attestations=2), TWO, list(BUILDERS)),
    ],
)
async def test_what_signatures_show_is_believed(policy, approvers, attesters) -> None:
    bench = site(policy)
    manifest = await claimed(bench, approvers, attesters)
    verdict = bench.authority.verdict(manifest.manifest_id)
    assert isinstance(verdict, Permit)
    (names,) = verdict.authorised.approvers
    assert len(names) == 2  # owners alone are named as approvers


@pytest.mark.parametrize(
    ("floor", "rule"),
    [
        (Floor(roles=("auditor",)), "floor.role"),
        (Floor(products=("valve",)), "floor.product"),
        (Floor(rule=KOf(3, ("owner",))), "floor.rule"),
    ],
)
async def test_the_floor_refuses_what_the_ledger_allows_and_raises_no_alarm(floor, rule) -> None:
    bench = site(site_policy(), floor)
    manifest = await claimed(bench, TWO)
    assert bench.refusal(manifest) == rule
    assert bench.ledger.alarm is None


@pytest.mark.parametrize(
    ("floor", "rule"),
    [
        (Floor(soak_ms=10**9), "floor.soak"),
        (Floor(windows=(WeeklyWindow(1, 0, 1),)), "floor.window"),
    ],
)
async def test_the_floor_holds_offers_back_and_nothing_else(floor, rule) -> None:
    bench = site(site_policy(), floor)
    manifest = await claimed(bench, TWO)
    assert isinstance(bench.authority.verdict(manifest.manifest_id), Permit)
    denial = bench.authority.may_offer(manifest.manifest_id)
    assert isinstance(denial, Denial)
    assert (denial.rule, denial.may_retry) == (rule, True)


async def test_a_member_of_a_closed_group_waits_for_that_groups_owners() -> None:
    shut = replace(make_group("shut", make_policy(closed=True)), placement=Placement(parent=FLEET))
    bench = make_bench(make_lab(groups=(shut,)))
    manifest = await bench.authorise(bench.lab.manifest())
    assert isinstance(bench.authority.verdict(manifest.manifest_id), Permit)
    bench.groups = (FLEET, "shut")
    bench.authority._cache.clear()
    assert bench.refusal(manifest) == "group.closed"
