"""Chains whose validators change, in the world: small campaigns, defects planted at the edge."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ledger.certificate import Certificate
from ledger.simplex.engine import Simplex
from ledger.vote import VoteKind
from swarmd.simulation.byzantine.twin import add_twins
from swarmd.simulation.consensus_campaign import Outcome, Plan, run_seed
from swarmd.simulation.consensus_cluster import Cluster, Epochs
from swarmd.simulation.consensus_events import fingerprint
from swarmd.simulation.consensus_host import ConsensusHost
from swarmd.simulation.consensus_store import Disk
from swarmd.simulation.world import Link, World

SHORT = Epochs(length_ms=3000, reserves=2)


def is_bad(outcome: Outcome) -> bool:
    return bool(outcome.violations) or outcome.is_stuck


def make(seed: int = 1, *, epochs: Epochs = SHORT, link: Link | None = None) -> Cluster:
    """Started honest processes, reserves among them."""
    world = World(seed, link or Link(latency_s=0.02, jitter_s=0.02), fingerprint)
    cluster = Cluster(world, 4, epochs=epochs, disk=Disk())
    for process in range(len(cluster.actors)):
        ConsensusHost(cluster, process)
    for host in cluster.hosts:
        host.set_pending(True)
        host.start()
    return cluster


@pytest.mark.slow
@pytest.mark.untraced
@pytest.mark.parametrize("first", [0, 20])
def test_changing_sets_with_liars_and_power_failures(first: int) -> None:
    for seed in range(first, first + 20):
        epochs = Epochs(length_ms=(2000, 3000, 6000)[seed % 3], reserves=seed % 3)
        outcome = run_seed(seed, Plan(duration_s=30.0, epochs=epochs))
        assert not is_bad(outcome), outcome
        assert outcome.epochs > 2


@pytest.mark.slow
@pytest.mark.untraced
def test_larger_sets_and_real_signatures() -> None:
    large = Plan(count=7, duration_s=20.0, epochs=Epochs(length_ms=3000, reserves=3))
    assert [seed for seed in range(6) if is_bad(run_seed(seed, large))] == []
    real = Plan(duration_s=15.0, epochs=SHORT, real_signatures=True)
    assert [seed for seed in range(3) if is_bad(run_seed(seed, real))] == []


@pytest.mark.slow
def test_empty_seats_cost_time_only() -> None:
    epochs = Epochs(length_ms=3000, reserves=1, empty_seats=True)
    plan = Plan(duration_s=30.0, epochs=epochs, byzantine="none")
    assert [seed for seed in range(12) if is_bad(run_seed(seed, plan))] == []


@pytest.mark.slow
def test_one_seed_gives_one_trace() -> None:
    plan = Plan(duration_s=12.0, epochs=SHORT)
    assert run_seed(5, plan) == run_seed(5, plan)


@pytest.mark.slow
def test_one_that_slept_over_many_edges_joins_again() -> None:
    cluster = make(epochs=Epochs(length_ms=2000))
    world, late = cluster.world, cluster.hosts[1]
    world.run_until(3.0)
    late.crash()
    world.run_until(40.0)
    assert cluster.hosts[0].epoch > 10
    late.start()
    world.run_until(44.0)
    assert late.epoch == cluster.hosts[0].epoch
    assert late.engine is not None
    assert late.engine.may_vote
    assert cluster.violations == []


@pytest.mark.slow
def test_one_cut_off_at_the_edge_itself_follows() -> None:
    """Whatever instant it is cut off at, before, in or after the hand-over."""
    for instant in range(30):
        cluster = make(instant, epochs=Epochs(length_ms=2000))
        world = cluster.world
        world.run_until(1.8 + instant * 0.02)
        world.partition({2: 1})
        world.run_until(world.now + 1.0)
        world.heal()
        world.run_until(world.now + 6.0)
        assert len({host.epoch for host in cluster.hosts}) == 1, f"cut at {instant}"
        assert min(host.final.height for host in cluster.hosts) > 20
        assert cluster.violations == []


@pytest.mark.slow
@pytest.mark.untraced
def test_all_lose_power_at_every_instant_of_a_hand_over() -> None:
    for instant in range(40):
        cluster = make(instant, epochs=Epochs(length_ms=2000))
        world = cluster.world
        world.run_until(1.7 + instant * 0.02)
        for host in cluster.hosts:
            host.crash()
        for host in cluster.hosts:
            host.start()
        before = max(cluster.final)
        world.run_until(world.now + 8.0)
        assert min(host.final.height for host in cluster.hosts) > before + 3, f"stuck at {instant}"
        assert min(host.epoch for host in cluster.hosts) >= 3
        assert cluster.violations == []


@pytest.mark.slow
def test_those_who_leave_follow_and_those_who_come_vote() -> None:
    cluster = make(7, epochs=Epochs(length_ms=2000, reserves=2, may_change=1.0))
    cluster.world.run_until(30.0)
    sat = {process for epoch in range(1, 8) for process in cluster.seats(epoch)}
    assert sat == set(range(6)), "everybody sat at some time"
    heights = [host.final.height for host in cluster.hosts]
    assert max(heights) - min(heights) < 12
    for host in cluster.hosts:
        assert (host.engine is not None) == (host.seat is not None)
    assert cluster.violations == []


@pytest.mark.slow
def test_evidence_found_at_the_end_of_an_epoch_is_in_a_block_of_the_next() -> None:
    found = 0
    for seed in range(8):
        world = World(seed, Link(latency_s=0.02, jitter_s=0.1), fingerprint)
        cluster = Cluster(world, 4, epochs=Epochs(length_ms=1500))
        add_twins(cluster, 0)
        for process in (1, 2, 3):
            ConsensusHost(cluster, process)
        for host in cluster.hosts:
            host.set_pending(True)
            host.start()
        world.run_until(20.0)
        assert cluster.violations == []
        found += any(
            evidence.epoch < block.header.epoch
            for block, _ in cluster.hosts[2].store.entries
            for evidence in block.evidence
        )
    assert found > 0


class TrustsNotarized(Simplex):
    """Takes a closing block for final when it is notarized: fillers would be superfluous."""

    def _certify(self, certificate: Certificate) -> None:
        super()._certify(certificate)
        block = None
        if certificate.block_id is not None:
            block = self._chain.blocks.get(certificate.block_id)
        if block is not None and block.header.closes_epoch and not self._ended:
            self._finals[certificate.view] = replace(certificate, kind=VoteKind.FINALIZE)


@pytest.mark.slow
def test_a_planted_defect_at_the_edge_is_found() -> None:
    plan = Plan(duration_s=25.0, epochs=Epochs(length_ms=2000), engine=TrustsNotarized)
    assert any(is_bad(run_seed(seed, plan)) for seed in range(30))


@pytest.mark.slow
@pytest.mark.untraced
def test_every_fork_convicts_more_than_f_and_nobody_honest() -> None:
    forks = 0
    for seed in range(24):
        epochs = Epochs(length_ms=3000) if seed % 2 else None
        plan = Plan(
            duration_s=16.0, byzantine="twin", faulty=2, epochs=epochs, power_failures=False
        )
        outcome = run_seed(seed, plan)
        assert outcome.unaccounted(1) is None, outcome
        forks += outcome.is_forked
    assert forks > 5


@pytest.mark.slow
def test_a_fork_seen_by_overtaken_engines_only_convicts_too() -> None:
    """A regression: the certificates were dropped with the engines that held them."""
    plan = Plan(
        duration_s=16.0,
        byzantine="twin",
        faulty=2,
        epochs=Epochs(length_ms=3000),
        power_failures=False,
    )
    outcome = run_seed(83, plan)
    assert outcome.is_forked
    assert outcome.culprits == outcome.faulty


def report_of(script: str, *arguments: str) -> dict[str, float]:
    """The line that a benchmark prints."""
    root = Path(__file__).resolve().parent.parent.parent
    command = [sys.executable, str(root / "benchmarks" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    report: dict[str, float] = json.loads(done.stdout)
    return report


@pytest.mark.slow
def test_sixteen_validators_on_wide_links_are_final_in_a_third_of_a_second() -> None:
    report = report_of("wan_finality.py", "--n", "16", "--seconds", "12")
    assert report["blocks_per_s"] > 2
    assert report["p50_s"] <= 0.35


@pytest.mark.slow
def test_the_accountability_benchmark_reports_and_resumes(tmp_path: Path) -> None:
    state = str(tmp_path / "state.json")
    for seeds in (4, 6):
        options = ("--seeds", str(seeds), "--processes", "1", "--state", state)
        report = report_of("accountability.py", *options)
        assert report["seeds"] == seeds
        assert report["failed"] == []
