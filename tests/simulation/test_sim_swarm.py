"""Whole swarms: one seed decides, shipped bounds hold and can be broken, mutants are caught."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from protocol.digest import ManifestId
from protocol.errors import ConfigError
from swarmd.simulation.byzantine.catalogue import ADVERSARIES
from swarmd.simulation.exchange_host import SimulatedRelease
from swarmd.simulation.scenario import Adversary, Gateways, Image, Scenario
from swarmd.simulation.scenario_file import load_scenario, override, shipped_scenarios
from swarmd.simulation.swarm import (
    FRAMES_MAX,
    SAMPLES_MAX,
    Swarm,
    adapt,
    replay_command,
    run_scenario,
    shortest_prefix_s,
)
from swarmd.simulation.swarm_build import breaking_reasons
from swarmd.simulation.swarm_gateway import Gateway, SwarmHost
from swarmd.simulation.swarm_ledger import Action, Decision, Follower, Owners, ReleaseHost
from swarmd.simulation.transfer_part import ImagePart

ROOT = Path(__file__).parents[2]
SMALL = Scenario(
    name="small", duration_s=30.0, gateways=Gateways(count=6, poll_s=1.0), image=Image(size_kib=64)
)


def small(**tables: Any) -> Scenario:
    return override(SMALL, tables)


# One seed ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_seed_decides_everything() -> None:
    one, again = run_scenario(SMALL, 5), run_scenario(SMALL, 5)
    assert one == again
    assert one.trace_hash == again.trace_hash
    assert run_scenario(SMALL, 6).trace_hash != one.trace_hash


@pytest.mark.slow
@pytest.mark.untraced
def test_a_seed_gives_the_same_trace_under_faults() -> None:
    scenario = adapt(load_scenario("churn"), nodes=6)
    one, again = run_scenario(scenario, 3), run_scenario(scenario, 3)
    assert one == again


@pytest.mark.slow
@pytest.mark.untraced
def test_the_order_of_hashes_decides_nothing() -> None:
    code = (
        "from swarmd.simulation.scenario_file import load_scenario\n"
        "from swarmd.simulation.swarm import adapt, run_scenario\n"
        "scenario = adapt(load_scenario('twin-and-liars'), nodes=4)\n"
        "print(run_scenario(scenario, 1).trace_hash)"
    )
    hashes = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert hashes[0] == hashes[1]


def test_a_prefix_of_a_run_is_a_run_of_its_prefix() -> None:
    whole, prefix = Swarm(SMALL, 2), Swarm(SMALL, 2)
    prefix.run(until_s=1.5)
    whole._advance(1.5)
    assert whole.parts.world.trace_hash == prefix.parts.world.trace_hash


def test_the_outcome_says_what_happened() -> None:
    outcome = run_scenario(SMALL, 1)
    assert outcome.held
    assert outcome.passed
    (release,) = outcome.releases
    assert release.final_s is not None
    assert release.published_s < release.final_s < release.published_s + 1
    assert len(release.finished_s) == 6
    assert outcome.samples[-1].complete == 6
    assert outcome.samples[-1].seeder_bytes >= 64 * 1024
    assert all(held == 1.0 for held in outcome.frames[-1].held)
    assert len(outcome.samples) <= SAMPLES_MAX
    assert len(outcome.frames) <= FRAMES_MAX
    document = outcome.document()
    assert document["passed"] is True
    assert document["trace_hash"] == outcome.trace_hash
    with pytest.raises(KeyError, match="no verdict 'speed'"):
        outcome.verdict("speed")


# Shipped scenarios -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_scenarios())
def test_shipped_bounds_hold(name: str) -> None:
    outcome = run_scenario(load_scenario(name), 1)
    assert outcome.passed, outcome.explain()


@pytest.mark.slow
@pytest.mark.untraced
@pytest.mark.parametrize("name", [name for name in shipped_scenarios() if "too-many" not in name])
def test_shipped_bounds_can_be_broken(name: str) -> None:
    """Each bound that time or bytes measure, set just below what was measured, is broken."""
    scenario = adapt(load_scenario(name), nodes=5)
    limits: Mapping[str, str] = {
        "finality": "finality_s",
        "liveness": "heal_s",
        "makespan-p50": "makespan_p50",
        "makespan-max": "makespan_max",
        "makespan-p99": "makespan_p99",
        "revocation": "revocation_s",
        "seeder-images": "seeder_images",
        "bad-share": "bad_share",
    }
    measured = {verdict.name: verdict.measured for verdict in run_scenario(scenario, 1).verdicts}
    tight = {
        key: value * 0.9
        for name, key in limits.items()
        if (value := measured.get(name)) is not None
    }
    outcome = run_scenario(override(scenario, {"expect": tight}), 1)
    assert {verdict.name for verdict in outcome.failures} == set(measured) & set(limits)
    assert not outcome.passed
    assert outcome.prefix_s is not None
    assert outcome.prefix_s <= outcome.simulated_s


@pytest.mark.slow
def test_a_broken_bound_is_seen_in_its_prefix() -> None:
    scenario = small(expect={"makespan_max": 0.5})
    outcome = run_scenario(scenario, 1)
    (broken,) = outcome.failures
    assert broken.name == "makespan-max"
    assert broken.failed_s is not None
    prefix = run_scenario(scenario, 1, until_s=broken.failed_s + 0.01)
    assert not prefix.verdict("makespan-max").passed
    assert prefix.simulated_s < outcome.simulated_s
    assert shortest_prefix_s(scenario, outcome) == pytest.approx(broken.failed_s + 0.01, abs=0.01)
    before = run_scenario(scenario, 1, until_s=broken.failed_s - 0.01)
    assert before.verdict("makespan-max").passed


@pytest.mark.slow
def test_a_prefix_is_halved_in_on_where_bytes_break_a_bound() -> None:
    scenario = small(expect={"seeder_images": 0.5})
    outcome = run_scenario(scenario, 1)
    (broken,) = outcome.failures
    assert broken.failed_s == outcome.simulated_s
    prefix_s = shortest_prefix_s(scenario, outcome)
    assert prefix_s is not None
    assert 1.0 < prefix_s < outcome.simulated_s - 0.5
    assert not run_scenario(scenario, 1, until_s=prefix_s).held


def test_what_only_the_end_breaks_has_no_prefix() -> None:
    scenario = small(faults=[{"share": 0.5, "start_s": 0.5}], duration_s=2.0, image={"size_kib": 8})
    outcome = run_scenario(scenario, 1)
    assert [verdict.name for verdict in outcome.failures] == ["complete"]
    assert shortest_prefix_s(scenario, outcome) is None


# More than anybody survives ----------------------------------------------------------------------


def test_more_than_f_is_expected_to_break_and_breaks() -> None:
    scenario = small(
        duration_s=12.0, adversaries=[{"name": "mute_validator", "count": 2}], gateways={"count": 2}
    )
    outcome = run_scenario(scenario, 1)
    assert "survive 1" in outcome.expected_to_break[0]
    assert not outcome.held
    assert outcome.passed
    assert not outcome.verdict("finality").passed


def test_what_had_to_break_and_did_not_has_failed() -> None:
    """Two mute validators break nothing if nobody looks at what they stop."""
    scenario = small(
        duration_s=5.0,
        adversaries=[{"name": "mute_validator", "count": 2}],
        expect={"finality_s": 1000, "complete": 0.0},
        gateways={"count": 2},
    )
    outcome = run_scenario(scenario, 1)
    # Finality is open when the run is over: that is a failure of its own.
    assert not outcome.held
    silent = override(scenario, {"expect": {"complete": 0.0}})
    silent = replace(silent, expect=replace(silent.expect, finality_s=None))
    outcome = run_scenario(silent, 1)
    assert outcome.held
    assert not outcome.passed


@pytest.mark.parametrize(
    ("tables", "breaks"),
    [
        ({"adversaries": [{"name": "twin", "count": 1}]}, False),
        ({"adversaries": [{"name": "twin", "share": 0.5}]}, True),
        ({"validators": {"count": 7}, "adversaries": [{"name": "twin", "count": 2}]}, False),
        ({"faults": [{"kind": "crash", "target": "validators", "share": 0.5}]}, True),
        (
            {"faults": [{"kind": "crash", "target": "validators", "share": 0.5, "end_s": 4}]},
            False,
        ),
        ({"faults": [{"kind": "crash", "share": 1.0}]}, False),
        ({"adversaries": [{"name": "push_corrupter", "share": 0.8}]}, False),
    ],
)
def test_what_must_break_is_known_before(tables: dict[str, Any], breaks: bool) -> None:
    assert bool(breaking_reasons(small(**tables))) is breaks


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        ({"adversaries": [{"name": "nobody", "count": 1}]}, "adversaries[0].name: no adversary"),
        ({"adversaries": [{"name": "page_forger", "count": 1}]}, "has no place in a swarm"),
        ({"adversaries": [{"name": "twin", "count": 5}]}, "adversaries[0].count: 5, but"),
        ({"adversaries": [{"name": "mute_relayer", "share": 1}]}, "no honest gateway"),
        ({"adversaries": [{"name": "twin", "count": 4}]}, "no honest validator"),
    ],
)
def test_impossible_casts_are_refused(tables: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_scenario(small(**tables), 1)
    assert reason in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name, each in ADVERSARIES.items() if each.seat or each.member]
)
def test_every_adversary_is_survived(name: str) -> None:
    """One validator of four, or one gateway of four, may be of any kind."""
    tables: dict[str, Any] = {"gateways": {"count": 4}, "image": {"size_kib": 32}}
    scenario = small(adversaries=[{"name": name, "count": 1}], **tables)
    outcome = run_scenario(scenario, 1)
    assert outcome.held, outcome.explain()
    assert outcome.adversaries == ((name, 1),)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "one-way", "target": "all", "share": 0.25, "start_s": 1.2, "end_s": 6.0},
        {"kind": "crash", "target": "all", "share": 0.25, "start_s": 1.4, "end_s": 4.0},
        {"kind": "loss", "target": "all", "loss": 0.5, "start_s": 0.5, "end_s": 6.0},
        {"kind": "slow-disk", "share": 1.0, "start_s": 0.0, "verify_ms": 500.0},
        {"kind": "partition", "share": 1.0, "start_s": 0.5, "end_s": 5.0},
    ],
    ids=lambda fault: str(fault["kind"]),
)
def test_faults_bite_and_are_survived(fault: dict[str, Any]) -> None:
    calm = run_scenario(SMALL, 1)
    outcome = run_scenario(small(faults=[fault], image={"size_kib": 256}), 1)
    assert outcome.held, outcome.explain()
    last = max(each.finished_s[-1] for each in outcome.releases)
    assert last > max(each.finished_s[-1] for each in calm.releases)
    assert outcome.trace_hash != calm.trace_hash


@pytest.mark.parametrize("kind", ["partition", "one-way"])
def test_who_is_cut_off_for_good_gets_nothing(kind: str) -> None:
    fault = {"kind": kind, "share": 0.5, "start_s": 0.5}
    scenario = small(faults=[fault], duration_s=6.0)
    outcome = run_scenario(scenario, 1)
    assert outcome.verdict("complete").measured == 0.5
    assert not outcome.passed


@pytest.mark.slow
def test_peers_are_limited_where_that_is_asked() -> None:
    swarm = Swarm(small(gateways={"count": 20, "peers": 5}), 1)
    streams = [len(gateway.node.peers) for gateway in swarm.parts.gateways]
    assert max(streams) <= 5
    assert min(streams) >= 2
    assert swarm.run().held


# Ledger and images -------------------------------------------------------------------------------


def test_an_unauthorised_image_comes_to_nothing() -> None:
    scenario = small(
        releases=[{"approvals": 1}, {"publish_s": 2.0}],
        adversaries=[{"name": "claiming_relayer", "count": 2}],
    )
    outcome = run_scenario(scenario, 1)
    assert outcome.held, outcome.explain()
    forged, genuine = outcome.releases
    assert (forged.is_authorised, forged.final_s, forged.finished_s) == (False, None, ())
    assert len(genuine.finished_s) == 4


def test_a_revoked_image_is_gone_everywhere() -> None:
    scenario = small(image={"size_kib": 1024}, releases=[{"publish_s": 1.0, "revoke_s": 1.3}])
    swarm = Swarm(scenario, 1)
    outcome = swarm.run()
    assert outcome.held, outcome.explain()
    assert outcome.releases[0].revoked_s is not None
    for gateway in swarm.parts.gateways:
        (part,) = gateway.node.parts
        assert part.held_bytes == 0
        assert not gateway.keeps(part.release.manifest_id)


def make_follower() -> tuple[Swarm, Owners, Follower]:
    swarm = Swarm(SMALL, 1)
    return swarm, swarm.parts.owners, Follower(swarm.parts.cluster, swarm.parts.owners)


def test_decisions_need_two_different_owners() -> None:
    swarm, owners, _ = make_follower()
    name = swarm.parts.releases[0].manifest_id
    good = owners.decide(Action.PUBLISH, name)
    assert owners.is_authorised(good)
    assert Decision.decode(good.encode()) == good
    one = owners.decide(Action.PUBLISH, name, 1)
    assert not owners.is_authorised(one)
    twice = replace(one, approvals=one.approvals * 2)
    assert not owners.is_authorised(twice)
    other = replace(good, action=Action.REVOKE)
    assert not owners.is_authorised(other)
    stranger = replace(good, approvals=(good.approvals[0], (7, good.approvals[1][1])))
    assert not owners.is_authorised(stranger)


@pytest.mark.parametrize("data", [b"", b"filler 1 of view 2", b"release" + bytes(40), b"release"])
def test_other_transactions_are_no_decisions(data: bytes) -> None:
    assert Decision.decode(data) is None


def test_followers_take_no_blocks_without_a_certificate() -> None:
    swarm, _, follower = make_follower()
    swarm.run()
    run = swarm.parts.cluster.hosts[0].store.run_after(0)
    assert run is not None
    other = swarm.parts.cluster.hosts[0].store.run_after(3)
    assert other is not None
    assert follower.follow(other) is None, "blocks that do not follow"
    forged = replace(run, certificate=replace(run.certificate, view=run.certificate.view + 1))
    assert follower.follow(forged) is None
    assert follower.follow(replace(run, blocks=run.blocks[:-1])) is None
    assert follower.height == 0
    decisions = follower.follow(run)
    assert decisions is not None
    assert [each.action for each in decisions] == [Action.PUBLISH]
    assert follower.follow(run) is None, "nothing new"


# Mutants: each invariant catches its defect ------------------------------------------------------


def broken(scenario: Scenario, name: str) -> None:
    outcome = run_scenario(scenario, 1)
    assert name in [verdict.name for verdict in outcome.failures], outcome.explain()


@pytest.mark.slow
def test_a_gateway_that_ignores_revocations_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SwarmHost, "withdraw", lambda _self, _manifest_id: None)
    broken(small(duration_s=10.0, releases=[{"revoke_s": 1.5}]), "revocation")


def test_a_gateway_that_serves_what_it_withdrew_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_note(self: SwarmHost, manifest_id: ManifestId) -> None:
        self.withdrawn.setdefault(manifest_id, self.now)

    monkeypatch.setattr(SwarmHost, "withdraw", only_note)
    monkeypatch.setattr(SwarmHost, "may_serve", lambda *_arguments: True)
    monkeypatch.setattr(SwarmHost, "find", SwarmHost.__mro__[1].find)
    scenario = small(image={"size_kib": 2048}, releases=[{"revoke_s": 1.4}], duration_s=8.0)
    broken(scenario, "authorised-only")


@pytest.mark.slow
def test_a_gateway_that_trusts_one_owner_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def begin_all(self: Gateway, release: SimulatedRelease) -> None:
        self._begin(release.manifest_id, None)

    monkeypatch.setattr(Gateway, "offer", begin_all)
    monkeypatch.setattr(Gateway, "is_honest", property(lambda self: self.is_seeder))
    scenario = small(releases=[{"approvals": 1}, {"publish_s": 2.0}], duration_s=8.0)
    broken(scenario, "authorised-only")


@pytest.mark.slow
def test_validators_that_count_no_owners_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Owners.is_authorised
    monkeypatch.setattr(Owners, "is_authorised", lambda _self, _decision: True)

    def note(self: ReleaseHost, decision: Decision) -> None:
        if not honest(self._book.owners, decision):
            self._book.unauthorised.append((self.cluster.world.now, decision.manifest_id))

    monkeypatch.setattr(ReleaseHost, "_note", note)
    broken(small(releases=[{"approvals": 1}], duration_s=5.0), "authorised-only")


def test_a_store_that_checks_nothing_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def keep(self: ImagePart, component: int, index: int, data: bytes) -> bool:
        if index not in self.served.possession[component]:
            self.served.possession[component].add(index)
            self.figures.gained_bytes += len(data)
            self._news[component] = self._news.get(component, 0) | 1 << index
        return True

    monkeypatch.setattr(ImagePart, "store", keep)
    scenario = small(adversaries=[{"name": "push_corrupter", "count": 2}], duration_s=8.0)
    broken(scenario, "nothing-bad-kept")


def test_validators_that_check_no_blocks_vote_for_forged_decisions() -> None:
    swarm = Swarm(SMALL, 1)
    (host, *_) = swarm.parts.cluster.hosts
    name = swarm.parts.releases[0].manifest_id
    owners = swarm.parts.owners
    assert host.are_valid((b"filler", owners.decide(Action.PUBLISH, name).encode()))
    assert not host.are_valid((owners.decide(Action.PUBLISH, name, 1).encode(),))


# Command lines -----------------------------------------------------------------------------------


def test_the_replay_command_names_everything() -> None:
    added = (Adversary(name="twin", count=1), Adversary(name="mute_relayer", share=0.25))
    command = replay_command("a b.toml", 7, nodes=9, adversaries=added, until_s=3.14159)
    assert command == (
        "swarmd sim 'a b.toml' --seed 7 --nodes 9 --adversary twin=1 "
        "--adversary mute_relayer=0.25 --until 3.14"
    )


def test_options_replace_what_a_scenario_says() -> None:
    scenario = load_scenario("corrupters")
    changed = adapt(scenario, nodes=4, adversaries=(Adversary(name="push_corrupter", count=1),))
    assert changed.gateways.count == 4
    assert [each.count for each in changed.adversaries] == [1]
    assert scenario.gateways.count == 20
