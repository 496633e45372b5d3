"""What a valid transaction may cost at most, and that the cheap ways give the same answers.

A group's owners write its rules and selectors, and every validator of every tenant executes them.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.bodies.defence import Complaint, ReportTamper
from ledger.bodies.manifest import ApproveManifest
from ledger.records.group import encode_children
from ledger.records.subject import AttributesRecord
from ledger.rules.evaluate import Facts, evaluate, selector_truth
from ledger.rules.membership import belongs_to, groups_of
from ledger.state import LedgerState
from ledger.state_keys import (
    attributes_key,
    children_key,
    group_key,
    placement_key,
    subject_key,
)
from ledger.transition.block import apply_transaction, begin, finish
from ledger.transition.shares import ORDINARY_COUNT_MAX
from protocol.approval import Action
from protocol.calendar import WeeklyWindow
from protocol.group import Group, Placement
from protocol.owner_root import OwnerRoot
from protocol.rule import (
    All,
    AnyOf,
    Compare,
    Comparison,
    Count,
    Counter,
    KOf,
    Not,
    OneOf,
    Rule,
    RuleField,
    Within,
)
from tests.support.contracts import SITE, proposal, site_policy
from tests.support.ledger import FLEET, make_bench, make_key

TRANSACTION_CALLS_MAX = {
    "one k_of": 8_000,
    "many k_of": 17_000,
    "roles": 19_000,
    "counts": 13_000,
    "windows": 13_000,
}
"""Function calls one transaction may cost under each dear rule, see `calls_of`: a third more than
they did where this was written. Work for each pair of a holder and an id would go far beyond."""
REPORT_CALLS_MAX = 5000
"""Function calls one report may cost, whatever groups there are."""


def calls_of(work):
    """How many Python functions some work calls: a cost that is the same on every machine."""
    calls = 0

    def count(_frame, event, _argument):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def keys(label, count):
    return sorted((make_key(f"{label}/{i}") for i in range(count)), key=lambda key: key.public)


OWNERS, AUDITORS = keys("dear/owner", 32), keys("dear/auditor", 32)
IDS = sorted(key.public.key_id for key in keys("dear/other", 100))
DEAR = {
    "one k_of": KOf(1, tuple(IDS)),
    "many k_of": All(tuple(KOf(1, (one,)) for one in IDS[:95])),
    "roles": AnyOf(tuple(KOf(64, (f"role-{i}",)) for i in range(120))),
    "counts": AnyOf(
        tuple(Count(Counter.PROPOSED, 10**9 + i, Comparison.LESS, 0) for i in range(200))
    ),
    "windows": AnyOf(tuple(Within(WeeklyWindow(1, i, i + 1)) for i in range(200))),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DEAR)
def test_a_block_of_approvals_under_the_dearest_rules_costs_a_bounded_amount(name):
    policy = site_policy(rule=DEAR[name])
    root = OwnerRoot(
        version=1,
        threshold=2,
        owners=tuple((key.public, f"owner {i}") for i, key in enumerate(OWNERS)),
        roles=(("auditor", tuple((key.public, f"aud {i}") for i, key in enumerate(AUDITORS))),),
    )
    bench = make_bench(groups=(Group(name=SITE, owner_root=root, policy=policy),))
    lab = bench.lab
    manifests = [proposal(bench, sequence=number) for number in range(1, 7)]
    signed = [
        lab.transaction(
            lab.gateways[0],
            ApproveManifest(
                manifest=manifest.manifest_id,
                group=SITE,
                approvals=(
                    lab.approval(
                        Action.AUTHORISE,
                        manifest.manifest_id,
                        key,
                        group=SITE,
                        policy=policy.policy_id,
                    ),
                ),
            ),
        )
        for key in (*OWNERS, *AUDITORS)
        for manifest in manifests
    ]
    assert len(signed) == ORDINARY_COUNT_MAX
    block = begin(bench.state, lab.context(height=bench.height + 1, time_ms=bench.time_ms + 1000))

    def execute():
        for one in signed:
            apply_transaction(block, one)
        finish(block)

    calls = calls_of(execute) // len(signed)
    assert calls < TRANSACTION_CALLS_MAX[name]


def poisoned(bench, writes):
    return LedgerState(bench.state.tree.update(writes), bench.state.log)


@pytest.mark.slow
def test_one_report_does_not_walk_through_every_group():
    """200 children with the longest selectors: one report took 3 s, since it looked at them all."""
    bench = make_bench()
    lab = bench.lab
    selector = AnyOf(
        tuple(Compare(RuleField.VENDOR, Comparison.EQUAL, f"v{i:03}") for i in range(200))
    )
    names = [f"child-{i:03}" for i in range(200)]
    some = bench.state.get(group_key(FLEET))
    writes = {
        placement_key(name): Placement(parent=FLEET, selector=selector).encode() for name in names
    }
    writes |= dict.fromkeys(map(group_key, names), some)
    writes[children_key(FLEET)] = encode_children(tuple(names))
    bench.state = poisoned(bench, writes)
    body = ReportTamper(subject=lab.gateways[1].did, group=FLEET, complaint=Complaint.FORGED)
    signed = lab.transaction(lab.gateways[0], body)
    refused = []
    calls = calls_of(lambda: refused.append(bench.refusal(signed).rule))
    assert refused == ["report.off"]
    assert calls < REPORT_CALLS_MAX


ATTRIBUTES = st.dictionaries(
    st.sampled_from(("vendor", "class", "region", "hardware_revision", "tag:a", "tag:b")),
    st.sampled_from(("x", "y", "1", "7")),
)
LEAVES = st.one_of(
    st.builds(
        Compare,
        st.sampled_from((RuleField.VENDOR, RuleField.CLASS, RuleField.REGION, RuleField.TAG)),
        st.sampled_from((Comparison.EQUAL, Comparison.NOT_EQUAL)),
        st.sampled_from(("x", "y", "a", "b")),
    ),
    st.builds(
        Compare,
        st.just(RuleField.HARDWARE_REVISION),
        st.sampled_from(Comparison),
        st.integers(0, 8),
    ),
    st.builds(OneOf, st.just(RuleField.VENDOR), st.just(("x", "y"))),
)
SELECTORS: st.SearchStrategy[Rule] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(All, st.lists(inner, min_size=1, max_size=3).map(tuple)),
        st.builds(AnyOf, st.lists(inner, min_size=1, max_size=3).map(tuple)),
        st.builds(Not, inner),
    ),
    max_leaves=6,
)
NAMES = ("a", "b", "c", "d", "e")
FOREST = st.tuples(
    *(
        st.tuples(st.sampled_from((None, *NAMES[:index])), st.none() | SELECTORS)
        for index in range(len(NAMES))
    )
)
BENCH = make_bench()


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    forest=FOREST,
    own=st.lists(st.sampled_from(NAMES), unique=True, max_size=2),
    certified=st.dictionaries(st.sampled_from(NAMES), ATTRIBUTES, max_size=3),
)
def test_belonging_to_one_group_is_what_all_groups_say(forest, own, certified):
    did = BENCH.lab.gateways[0].did
    record = BENCH.state.subject(did)
    assert record is not None
    children: dict[str | None, list[str]] = {}
    writes = {}
    for name, (parent, selector) in zip(NAMES, forest, strict=True):
        writes[group_key(name)] = BENCH.state.get(group_key(FLEET))
        if parent is not None or selector is not None:
            writes[placement_key(name)] = Placement(parent=parent, selector=selector).encode()
            children.setdefault(parent, []).append(name)
    for parent, names in children.items():
        writes[children_key(parent)] = encode_children(tuple(sorted(names)))
    for name, attributes in certified.items():
        stated = AttributesRecord(version=1, attributes=tuple(sorted(attributes.items())))
        writes[attributes_key(did, name)] = stated.encode()
    writes[subject_key(did)] = replace(record, groups=tuple(sorted(own))).encode()
    state = poisoned(BENCH, writes)
    every = groups_of(state, did)
    assert [name for name in NAMES if belongs_to(state, did, name)] == list(every)


@settings(max_examples=40, deadline=None)
@given(
    SELECTORS,
    st.dictionaries(
        st.sampled_from((RuleField.VENDOR, RuleField.CLASS, RuleField.REGION, RuleField.TAG)),
        st.lists(st.sampled_from(("x", "y", "a")), max_size=2).map(tuple),
    ),
    st.lists(st.integers(0, 8), max_size=1),
)
def test_the_truth_of_a_selector_is_that_with_reasons(rule, fields, revision):
    fields = {**fields, RuleField.HARDWARE_REVISION: tuple(revision)}
    assert selector_truth(rule, fields) is evaluate(rule, Facts(fields=fields)).truth
