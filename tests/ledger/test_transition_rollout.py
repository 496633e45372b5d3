"""Rules of `rollout.command`, `rollout.stop` and `report.health`."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.bodies.rollout import Command, CommandRollout, StopRollout
from ledger.errors import LedgerNotYetError
from ledger.records.manifest import ManifestStatus
from ledger.records.rollout import HaltCause, RolloutRecord, RolloutStatus
from ledger.transition.health import HEALTH_INTERVAL_MS
from ledger.transition.kinds import decode_body
from ledger.transition.rollout import failing, judged
from protocol.approval import Action
from protocol.digest import ChainId, sha256
from protocol.errors import EncodingError
from protocol.rollout import Promotion
from tests.support.ledger import FLEET, Bench, make_bench, owner_keys
from tests.support.rollout import (
    SOAK_MS,
    command,
    make_plan,
    make_stage,
    report,
    rollout_of,
    rollout_policy,
    running,
)


def order(bench: Bench, manifest, what, **arguments):
    """A command that names the rollout's present step unless told otherwise."""
    arguments.setdefault("sequence", rollout_of(bench, manifest).sequence)
    return command(bench.lab, manifest.manifest_id, what, **arguments)


def status(bench, manifest):
    return rollout_of(bench, manifest).status


# Beginning.


def test_a_rollout_begins_with_the_authorisation_and_not_before():
    bench = make_bench(policy=rollout_policy(make_plan(priority=4)))
    manifest = bench.lab.manifest()
    bench.apply(bench.lab.propose(manifest))
    bench.apply(bench.lab.approve(manifest.manifest_id, count=1))
    assert bench.state.rollout(manifest.manifest_id, FLEET) is None
    bench.apply(bench.lab.approve(manifest.manifest_id, count=3))
    assert rollout_of(bench, manifest) == RolloutRecord(
        status=RolloutStatus.RUNNING, stage=0, started_ms=bench.time_ms, priority=4
    )


def test_further_approvals_do_not_begin_it_anew():
    bench, manifest = running()
    bench.apply(order(bench, manifest, Command.PROMOTE))
    before = rollout_of(bench, manifest)
    bench.apply(bench.lab.approve(manifest.manifest_id, count=3))
    assert rollout_of(bench, manifest) == before


def test_without_a_plan_there_is_no_rollout():
    bench = make_bench()
    manifest = bench.lab.manifest()
    bench.apply(bench.lab.propose(manifest))
    bench.apply(bench.lab.approve(manifest.manifest_id))
    assert bench.state.rollout(manifest.manifest_id, FLEET) is None
    late = command(bench.lab, manifest.manifest_id, Command.PAUSE, owners=1)
    assert bench.refusal(late).rule == "rollout.unknown"


def test_nothing_about_a_rollout_authorises():
    bench = make_bench(policy=rollout_policy())
    manifest = bench.lab.manifest()
    bench.apply(bench.lab.propose(manifest))
    early = command(bench.lab, manifest.manifest_id, Command.PROMOTE)
    assert isinstance(bench.refusal(early), LedgerNotYetError)
    record = bench.state.manifest(manifest.manifest_id, FLEET)
    assert record.status is ManifestStatus.PROPOSED


# Commands.


@pytest.mark.parametrize(
    ("what", "needed"),
    [
        (Command.PROMOTE, 2),
        (Command.PRIORITY, 2),
        (Command.PAUSE, 1),
        (Command.HALT, 2),
    ],
)
def test_how_many_owners_a_command_takes(what, needed):
    bench, manifest = running()
    priority = 3 if what is Command.PRIORITY else 0
    if needed > 1:
        few = order(bench, manifest, what, owners=needed - 1, priority=priority)
        assert bench.refusal(few).rule == "approval.threshold"
    bench.apply(order(bench, manifest, what, owners=needed, priority=priority))
    assert rollout_of(bench, manifest).sequence == 1


