"""Attacks on policies, vetoes, owner roots and the places of groups."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.errors import LedgerNotYetError
from ledger.records.group import RotationRecord
from ledger.records.manifest import ManifestStatus
from ledger.records.subject import AttributesRecord
from ledger.rules.membership import accepting_groups, ancestors_of, groups_of
from ledger.rules.owners import follow_rotations
from ledger.state import Draft
from ledger.state_keys import (
    approval_key,
    attributes_key,
    group_key,
    rotation_key,
    subject_key,
)
from protocol.approval import Action
from protocol.calendar import DAY_MS, HOUR_MS
from protocol.errors import VerificationError
from protocol.group import GROUP_DEPTH_MAX, Group, Placement
from protocol.owner_root import OwnerRoot
from protocol.policy import vetoes_needed
from protocol.rotation import root_digest
from protocol.rule import All, Compare, Comparison, OneOf, RuleField
from tests.support.contracts import (
    AUDITOR,
    OWNERS,
    SITE,
    STRANGER,
    amending,
    approving,
    moving,
    policy_in_force,
    proposal,
    rotating,
    settling,
    signed,
    site_bench,
    site_policy,
    site_root,
    vetoing,
    wait,
)
from tests.support.ledger import FLEET, make_group, make_key, make_lab, make_policy, owner_keys

FRESH = sorted([make_key(f"site/fresh/{i}") for i in range(3)], key=lambda key: key.public.raw)
WEAK = site_policy(approve_threshold=2, revoke_threshold=1)


def vendor(name: str) -> Compare:
    return Compare(RuleField.VENDOR, Comparison.EQUAL, name)


# -- policies and vetoes ---------------------------------------------------------------------------


def test_a_minority_weakens_no_policy() -> None:
    bench = site_bench(site_policy(amend_threshold=3))
    assert bench.refusal(amending(bench, WEAK, OWNERS[:2])).rule == "approval.threshold"
    assert bench.refusal(amending(bench, WEAK, [*OWNERS[:2], AUDITOR])).rule == "approval.owner"
    bench.apply(amending(bench, WEAK, OWNERS))


def test_owners_veto_a_scheduled_policy_within_its_delay() -> None:
    bench = site_bench()
    bench.apply(amending(bench, WEAK))
    assert bench.refusal(vetoing(bench, WEAK.policy_id, OWNERS[:1])).rule == "approval.threshold"
    bench.apply(vetoing(bench, WEAK.policy_id, OWNERS[1:]))
    record = bench.state.group(SITE)
    assert record is not None
    assert record.scheduled is None
    assert record.policy_at(bench.time_ms + 9 * DAY_MS) == site_policy().policy_id
    # Neither the amendment nor the veto serves a second time.
    assert bench.refusal(amending(bench, WEAK)).rule == "approval.used"
    later = {"valid_until_ms": bench.time_ms + 300 * DAY_MS}
    bench.apply(amending(bench, WEAK, **later))
    assert bench.refusal(vetoing(bench, WEAK.policy_id, OWNERS[1:])).rule == "approval.used"
    bench.apply(vetoing(bench, WEAK.policy_id, OWNERS[1:], **later))


def test_a_veto_that_names_nothing_scheduled() -> None:
    bench = site_bench()
    rule = "policy.not_scheduled"
    assert bench.refusal(vetoing(bench, WEAK.policy_id, OWNERS)).rule == rule
    bench.apply(amending(bench, WEAK))
    assert bench.refusal(vetoing(bench, site_policy().policy_id, OWNERS)).rule == rule
    assert bench.refusal(vetoing(bench, WEAK.policy_id, [AUDITOR])).rule == "approval.owner"
    wait(bench, DAY_MS)
    assert bench.refusal(vetoing(bench, WEAK.policy_id, OWNERS)).rule == rule


@pytest.mark.parametrize(
    ("amend", "explicit", "needed"), [(2, None, 2), (3, None, 1), (2, 3, 3), (2, 1, 1)]
)
def test_as_many_veto_as_could_have_denied(amend, explicit, needed) -> None:
    policy = site_policy(amend_threshold=amend, veto_threshold=explicit)
    assert vetoes_needed(policy, len(site_root().owners)) == needed


# -- owner roots -----------------------------------------------------------------------------------


def next_root(keys=FRESH, **changes) -> OwnerRoot:
    return site_root(keys, **{"version": 2, **changes})


def test_old_and_new_owners_rotate_the_root() -> None:
    bench = site_bench()
    bench.apply(rotating(bench, next_root(), [*OWNERS[:2], *FRESH[:2]]))
    record = bench.state.group(SITE)
    assert record is not None
    assert record.owner_root == next_root()
    roots = follow_rotations(bench.state, SITE, site_root(), chain=bench.lab.chain_id)
    assert roots == (site_root(), next_root())
    third = site_root([OWNERS[0], *FRESH[:2]], version=3)
    bench.apply(rotating(bench, third, [FRESH[0], FRESH[1]]))
    roots = follow_rotations(bench.state, SITE, site_root(), chain=bench.lab.chain_id)
    assert roots == (site_root(), next_root(), third)
    assert follow_rotations(bench.state, SITE, third, chain=bench.lab.chain_id) == (third,)


def test_neither_a_minority_nor_new_owners_alone_rotate() -> None:
    bench = site_bench()
    root = next_root()
    validators = [list(member.keys_of(0).values())[-1] for member in bench.lab.validators]
    cases = [
        ([OWNERS[0], *FRESH], "approval.threshold"),
        (FRESH, "approval.threshold"),
        (OWNERS, "approval.threshold"),
        ([*OWNERS[:2], FRESH[0]], "approval.threshold"),
        ([*OWNERS[:2], *FRESH[:2], STRANGER], "approval.owner"),
        ([*OWNERS[:2], *FRESH[:2], AUDITOR], "approval.owner"),
        (validators, "approval.owner"),
        ([*OWNERS[:2], *FRESH[:2], FRESH[0]], "approval.duplicate"),
        ([*OWNERS[:2], OWNERS[0], *FRESH[:2]], "approval.duplicate"),
    ]
    for keys, rule in cases:
        assert bench.refusal(rotating(bench, root, keys)).rule == rule
    everybody = [*OWNERS[:2], *FRESH[:2]]
    for version in (1, 3):
        error = bench.refusal(rotating(bench, next_root(version=version), everybody))
        assert error.rule == "root.version"
    for changes, rule in (
        ({"era": 1}, "approval.era"),
        ({"policy": WEAK.policy_id}, "approval.policy"),
    ):
        assert bench.refusal(rotating(bench, root, everybody, **changes)).rule == rule


def test_a_rotation_is_not_replayed() -> None:
    bench = site_bench()
    back = site_root(version=3)
    bench.apply(rotating(bench, next_root(), [*OWNERS[:2], *FRESH[:2]]))
    error = bench.refusal(rotating(bench, next_root(), [*OWNERS[:2], *FRESH[:2]]))
    assert error.rule == "root.version"
    bench.apply(rotating(bench, back, [*OWNERS[:2], *FRESH[:2]]))
    error = bench.refusal(rotating(bench, next_root(), [*OWNERS[:2], *FRESH[:2]]))
    assert error.rule == "root.version"


def test_a_root_must_be_able_to_live_under_its_policies() -> None:
    bench = site_bench()
    lonely = OwnerRoot(version=2, threshold=1, owners=((FRESH[0].public, "lonely"),))
    error = bench.refusal(rotating(bench, lonely, [*OWNERS[:2], FRESH[0]]))
    assert error.rule == "root.unfit"
    bench.apply(amending(bench, site_policy(approve_threshold=3, amend_threshold=3)))
    two = site_root(FRESH[:2], version=2)
    assert bench.refusal(rotating(bench, two, [*OWNERS[:2], *FRESH[:2]])).rule == "root.unfit"


def test_a_retired_key_approves_nothing_and_what_it_approved_no_longer_counts() -> None:
    bench = site_bench()
    manifest = proposal(bench)
    bench.apply(approving(bench, manifest, OWNERS[:1]))
    root = next_root([OWNERS[1], *FRESH[:2]])
    bench.apply(rotating(bench, root, [OWNERS[0], OWNERS[1], FRESH[0]]))
    assert bench.refusal(approving(bench, manifest, OWNERS[:1])).rule == "approval.owner"
    bench.apply(approving(bench, manifest, OWNERS[1:2]))
    record = bench.state.manifest(manifest.manifest_id, SITE)
    assert record is not None
    assert record.status is ManifestStatus.PROPOSED
    assert len(record.approvers) == 2
    bench.apply(approving(bench, manifest, FRESH[:1]))
    record = bench.state.manifest(manifest.manifest_id, SITE)
    assert record is not None
    assert (record.status, record.root_version) == (ManifestStatus.AUTHORISED, 2)


def test_a_rotation_can_settle_what_waits_for_fewer_owners() -> None:
    bench = site_bench()
    manifest = proposal(bench)
    bench.apply(rotating(bench, next_root([*OWNERS[:2], FRESH[0]]), OWNERS[:2]))
    assert bench.refusal(settling(bench, manifest)).rule == "manifest.unsettled"


def test_validators_alone_rotate_nothing_a_gateway_follows() -> None:
    """The state lies: nobody signed, approvals are missing, or only a minority of owners signed."""
    bench = site_bench()
    root = next_root()
    record = bench.state.group(SITE)
    assert record is not None
    for signing in ([], FRESH, [OWNERS[0], *FRESH], OWNERS):
        forged = Draft(bench.state)
        signers = tuple(sorted(key.public.key_id for key in signing))
        for key in signing[:-1] if signing is FRESH else signing:
            (raw,) = signed(bench, Action.ROTATE_ROOT, root_digest(root), [key])
            stored = approval_key(root_digest(root), Action.ROTATE_ROOT, key.public.key_id, SITE)
            forged.put(stored, raw)
        rotation = RotationRecord(
            owner_root=root, signers=signers, policy=record.policy, era=0, height=1
        )
        forged.put(rotation_key(SITE, 2), rotation.encode())
        forged.put(group_key(SITE), replace(record, owner_root=root).encode())
        with pytest.raises(VerificationError, match="rotate_root"):
            follow_rotations(forged, SITE, site_root(), chain=bench.lab.chain_id)
    silent = Draft(bench.state)
    silent.put(group_key(SITE), replace(record, owner_root=root).encode())
    with pytest.raises(VerificationError, match="other owners than pinned"):
        follow_rotations(silent, SITE, site_root(), chain=bench.lab.chain_id)


# -- places ----------------------------------------------------------------------------------------


def certify(bench, did, group, **attributes) -> None:
    draft = Draft(bench.state)
    record = AttributesRecord(version=1, attributes=tuple(sorted(attributes.items())))
    draft.put(attributes_key(did, group), record.encode())
    bench.state = replace(bench.state, tree=bench.state.tree.update(dict(draft.writes)))


def chain_of_groups(count: int) -> tuple[Group, ...]:
    groups = [make_group("g0")]
    for index in range(1, count):
        place = Placement(parent=f"g{index - 1}")
        groups.append(replace(make_group(f"g{index}"), placement=place))
    return tuple(groups)


def test_a_parent_takes_a_group_in_or_nobody_does() -> None:
    bench = site_bench(others=[make_group("child")])
    place = Placement(parent=FLEET)
    assert bench.refusal(moving(bench, "child", place, adopters=[])).rule == "approval.threshold"
    intruders = owner_keys("child")[:2]
    error = bench.refusal(moving(bench, "child", place, adopters=intruders))
    assert error.rule == "approval.owner"
    error = bench.refusal(moving(bench, "child", place, keys=owner_keys(FLEET)[:2]))
    assert error.rule == "approval.owner"
    error = bench.refusal(moving(bench, "child", place, keys=owner_keys("child")[:1]))
    assert error.rule == "approval.threshold"
    bench.apply(moving(bench, "child", place))
    assert bench.state.children(FLEET) == ("child",)
    assert ancestors_of(bench.state, "child") == (FLEET,)
    assert bench.refusal(moving(bench, "child", place)).rule == "group.same"
    bench.apply(moving(bench, "child", Placement()))
    assert bench.state.children(FLEET) == ()
    assert bench.refusal(moving(bench, "child", place)).rule == "approval.used"


def test_consent_of_nobody_is_not_taken_for_some() -> None:
    bench = site_bench(others=[make_group("child")])
    place = Placement(parent=FLEET)
    bench.apply(moving(bench, "child", place))
    narrower = Placement(parent=FLEET, selector=vendor("acme"))
    adopters = owner_keys(FLEET)[:2]
    error = bench.refusal(moving(bench, "child", narrower, adopters=adopters))
    assert error.rule == "group.adoption"
    bench.apply(moving(bench, "child", narrower))


def test_groups_never_form_a_circle_and_never_nest_deeper_than_eight() -> None:
    groups = chain_of_groups(GROUP_DEPTH_MAX)
    bench = site_bench(others=[*groups, make_group("low")])
    assert len(ancestors_of(bench.state, "g7")) == 7
    error = bench.refusal(moving(bench, "g0", Placement(parent="g7")))
    assert error.rule == "group.circular"
    assert bench.refusal(moving(bench, "g0", Placement(parent="g0"))).rule == "group.circular"
    error = bench.refusal(moving(bench, "low", Placement(parent="g7")))
    assert error.rule == "group.depth"
    error = bench.refusal(moving(bench, "g0", Placement(parent="low")))
    assert error.rule == "group.depth"  # those below count as well
    bench.apply(moving(bench, "low", Placement(parent="g6")))
    nowhere = Placement(parent="nowhere")
    policy = policy_in_force(bench, "low")
    error = bench.refusal(moving(bench, "low", nowhere, adopters=[], policy=policy))
    assert (error.rule, type(error)) == ("group.unknown", LedgerNotYetError)


def test_a_selector_takes_members_by_what_owners_certified() -> None:
    acme = replace(make_group("acme"), placement=Placement(FLEET, vendor("acme")))
    rev = All((vendor("acme"), Compare(RuleField.HARDWARE_REVISION, Comparison.AT_LEAST, 3)))
    new = replace(make_group("new"), placement=Placement("acme", rev))
    bench = site_bench(others=[acme, new])
    gateway = bench.lab.gateways[0].did
    assert groups_of(bench.state, gateway) == (FLEET,)
    certify(bench, gateway, FLEET, vendor="acme", hardware_revision="2")
    assert groups_of(bench.state, gateway) == ("acme", FLEET)
    certify(bench, gateway, "acme", hardware_revision="10")  # nearer, so it decides
    assert groups_of(bench.state, gateway) == ("acme", FLEET, "new")
    certify(bench, gateway, "acme", hardware_revision="ten")
    assert groups_of(bench.state, gateway) == ("acme", FLEET)
    other = bench.lab.gateways[1].did
    certify(bench, other, SITE, vendor="acme")  # certified by a group that has no say here
    assert groups_of(bench.state, other) == (FLEET,)


def test_attributes_do_not_lead_past_a_parent() -> None:
    inner = replace(make_group("inner"), placement=Placement(SITE, vendor("acme")))
    bench = site_bench(others=[inner])
    gateway = bench.lab.gateways[0].did
    certify(bench, gateway, "inner", vendor="acme")
    assert groups_of(bench.state, gateway) == (FLEET,)  # it is no member of the parent


def test_tags_and_sets() -> None:
    place = Placement(
        selector=All(
            (
                Compare(RuleField.TAG, Comparison.EQUAL, "lab"),
                OneOf(RuleField.REGION, ("eu", "uk")),
            )
        )
    )
    bench = site_bench(others=[replace(make_group("lab"), placement=place)])
    gateway = bench.lab.gateways[0].did
    certify(bench, gateway, "lab", **{"tag:lab": "yes", "tag:roof": "yes", "region": "uk"})
    assert groups_of(bench.state, gateway) == (FLEET, "lab")
    certify(bench, gateway, "lab", **{"tag:lab": "yes", "region": "us"})
    assert groups_of(bench.state, gateway) == (FLEET,)


def test_members_of_a_child_belong_to_its_parents() -> None:
    below = replace(make_group("below"), placement=Placement(FLEET))
    bench = site_bench(others=[below])
    draft = Draft(bench.state)
    did = bench.lab.gateways[0].did
    record = bench.state.subject(did)
    assert record is not None
    draft.put(subject_key(did), replace(record, groups=("below",)).encode())
    assert groups_of(draft, did) == ("below", FLEET)
    assert groups_of(draft, make_lab(gateways=3).gateways[2].did) == ()


def test_a_closed_group_takes_nothing_that_only_an_ancestor_allows() -> None:
    shut = replace(make_group("shut", make_policy(closed=True)), placement=Placement(parent=FLEET))
    bench = site_bench(others=[shut])
    now_ms = bench.time_ms
    state = bench.state
    assert accepting_groups(state, (FLEET,), (FLEET,), now_ms) == (FLEET,)
    assert accepting_groups(state, (FLEET, "shut"), (FLEET,), now_ms) == ()
    assert accepting_groups(state, (FLEET, "shut"), (FLEET, "shut"), now_ms) == (FLEET, "shut")
    assert accepting_groups(state, (FLEET, "shut", SITE), (FLEET, SITE), now_ms) == (SITE,)
    assert accepting_groups(state, (FLEET,), (SITE,), now_ms) == ()


def test_a_wait_shorter_than_an_hour_is_no_wait() -> None:
    with pytest.raises(VerificationError, match="amend delay"):
        site_policy(amend_delay_ms=HOUR_MS - 1)
