"""Rules of `emergency.pause` and `emergency.confirm`, and what no pause can hold up."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import LedgerNotYetError
from ledger.records.emergency import PAUSES_MAX, PauseEntry, PausesRecord
from ledger.records.manifest import ManifestStatus
from ledger.state_keys import GOVERNANCE_KEY, pauses_key
from ledger.transition.emergency import CONFIRMED_MS_MAX, COOL_DOWN_MS, PAUSE_MS
from ledger.transition.kinds import PROTECTING_KINDS, decode_body
from protocol.approval import Action
from protocol.digest import ChainId, ManifestId, sha256
from protocol.encoding import encode_canonical
from tests.support.ledger import (
    FLEET,
    PRODUCT,
    Lab,
    make_bench,
    make_key,
    make_lab,
    make_policy,
    owner_keys,
)
from tests.support.rollout import (
    decide,
    emergency_group,
    emergency_keys,
    pause,
    with_emergency,
)

GROUP = "pumps"
KEYS = emergency_keys(GROUP)
OTHER = ManifestId(sha256(b"another release"))


@pytest.fixture
def bench():
    return make_bench(groups=[emergency_group(GROUP)])


def submit(bench, body, *, after_ms=1000, by=0):
    """Applies a body in a next block."""
    return bench.apply(sign(bench, body, after_ms, by), after_ms=after_ms)


def sign(bench, body, after_ms=1000, by=0):
    lab: Lab = bench.lab
    until_ms = bench.time_ms + after_ms
    member = lab.gateways[by]
    nonce = bench.state.account(member.did).nonce
    return lab.transaction(member, body, nonce=nonce, valid_until_ms=until_ms)


def refusal(bench, body, *, after_ms=1000):
    return bench.refusal(sign(bench, body, after_ms), after_ms=after_ms)


def holding(bench, *, group=GROUP, product=PRODUCT, manifest=OTHER, after_ms=0):
    return bench.state.pauses(group).holding(product, manifest, bench.time_ms + after_ms)


def test_one_emergency_key_pauses_for_72_hours(bench):
    submit(bench, pause(bench.lab, KEYS[0]))
    entry = holding(bench)
    assert entry is not None
    assert entry.key_id == KEYS[0].public.key_id
    assert holding(bench, after_ms=PAUSE_MS - 1) is not None
    assert holding(bench, after_ms=PAUSE_MS) is None
    assert PAUSE_MS == 72 * 3_600_000


@pytest.mark.parametrize(
    ("scope", "product", "manifest", "covered"),
    [
        ({"product": "pump"}, "pump", OTHER, True),
        ({"product": "pump"}, "valve", OTHER, False),
        ({"manifest": OTHER}, "pump", OTHER, True),
        ({"manifest": OTHER}, "pump", ManifestId(sha256(b"this one")), False),
        ({"product": "valve", "manifest": OTHER}, "pump", OTHER, False),
        ({}, "anything", OTHER, True),
    ],
)
def test_a_pause_covers_its_scope_and_nothing_else(bench, scope, product, manifest, covered):
    submit(bench, pause(bench.lab, KEYS[0], **scope))
    assert (holding(bench, product=product, manifest=manifest) is not None) == covered
    assert holding(bench, group=FLEET) is None
    assert holding(bench, group=None) is None


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"era": 1}, "approval.era"),
        ({"chain": ChainId(sha256(b"other chain"))}, "approval.signature"),
        ({"policy": sha256(b"other policy")}, "approval.policy"),
        ({"valid_until_ms": 1}, "approval.expired"),
    ],
)
def test_one_thing_wrong_with_a_pauses_approval(bench, changes, rule):
    assert refusal(bench, pause(bench.lab, KEYS[0], **changes)).rule == rule


def test_consent_for_another_group_does_not_serve(bench):
    body = pause(bench.lab, KEYS[0])
    arguments = {"group": FLEET, "policy": bench.lab.policy_id(GROUP)}
    approval = bench.lab.approval(Action.PAUSE, body.subject, KEYS[0], **arguments)
    assert refusal(bench, replace(body, approval=approval)).rule == "approval.group"


def test_only_emergency_keys_pause(bench):
    lab = bench.lab
    for key in (owner_keys(GROUP)[0], make_key("stranger"), emergency_keys(FLEET)[0]):
        assert refusal(bench, pause(lab, key)).rule == "approval.owner"
    for group, key in ((FLEET, KEYS[0]), (None, lab.governance[0])):
        assert refusal(bench, pause(lab, key, group=group)).rule == "pause.role"
    unknown = pause(lab, KEYS[0], group=None)
    unknown = replace(unknown, group="nowhere")
    assert refusal(bench, unknown).rule == "group.unknown"


def test_an_emergency_key_decides_nothing_else(bench):
    lab = bench.lab
    submit(bench, pause(lab, KEYS[0]))
    for owners in ([KEYS[0]], KEYS):
        body = decide(lab, KEYS[0], 0, owners=owners)
        assert refusal(bench, body).rule == "approval.owner"
    body = pause(lab, KEYS[1])
    approval = lab.approval(Action.REVOKE, body.subject, KEYS[1], group=GROUP)
    assert refusal(bench, replace(body, approval=approval)).rule == "approval.action"


def test_what_is_signed_cannot_be_widened(bench):
    body = pause(bench.lab, KEYS[0], product="pump")
    assert refusal(bench, replace(body, product=None)).rule == "approval.subject"
    assert refusal(bench, replace(body, manifest=OTHER)).rule == "approval.subject"
    assert refusal(bench, replace(body, sequence=2)).rule == "approval.subject"


def test_a_chain_of_pauses_by_one_key_is_cut(bench):
    lab, key = bench.lab, KEYS[0]
    submit(bench, pause(lab, key, product="pump"))
    for scope in ({"product": "pump"}, {"product": "valve"}, {}, {"manifest": OTHER}):
        again = pause(lab, key, sequence=2, **scope)
        assert refusal(bench, again).rule == "pause.active"
        late = refusal(bench, again, after_ms=PAUSE_MS + COOL_DOWN_MS - 1)
        assert (late.rule, type(late)) == ("pause.cool_down", LedgerNotYetError)
    submit(bench, pause(lab, key, sequence=2), after_ms=PAUSE_MS + COOL_DOWN_MS)
    assert holding(bench) is not None


def test_a_replayed_pause_is_refused(bench):
    lab = bench.lab
    body = pause(lab, KEYS[0])
    submit(bench, body)
    rest = PAUSE_MS + COOL_DOWN_MS
    for after_ms in (1000, rest):
        assert refusal(bench, body, after_ms=after_ms).rule == "approval.used"
    again = pause(lab, KEYS[0], product="pump")
    assert refusal(bench, again, after_ms=rest).rule == "pause.sequence"


def test_old_pauses_leave_the_record_and_still_cannot_be_replayed(bench):
    lab = bench.lab
    submit(bench, pause(lab, KEYS[0]))
    submit(bench, pause(lab, KEYS[1]), after_ms=PAUSE_MS + COOL_DOWN_MS)
    (entry,) = bench.state.pauses(GROUP).entries
    assert entry.key_id == KEYS[1].public.key_id
    assert refusal(bench, pause(lab, KEYS[0])).rule == "approval.used"
    submit(bench, pause(lab, KEYS[0], sequence=lab.genesis.time_ms))


def test_keys_that_a_root_no_longer_names_do_not_fill_the_record_for_good(bench):
    entries = tuple(
        PauseEntry(
            key_id=key_id,
            product=None,
            manifest=None,
            sequence=1,
            began_ms=bench.time_ms - PAUSE_MS,
            until_ms=bench.time_ms,
        )
        for key_id in sorted(sha256(b"old key %d" % number) for number in range(PAUSES_MAX))
    )
    writes = {pauses_key(GROUP): PausesRecord(entries=entries).encode()}
    bench.state = replace(bench.state, tree=bench.state.tree.update(writes))
    body = pause(bench.lab, KEYS[0])
    error = refusal(bench, body)
    assert (error.rule, type(error)) == ("pause.full", LedgerNotYetError)
    submit(bench, body, after_ms=COOL_DOWN_MS)
    assert len(bench.state.pauses(GROUP).entries) == 1


def test_two_keys_pause_side_by_side(bench):
    for key, product in zip(KEYS, ("pump", "valve"), strict=True):
        submit(bench, pause(bench.lab, key, product=product))
    assert len(bench.state.pauses(GROUP).entries) == 2
    assert holding(bench, product="pump") != holding(bench, product="valve")


def test_owners_prolong_and_lift(bench):
    lab = bench.lab
    submit(bench, pause(lab, KEYS[0]))
    until_ms = bench.time_ms + 10 * PAUSE_MS
    few = decide(lab, KEYS[0], until_ms, owners=owner_keys(GROUP)[:1])
    assert refusal(bench, few).rule == "approval.threshold"
    longer = decide(lab, KEYS[0], until_ms)
    submit(bench, longer)
    assert holding(bench, after_ms=9 * PAUSE_MS) is not None
    assert refusal(bench, longer).rule == "pause.until"
    submit(bench, decide(lab, KEYS[0], 0))
    assert holding(bench) is None
    assert refusal(bench, longer).rule == "pause.ended"
    assert refusal(bench, decide(lab, KEYS[0], 0)).rule == "pause.ended"


def test_after_lifting_a_key_rests_too(bench):
    lab = bench.lab
    submit(bench, pause(lab, KEYS[0]))
    submit(bench, decide(lab, KEYS[0], 0))
    again = pause(lab, KEYS[0], sequence=2)
    assert refusal(bench, again, after_ms=COOL_DOWN_MS - 1).rule == "pause.cool_down"
    submit(bench, again, after_ms=COOL_DOWN_MS)
    old = decide(lab, KEYS[0], 0, sequence=1)
    assert refusal(bench, old).rule == "pause.ended"


def test_what_owners_may_not_decide(bench):
    lab = bench.lab
    now_ms = bench.time_ms
    assert refusal(bench, decide(lab, KEYS[0], now_ms)).rule == "pause.unknown"
    submit(bench, pause(lab, KEYS[0]))
    ends_ms = bench.time_ms + PAUSE_MS
    for until_ms in (1, bench.time_ms, ends_ms, bench.time_ms + 1000 + CONFIRMED_MS_MAX + 1):
        assert refusal(bench, decide(lab, KEYS[0], until_ms)).rule == "pause.until"
    assert refusal(bench, decide(lab, KEYS[0], ends_ms + 1, sequence=2)).rule == "pause.unknown"
    late = decide(lab, KEYS[0], ends_ms + 5000)
    assert refusal(bench, late, after_ms=PAUSE_MS).rule == "pause.ended"
    for changes, rule in (
        ({"chain": ChainId(sha256(b"other"))}, "approval.signature"),
        ({"era": 3}, "approval.era"),
    ):
        assert refusal(bench, decide(lab, KEYS[0], 0, **changes)).rule == rule


def test_a_pause_never_holds_up_a_revocation_or_anything_else_that_protects():
    publisher = make_lab().publisher.did
    bench = make_bench(groups=[emergency_group(GROUP, make_policy(publishers=(publisher,)))])
    lab = bench.lab
    manifest = lab.manifest(groups=(GROUP,))
    bench.apply(lab.propose(manifest))
    submit(bench, pause(lab, KEYS[0]))
    submit(bench, pause(lab, KEYS[1], manifest=manifest.manifest_id))
    for made, status in (
        (lab.approve, ManifestStatus.AUTHORISED),
        (lab.revoke, ManifestStatus.REVOKED),
    ):
        body = made(manifest.manifest_id, group=GROUP).transaction
        submit(bench, decode_body(body.kind, body.body))
        assert bench.state.manifest(manifest.manifest_id, GROUP).status is status
    protecting = {"manifest.revoke", "did.suspend", "emergency.pause", "emergency.confirm"}
    assert protecting <= set(PROTECTING_KINDS)


def test_governance_emergency_keys_pause_the_whole_chain(bench):
    lab = bench.lab
    keys = emergency_keys("governance")
    root = with_emergency(lab.genesis.governance_root, keys)
    writes = {GOVERNANCE_KEY: encode_canonical(root.to_value())}
    bench.state = replace(bench.state, tree=bench.state.tree.update(writes))
    assert refusal(bench, pause(lab, KEYS[0], group=None)).rule == "approval.owner"
    elsewhere = replace(pause(lab, keys[0], group=None), group=GROUP)
    assert refusal(bench, elsewhere).rule == "approval.subject"
    submit(bench, pause(lab, keys[0], group=None, product="pump"))
    assert holding(bench, group=None) is not None
    assert holding(bench) is None  # it stands on a record of its own, which offers read too
    few = decide(lab, keys[0], 0, group=None, owners=lab.governance[:1])
    assert refusal(bench, few).rule == "approval.threshold"
    groups = decide(lab, keys[0], 0, group=None, owners=owner_keys(GROUP)[:2])
    assert refusal(bench, groups).rule == "approval.owner"
    submit(bench, decide(lab, keys[0], 0, group=None))
    assert holding(bench, group=None) is None


def test_no_other_rule_reads_pauses():
    """What a pause cannot do is what no code reads it for."""
    from pathlib import Path

    import ledger.transition

    folder = Path(ledger.transition.__file__).parent
    readers = [
        path.name
        for path in sorted(folder.glob("**/*.py"))
        if any(word in path.read_text() for word in (".pauses(", "pauses_key", "PausesRecord"))
    ]
    assert readers == ["emergency.py"]


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 12 * 24),
            st.sampled_from([{}, {"product": "pump"}, {"manifest": OTHER}]),
        ),
        max_size=12,
    )
)
def test_one_key_holds_offers_back_for_at_most_a_third_of_the_time(tries):
    bench = make_bench(groups=[emergency_group(GROUP)])
    sequence, spans = 1, []
    for hours, scope in tries:
        after_ms = hours * 3_600_000 + 1000
        body = pause(bench.lab, KEYS[0], sequence=sequence, **scope)
        rest_ms = PAUSE_MS + COOL_DOWN_MS
        if not spans or bench.time_ms + after_ms >= spans[-1] + rest_ms:
            submit(bench, body, after_ms=after_ms)
            sequence += 1
            spans.append(bench.time_ms)
        else:
            error = refusal(bench, body, after_ms=after_ms)
            assert error.rule in ("pause.active", "pause.cool_down")
            bench.height, bench.time_ms = bench.height + 1, bench.time_ms + after_ms
    gaps = [later - earlier for earlier, later in pairwise(spans)]
    assert all(gap >= PAUSE_MS + COOL_DOWN_MS for gap in gaps)