@pytest.mark.parametrize("stop", [Command.PAUSE, Command.HALT])
def test_resuming_takes_as_many_owners_as_approving(stop):
    bench, manifest = running()
    bench.apply(order(bench, manifest, stop))
    few = order(bench, manifest, Command.RESUME, owners=1)
    assert bench.refusal(few).rule == "approval.threshold"
    bench.apply(order(bench, manifest, Command.RESUME))
    assert status(bench, manifest) is RolloutStatus.RUNNING
    assert rollout_of(bench, manifest).started_ms == bench.time_ms


def test_owners_promote_stage_by_stage_until_it_is_done():
    bench, manifest = running()
    for stage in (1, 2):
        bench.apply(order(bench, manifest, Command.PROMOTE))
        record = rollout_of(bench, manifest)
        assert (record.stage, record.status) == (stage, RolloutStatus.RUNNING)
        assert record.started_ms == bench.time_ms
    bench.apply(order(bench, manifest, Command.PROMOTE))
    assert status(bench, manifest) is RolloutStatus.DONE
    assert bench.refusal(order(bench, manifest, Command.PROMOTE)).rule == "rollout.status"


ALLOWED = {
    RolloutStatus.RUNNING: {Command.PROMOTE, Command.PAUSE, Command.HALT, Command.PRIORITY},
    RolloutStatus.PAUSED: {Command.RESUME, Command.HALT, Command.PRIORITY},
    RolloutStatus.HALTED: {Command.RESUME, Command.PRIORITY},
    RolloutStatus.DONE: {Command.PAUSE, Command.HALT, Command.PRIORITY},
}


def bring_to(bench, manifest, wanted):
    if wanted is RolloutStatus.DONE:
        for _ in range(3):
            bench.apply(order(bench, manifest, Command.PROMOTE))
    elif wanted is not RolloutStatus.RUNNING:
        paused = wanted is RolloutStatus.PAUSED
        bench.apply(order(bench, manifest, Command.PAUSE if paused else Command.HALT))


@pytest.mark.parametrize("what", Command)
@pytest.mark.parametrize("wanted", RolloutStatus)
def test_every_command_in_every_status(wanted, what):
    bench, manifest = running()
    bring_to(bench, manifest, wanted)
    priority = 1 if what is Command.PRIORITY else 0
    signed = order(bench, manifest, what, priority=priority)
    if what in ALLOWED[wanted]:
        bench.apply(signed)
    else:
        assert bench.refusal(signed).rule == "rollout.status"


def test_a_priority_that_holds_already_changes_nothing():
    bench, manifest = running(priority=5)
    assert (
        bench.refusal(order(bench, manifest, Command.PRIORITY, priority=5)).rule == "rollout.same"
    )


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"era": 1}, "approval.era"),
        ({"chain": ChainId(sha256(b"other chain"))}, "approval.signature"),
        ({"policy": sha256(b"other policy")}, "approval.policy"),
        ({"valid_until_ms": 1}, "approval.expired"),
    ],
)
@pytest.mark.parametrize("what", [Command.PROMOTE, Command.PAUSE])
def test_one_thing_wrong_with_a_commands_approvals(what, changes, rule):
    bench, manifest = running()
    assert bench.refusal(order(bench, manifest, what, **changes)).rule == rule


@pytest.mark.parametrize("action", [Action.AUTHORISE, Action.REVOKE, Action.PAUSE])
def test_consent_to_something_else_commands_nothing(action):
    bench, manifest = running()
    lab = bench.lab
    body = StopRollout(
        manifest=manifest.manifest_id,
        group=FLEET,
        command=Command.PAUSE,
        sequence=0,
        approvals=(),
    )
    approval = lab.approval(action, body.subject, owner_keys(FLEET)[0])
    signed = lab.transaction(lab.gateways[0], replace(body, approvals=(approval,)))
    assert bench.refusal(signed).rule == "approval.action"


