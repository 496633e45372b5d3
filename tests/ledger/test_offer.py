"""Whether a release may be offered to a device: every question, and their order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.bodies.rollout import Command
from ledger.offer import UNKNOWN_DEVICE, Device, OfferPermit, OfferRefusal, offer_verdict
from ledger.records.emergency import PauseEntry, PausesRecord
from ledger.records.manifest import ManifestRecord, ManifestStatus
from ledger.records.rollout import RolloutRecord, RolloutStatus
from ledger.state import Draft
from ledger.state_keys import manifest_key, pauses_key, rollout_key
from protocol.calendar import Freeze, WeeklyWindow
from protocol.digest import BlockId, ManifestId, sha256
from protocol.rollout import SHARE_WHOLE, is_in_stage
from tests.support.ledger import FLEET, GENESIS_MS, HOUR_MS, make_bench
from tests.support.rollout import command, make_plan, rollout_policy

BLOCK = BlockId(sha256(b"the authorising block"))
INSIDE = next(b"%d" % i for i in range(1000) if is_in_stage(BLOCK, b"%d" % i, 1000))
OUTSIDE = next(b"%d" % i for i in range(1000) if not is_in_stage(BLOCK, b"%d" % i, 5000))
STONE = ManifestId(sha256(b"stone"))
ORDER = [
    "manifest.authorised",
    "emergency.pause",
    "policy.freeze",
    "rollout.stage",
    "policy.window",
    "device.stepping_stone",
    "device.rollback",
]


def prepared(policy=None, **manifest_changes):
    """A bench and an authorised release."""
    bench = make_bench(policy=policy or rollout_policy())
    manifest = bench.lab.manifest(sequence=5, **manifest_changes)
    bench.apply(bench.lab.propose(manifest))
    bench.apply(bench.lab.approve(manifest.manifest_id))
    return bench, manifest


def verdict(bench, manifest, device=None, *, state=None, **changes):
    device = device or Device(device_id=INSIDE)
    arguments = {"device": device, "now_ms": bench.time_ms, "block_id": BLOCK, **changes}
    return offer_verdict(state or bench.state, manifest, FLEET, **arguments)


def record_of(bench, manifest) -> ManifestRecord:
    record = bench.state.manifest(manifest.manifest_id, FLEET)
    assert record is not None
    return record


def with_record(bench, manifest, **changes):
    draft = Draft(bench.state)
    record = replace(record_of(bench, manifest), **changes)
    draft.put(manifest_key(manifest.manifest_id, FLEET), record.encode())
    return draft


def with_pause(state, *, group, until_ms, **scope):
    draft = Draft(state)
    entry = PauseEntry(
        key_id=sha256(b"key"),
        product=scope.get("product"),
        manifest=scope.get("manifest"),
        sequence=1,
        began_ms=0,
        until_ms=until_ms,
    )
    draft.put(pauses_key(group), PausesRecord(entries=(entry,)).encode())
    return draft


def test_all_questions_are_asked_in_their_order():
    bench, manifest = prepared()
    answer = verdict(bench, manifest)
    assert isinstance(answer, OfferPermit)
    assert [reason.rule for reason in answer.reasons] == ORDER


def test_without_a_plan_every_device_may_have_it():
    bench = make_bench()
    manifest = bench.lab.manifest()
    bench.apply(bench.lab.propose(manifest))
    bench.apply(bench.lab.approve(manifest.manifest_id))
    answer = verdict(bench, manifest, UNKNOWN_DEVICE, block_id=None)
    assert isinstance(answer, OfferPermit)
    assert answer.reasons[3].rule == "rollout.none"


@pytest.mark.parametrize(
    ("changes", "rule", "may_retry"),
    [
        ({"status": ManifestStatus.PROPOSED}, "manifest.proposed", True),
        ({"status": ManifestStatus.REVOKED}, "manifest.revoked", False),
        ({"expires_ms": GENESIS_MS}, "manifest.expired", False),
    ],
)
def test_what_is_not_authorised_is_not_offered(changes, rule, may_retry):
    bench, manifest = prepared()
    answer = verdict(bench, manifest, state=with_record(bench, manifest, **changes))
    assert answer == OfferRefusal(rule, answer.text, may_retry)
    other = bench.lab.manifest(sequence=9)
    assert verdict(bench, other).rule == "manifest.unknown"


@pytest.mark.parametrize("group", [None, FLEET])
def test_a_pause_of_group_or_chain_holds_it_back_until_it_lapses(group):
    bench, manifest = prepared()
    state = with_pause(bench.state, group=group, until_ms=bench.time_ms + 10)
    assert verdict(bench, manifest, state=state).rule == "emergency.pause"
    later = verdict(bench, manifest, state=state, now_ms=bench.time_ms + 10)
    assert isinstance(later, OfferPermit)
    for scope in ({"product": "valve"}, {"manifest": STONE}):
        state = with_pause(bench.state, group=group, until_ms=bench.time_ms + 10, **scope)
        assert isinstance(verdict(bench, manifest, state=state), OfferPermit)


def test_a_pause_of_another_group_does_not():
    bench, manifest = prepared()
    state = with_pause(bench.state, group="other", until_ms=bench.time_ms + 10)
    assert isinstance(verdict(bench, manifest, state=state), OfferPermit)


def test_an_override_release_passes_pauses_and_freezes_and_nothing_else():
    freeze = (Freeze(0, 366 * 24 * HOUR_MS), Freeze(GENESIS_MS + 5000, GENESIS_MS + 9000))
    bench, manifest = prepared(rollout_policy(freezes=freeze))
    now_ms = GENESIS_MS + 6000
    assert verdict(bench, manifest, now_ms=now_ms).rule == "policy.freeze"
    state = with_record(bench, manifest, is_override=True)
    state = with_pause(state, group=FLEET, until_ms=now_ms + 10)
    assert isinstance(verdict(bench, manifest, state=state, now_ms=now_ms), OfferPermit)
    outside = verdict(bench, manifest, Device(device_id=OUTSIDE), state=state, now_ms=now_ms)
    assert outside.rule == "rollout.stage"


@pytest.mark.parametrize(
    ("what", "rule"), [(Command.PAUSE, "rollout.paused"), (Command.HALT, "rollout.halted")]
)
def test_a_stopped_rollout_offers_to_nobody(what, rule):
    bench, manifest = prepared()
    bench.apply(command(bench.lab, manifest.manifest_id, what))
    for device in (INSIDE, OUTSIDE):
        assert verdict(bench, manifest, Device(device_id=device)).rule == rule


@pytest.mark.parametrize(
    ("device", "block", "rule"),
    [
        (Device(device_id=OUTSIDE), BLOCK, "rollout.stage"),
        (Device(device_id=INSIDE), None, "rollout.block"),
        (UNKNOWN_DEVICE, BLOCK, "rollout.device"),
    ],
)
def test_a_device_outside_the_stage_or_unknown_gets_nothing(device, block, rule):
    bench, manifest = prepared()
    answer = verdict(bench, manifest, device, block_id=block)
    assert (answer.rule, answer.may_retry) == (rule, True)
    bench.apply(command(bench.lab, manifest.manifest_id, Command.PROMOTE))
    bench.apply(command(bench.lab, manifest.manifest_id, Command.PROMOTE, sequence=1))
    assert isinstance(verdict(bench, manifest, device, block_id=block), OfferPermit)


def test_outside_maintenance_windows_nothing_is_offered():
    minute = (GENESIS_MS // 60_000) % 1440
    window = WeeklyWindow(127, minute, minute + 1)
    bench, manifest = prepared(rollout_policy(maintenance=(window,)))
    assert isinstance(verdict(bench, manifest, now_ms=GENESIS_MS), OfferPermit)
    assert verdict(bench, manifest, now_ms=GENESIS_MS + 120_000).rule == "policy.window"


def test_a_device_must_run_a_stepping_stone_first():
    bench, manifest = prepared(stepping_stones=(STONE,))
    rule = "device.stepping_stone"
    for installed in (None, ManifestId(sha256(b"old"))):
        device = Device(device_id=INSIDE, installed=installed)
        assert verdict(bench, manifest, device).rule == rule
    for installed in (STONE, manifest.manifest_id):
        device = Device(device_id=INSIDE, installed=installed)
        assert isinstance(verdict(bench, manifest, device), OfferPermit)


@pytest.mark.parametrize(
    ("installed", "permitted"), [(None, True), (4, True), (5, True), (6, False)]
)
def test_a_newer_release_is_never_replaced(installed, permitted):
    bench, manifest = prepared()
    device = Device(device_id=INSIDE, installed_sequence=installed)
    answer = verdict(bench, manifest, device)
    assert isinstance(answer, OfferPermit) == permitted
    if not permitted:
        assert (answer.rule, answer.may_retry) == ("device.rollback", False)
        assert [reason.rule for reason in answer.reasons] == ORDER[:-1]


@given(
    st.sampled_from(RolloutStatus),
    st.integers(0, 2),
    st.binary(min_size=1, max_size=8),
)
@settings(max_examples=30, deadline=None)
def test_who_is_offered_what_is_exactly_the_stage(status, stage, device):
    bench, manifest = CASE
    draft = Draft(bench.state)
    record = RolloutRecord(status=status, stage=stage, started_ms=0, priority=0)
    draft.put(rollout_key(manifest.manifest_id, FLEET), record.encode())
    share = make_plan().stages[stage].share
    answer = verdict(bench, manifest, Device(device_id=device), state=draft)
    is_open = status in (RolloutStatus.RUNNING, RolloutStatus.DONE)
    is_inside = share == SHARE_WHOLE or is_in_stage(BLOCK, device, share)
    assert isinstance(answer, OfferPermit) == (is_open and is_inside)


CASE = prepared()
