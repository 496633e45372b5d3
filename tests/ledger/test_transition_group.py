"""Rules of `group.create` and `policy.set`."""

from __future__ import annotations

from dataclasses import replace

from ledger.bodies.group import CreateGroup, SetPolicy
from ledger.errors import LedgerNotYetError
from protocol.approval import Action
from protocol.digest import sha256
from protocol.encoding import INTEGER_MAX
from tests.support.ledger import (
    FLEET,
    HOUR_MS,
    make_bench,
    make_group,
    make_policy,
    owner_keys,
)

PUMPS = make_group("pumps")
DAY_MS = 24 * HOUR_MS


def creation(bench, group=PUMPS, *, keys=None, raw=None):
    raw = group.encode() if raw is None else raw
    lab = bench.lab
    approvals = tuple(
        lab.approval(
            Action.CREATE_GROUP,
            sha256(raw),
            key,
            group=group.name,
            policy=group.policy.policy_id,
        )
        for key in (lab.governance[:2] if keys is None else keys)
    )
    return lab.transaction(lab.gateways[0], CreateGroup(group=raw, approvals=approvals))


def test_governance_creates_a_group():
    bench = make_bench()
    state = bench.apply(creation(bench))
    record = state.group("pumps")
    assert record.owner_root == PUMPS.owner_root
    assert state.policy(record.policy) == PUMPS.policy
    assert record.creators == tuple(sorted(key.public.key_id for key in bench.lab.governance[:2]))
    for key_id in record.creators:
        raw = state.approval(sha256(PUMPS.encode()), Action.CREATE_GROUP, key_id, "pumps")
        assert raw is not None


def test_one_thing_wrong_with_a_new_group():
    bench = make_bench()
    cases = [
        (creation(bench, keys=bench.lab.governance[:1]), "approval.threshold"),
        (creation(bench, keys=owner_keys("pumps")[:2]), "approval.owner"),
        (creation(bench, keys=owner_keys(FLEET)[:2]), "approval.owner"),
        (creation(bench, raw=b"\xa0"), "group.malformed"),
        (creation(bench, make_group(FLEET, make_policy(enrol_threshold=1))), "group.known"),
    ]
    for signed, rule in cases:
        assert bench.refusal(signed).rule == rule


def amendment(
    bench, policy, *, old=None, count=2, group=FLEET, valid_until_ms=None, raw=None, until_ms=None
):
    lab = bench.lab
    old = lab.policy_id(FLEET) if old is None else old.policy_id
    until = {} if valid_until_ms is None else {"valid_until_ms": valid_until_ms}
    approvals = tuple(
        lab.approval(Action.AMEND, policy.policy_id, key, group=group, policy=old, **until)
        for key in owner_keys(group)[:count]
    )
    body = SetPolicy(
        group=group, policy=policy.encode() if raw is None else raw, approvals=approvals
    )
    until_ms = bench.time_ms + 12 * HOUR_MS if until_ms is None else until_ms
    return lab.transaction(lab.gateways[0], body, valid_until_ms=until_ms)


STRICT = make_policy(approve_threshold=3, amend_threshold=3)


def test_a_new_policy_waits_for_the_old_ones_delay():
    bench = make_bench()
    state = bench.apply(amendment(bench, STRICT))
    record = state.group(FLEET)
    assert record.policy_at(bench.time_ms + DAY_MS - 1) == bench.lab.policy_id()
    assert record.policy_at(bench.time_ms + DAY_MS) == STRICT.policy_id
    assert state.policy(STRICT.policy_id) == STRICT


def test_the_old_policy_rules_until_the_new_one_is_in_force():
    bench = make_bench()
    bench.apply(amendment(bench, STRICT))
    later = make_policy(enrol_threshold=1)
    # Still the old one: two owners replace what was scheduled.
    bench.apply(amendment(bench, later))
    assert bench.state.group(FLEET).scheduled[0] == later.policy_id
    bench.apply(amendment(bench, STRICT, valid_until_ms=bench.time_ms + 90 * DAY_MS))
    # A day later the strict one holds: two owners no longer suffice, three do.
    newest = make_policy(enrol_threshold=3)
    error = bench.refusal(
        amendment(bench, newest, old=STRICT, until_ms=bench.time_ms + DAY_MS + 9), after_ms=DAY_MS
    )
    assert error.rule == "approval.threshold"


def test_one_thing_wrong_with_a_policy():
    bench = make_bench()
    four = make_policy(approve_threshold=4, amend_threshold=4)
    undercut = make_policy(approve_threshold=1)
    cases = [
        (amendment(bench, STRICT, count=1), "approval.threshold"),
        (amendment(bench, STRICT, group="nowhere"), "group.unknown"),
        (amendment(bench, STRICT, raw=b"\xa0"), "policy.malformed"),
        (amendment(bench, four), "policy.unfit"),
        (amendment(bench, undercut), "policy.unfit"),
        (amendment(bench, make_policy()), "policy.same"),
        (amendment(bench, STRICT, old=STRICT), "approval.policy"),
    ]
    for signed, rule in cases:
        assert bench.refusal(signed).rule == rule
    unknown = bench.refusal(amendment(bench, STRICT, group="nowhere"))
    assert isinstance(unknown, LedgerNotYetError)


def test_the_amendment_threshold_counts_not_that_of_approval():
    bench = make_bench(policy=make_policy(amend_threshold=3))
    assert bench.refusal(amendment(bench, STRICT)).rule == "approval.threshold"
    bench.apply(amendment(bench, STRICT, count=3))


def test_owners_take_a_scheduled_policy_back_and_approvals_serve_once():
    old = make_policy(amend_delay_ms=HOUR_MS)
    bench = make_bench(policy=old)
    bench.apply(amendment(bench, STRICT))
    bench.apply(amendment(bench, old))
    record = bench.state.group(FLEET)
    assert record.policy_at(bench.time_ms + DAY_MS) == old.policy_id
    replay = amendment(bench, STRICT)
    assert bench.refusal(replay).rule == "approval.used"
    fresh = amendment(bench, STRICT, valid_until_ms=bench.time_ms + 90 * DAY_MS)
    bench.lab.nonces[bench.lab.gateways[0].did] = 2
    assert bench.refusal(replay).rule == "approval.used"
    bench.apply(fresh)


def test_a_policy_in_force_by_schedule_is_the_same():
    bench = make_bench(policy=make_policy(amend_delay_ms=HOUR_MS))
    soft = make_policy(amend_delay_ms=HOUR_MS, enrol_threshold=1)
    bench.apply(amendment(bench, soft))
    error = bench.refusal(amendment(bench, soft, old=soft), after_ms=HOUR_MS)
    assert error.rule == "policy.same"


def test_extensions_of_groups_and_policies_are_kept():
    bench = make_bench()
    group = replace(PUMPS, extensions={-1: b"note"})
    state = bench.apply(creation(bench, group))
    assert state.origin("pumps") == group.encode()
    policy = replace(STRICT, extensions={-7: 1})
    state = bench.apply(amendment(bench, policy))
    assert state.policy(policy.policy_id) == policy


def test_a_delay_beyond_all_time_does_not_overflow():
    bench = make_bench()
    bench.time_ms = INTEGER_MAX - 10_000
    until = INTEGER_MAX - 5_000
    state = bench.apply(amendment(bench, STRICT, valid_until_ms=until, until_ms=until))
    assert state.group(FLEET).scheduled == (STRICT.policy_id, INTEGER_MAX)