def test_owners_of_another_group_command_nothing():
    bench, manifest = running()
    lab = bench.lab
    body = StopRollout(
        manifest=manifest.manifest_id,
        group=FLEET,
        command=Command.PAUSE,
        sequence=0,
        approvals=(),
    )
    stranger = lab.approval(Action.ROLLOUT, body.subject, owner_keys("pumps")[0])
    signed = lab.transaction(lab.gateways[0], replace(body, approvals=(stranger,)))
    assert bench.refusal(signed).rule == "approval.owner"


def test_approvals_of_one_command_do_not_serve_another():
    bench, manifest = running()
    lab = bench.lab
    pause = order(bench, manifest, Command.PAUSE).transaction.body
    halt = StopRollout(
        manifest=manifest.manifest_id,
        group=FLEET,
        command=Command.HALT,
        sequence=0,
        approvals=tuple(pause[4]),
    )
    signed = lab.transaction(lab.gateways[0], halt)
    assert bench.refusal(signed).rule == "approval.subject"


def test_a_replayed_command_changes_nothing():
    bench, manifest = running()
    lab = bench.lab
    first = order(bench, manifest, Command.PAUSE)
    body = StopRollout(
        manifest=manifest.manifest_id,
        group=FLEET,
        command=Command.PAUSE,
        sequence=0,
        approvals=tuple(first.transaction.body[4]),
    )
    bench.apply(first)
    bench.apply(order(bench, manifest, Command.RESUME))
    again = lab.transaction(lab.gateways[1], body)
    assert bench.refusal(again).rule == "rollout.sequence"
    promote = order(bench, manifest, Command.PROMOTE)
    kept = CommandRollout(
        manifest=manifest.manifest_id,
        group=FLEET,
        command=Command.PROMOTE,
        priority=0,
        sequence=2,
        approvals=tuple(promote.transaction.body[5]),
    )
    bench.apply(promote)
    assert bench.refusal(lab.transaction(lab.gateways[1], kept)).rule == "rollout.sequence"


def test_a_command_for_a_later_step_waits():
    bench, manifest = running()
    for what in (Command.PROMOTE, Command.PAUSE):
        error = bench.refusal(order(bench, manifest, what, sequence=1))
        assert (error.rule, type(error)) == ("rollout.ahead", LedgerNotYetError)


def test_a_revoked_release_has_no_rollout_to_command():
    bench, manifest = running()
    bench.apply(bench.lab.revoke(manifest.manifest_id))
    assert bench.refusal(order(bench, manifest, Command.PROMOTE)).rule == "rollout.manifest"
    assert bench.refusal(report(bench, manifest, good=1)).rule == "health.manifest"


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("rollout.command", {2: int(Command.PAUSE)}),
        ("rollout.command", {2: int(Command.HALT)}),
        ("rollout.command", {3: 1}),
        ("rollout.command", {2: int(Command.PRIORITY), 3: 10}),
        ("rollout.stop", {2: int(Command.PROMOTE)}),
        ("rollout.stop", {2: 6}),
        ("rollout.stop", {4: []}),
    ],
)
def test_a_command_of_the_other_kind_is_no_body(kind, changes):
    bench, manifest = running()
    what = Command.PROMOTE if kind == "rollout.command" else Command.HALT
    value = order(bench, manifest, what).transaction.body
    decode_body(kind, value)
    with pytest.raises(EncodingError):
        decode_body(kind, {**value, **changes})


# Automatic steps.


def test_a_rollout_halts_when_one_site_more_fails_than_is_tolerated():
    bench, manifest = running(gateways=3, sites=("a", "b", "c"))
    bench.apply(report(bench, manifest, 0, bad=1))
    assert status(bench, manifest) is RolloutStatus.RUNNING
    bench.apply(report(bench, manifest, 1, bad=1))
    record = rollout_of(bench, manifest)
    assert (record.status, record.cause) == (RolloutStatus.HALTED, HaltCause.FAILING_SITES)
    assert (record.failure_sites, record.sequence, record.sequence_floor) == (2, 1, 0)


def test_a_rollout_halts_by_the_share_of_failures():
    bench, manifest = running(gateways=3, sites=("a", "b", "c"), failure_sites_max=5)
    bench.apply(report(bench, manifest, 0, good=6, bad=1))
    bench.apply(report(bench, manifest, 1, good=2))
    assert status(bench, manifest) is RolloutStatus.RUNNING
    bench.apply(report(bench, manifest, 2, good=1, bad=2))
    record = rollout_of(bench, manifest)
    assert (record.status, record.cause) == (RolloutStatus.HALTED, HaltCause.FAILING_SHARE)


def test_a_small_sample_and_a_single_site_do_not_halt_by_share():
    bench, manifest = running(gateways=2, sites=("a", "b"), failure_sites_max=5)
    bench.apply(report(bench, manifest, 0, bad=1_000_000))
    assert status(bench, manifest) is RolloutStatus.RUNNING
    bench, manifest = running(gateways=2, sites=("a", "b"), failure_sites_max=5)
    bench.apply(report(bench, manifest, 0, bad=5))
    bench.apply(report(bench, manifest, 1, bad=4))
    assert status(bench, manifest) is RolloutStatus.RUNNING


def test_it_goes_on_by_itself_only_after_soak_and_success():
    bench, manifest = running(
        gateways=3, sites=("a", "b", "c"), promotion=Promotion.AUTOMATIC, success_sites_min=2
    )
    bench.apply(report(bench, manifest, 0, good=1))
    bench.apply(report(bench, manifest, 1, good=1))
    poke = order(bench, manifest, Command.PROMOTE, owners=0)
    assert bench.refusal(poke).rule == "rollout.conditions"
    bench.apply(report(bench, manifest, 2, good=1), after_ms=SOAK_MS)
    record = rollout_of(bench, manifest)
    assert (record.stage, record.success_sites, record.period) == (1, 0, 1)
    poke = order(bench, manifest, Command.PROMOTE, owners=0)
    assert bench.refusal(poke, after_ms=SOAK_MS).rule == "rollout.conditions"


def test_anybody_may_point_out_that_a_promotion_is_due():
    bench, manifest = running(sites=("a", "b"), promotion=Promotion.AUTOMATIC)
    bench.apply(report(bench, manifest, 0, good=1))
    early = order(bench, manifest, Command.PROMOTE, owners=0, signer=bench.lab.gateways[1])
    assert isinstance(bench.refusal(early), LedgerNotYetError)
    bench.apply(early, after_ms=SOAK_MS)
    assert rollout_of(bench, manifest).stage == 1


def test_without_consent_nothing_else_happens():
    bench, manifest = running(sites=("a",), soak_ms=0)
    bench.apply(report(bench, manifest, 0, good=1))
    assert rollout_of(bench, manifest).stage == 0
    poke = order(bench, manifest, Command.PROMOTE, owners=0)
    assert bench.refusal(poke).rule == "rollout.consent"
    bench, manifest = running(promotion=Promotion.AUTOMATIC)
    for what, priority in ((Command.PRIORITY, 1), (Command.RESUME, 0)):
        poke = order(bench, manifest, what, owners=0, priority=priority)
        assert bench.refusal(poke).rule == "rollout.consent"


def test_a_paused_rollout_is_not_promoted_but_may_be_halted_by_failures():
    bench, manifest = running(
        gateways=3, sites=("a", "b", "c"), promotion=Promotion.AUTOMATIC, soak_ms=0
    )
    bench.apply(order(bench, manifest, Command.PAUSE, owners=1))
    bench.apply(report(bench, manifest, 0, good=1, bad=1))
    assert status(bench, manifest) is RolloutStatus.PAUSED
    bench.apply(report(bench, manifest, 1, bad=1))
    assert status(bench, manifest) is RolloutStatus.HALTED


def test_a_resume_that_did_not_know_of_a_halt_lifts_none():
    bench, manifest = running(gateways=2, sites=("a", "b"))
    bench.apply(order(bench, manifest, Command.PAUSE))
    resume = order(bench, manifest, Command.RESUME)
    bench.apply(report(bench, manifest, 0, bad=1))
    bench.apply(report(bench, manifest, 1, bad=1))
    assert bench.refusal(resume).rule == "rollout.sequence"
    assert status(bench, manifest) is RolloutStatus.HALTED


def test_a_pause_holds_although_the_rollout_went_on_by_itself_meanwhile():
    bench, manifest = running(sites=("a",), promotion=Promotion.AUTOMATIC, soak_ms=0)
    pause = order(bench, manifest, Command.PAUSE, owners=1)
    bench.apply(report(bench, manifest, 0, good=1))
    assert rollout_of(bench, manifest).stage == 1
    bench.apply(pause)
    assert status(bench, manifest) is RolloutStatus.PAUSED


def test_after_a_halt_counting_begins_anew():
    bench, manifest = running(gateways=3, sites=("a", "b", "c"))
    bench.apply(report(bench, manifest, 0, bad=1))
    bench.apply(report(bench, manifest, 1, bad=1))
    bench.apply(order(bench, manifest, Command.RESUME))
    record = rollout_of(bench, manifest)
    assert (record.failure_sites, record.failures, record.cause) == (0, 0, HaltCause.NONE)
    bench.apply(report(bench, manifest, 2, good=3))
    assert status(bench, manifest) is RolloutStatus.RUNNING
    later = report(bench, manifest, 0, good=2, bad=1)
    bench.apply(later, after_ms=HEALTH_INTERVAL_MS)
    record = rollout_of(bench, manifest)
    assert (record.failure_sites, record.successes, record.failures) == (0, 5, 0)


def test_failures_found_after_the_last_stage_still_halt():
    bench, manifest = running(gateways=2, sites=("a", "b"))
    bring_to(bench, manifest, RolloutStatus.DONE)
    bench.apply(report(bench, manifest, 0, bad=1))
    bench.apply(report(bench, manifest, 1, bad=1))
    assert status(bench, manifest) is RolloutStatus.HALTED


# Pure rules.


def records():
    return st.builds(
        RolloutRecord,
        status=st.sampled_from(RolloutStatus),
        stage=st.integers(0, 2),
        started_ms=st.integers(0, 10**6),
        priority=st.just(0),
        sequence=st.integers(0, 9),
        period=st.integers(0, 9),
        success_sites=st.integers(0, 4),
        failure_sites=st.integers(0, 4),
        successes=st.integers(0, 100),
        failures=st.integers(0, 100),
    )


@given(records(), st.integers(0, 10**7), st.sampled_from(Promotion))
def test_automatic_rules_only_halt_or_promote_what_is_due(record, time_ms, promotion):
    plan = make_plan(promotion=promotion)
    after = judged(record, plan, time_ms)
    stage = plan.stages[record.stage]
    if failing(record, stage) is not HaltCause.NONE:
        assert not after.is_offering
        assert after.stage == record.stage
    elif after != record:
        assert promotion is Promotion.AUTOMATIC
        assert record.status is RolloutStatus.RUNNING
        assert time_ms - record.started_ms >= stage.soak_ms
        assert record.success_sites >= stage.success_sites_min
        assert after.sequence == record.sequence + 1
    assert after.sequence_floor == record.sequence_floor


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 4))
@settings(max_examples=50)
def test_the_share_rule_is_exact(good, bad, sites):
    record = RolloutRecord(
        status=RolloutStatus.RUNNING,
        stage=0,
        started_ms=0,
        priority=0,
        failure_sites=sites,
        successes=good,
        failures=bad,
    )
    stage = make_stage(failure_sites_max=4)
    expected = sites >= 2 and good + bad >= 10 and bad / max(good + bad, 1) > 0.2
    assert (failing(record, stage) is HaltCause.FAILING_SHARE) == expected
