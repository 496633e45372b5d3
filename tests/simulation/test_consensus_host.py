"""The production engine in the world: latency, determinism, idling, catching up, power loss."""

from __future__ import annotations

import pytest

from ledger.consensus_messages import VoteMessage
from ledger.simplex.interface import Serve
from ledger.vote import VoteKind
from swarmd.simulation.byzantine.forking_proposer import add_forking_proposer
from swarmd.simulation.byzantine.twin import add_twins
from swarmd.simulation.consensus_cluster import Cluster
from swarmd.simulation.consensus_events import fingerprint
from swarmd.simulation.consensus_host import ConsensusHost
from swarmd.simulation.consensus_store import Disk, Store
from swarmd.simulation.restored_journal import copy_of
from swarmd.simulation.world import Link, World
from tests.support.consensus import Network

INSTANT = Disk(sync_s=0.0, commit_s=0.0, compute_s=0.0)
HOP_S = 0.05


def make(
    count: int = 4,
    *,
    seed: int = 1,
    link: Link | None = None,
    disk: Disk = INSTANT,
    real: bool = False,
    pending: bool = True,
) -> Cluster:
    """Started validators, all honest."""
    world = World(seed, link or Link(latency_s=HOP_S), fingerprint)
    cluster = Cluster(world, count, disk=disk, real_signatures=real, wire=real)
    for seat in range(count):
        ConsensusHost(cluster, seat)
    start(cluster, pending=pending)
    return cluster


def start(cluster: Cluster, *, pending: bool = True) -> None:
    for host in cluster.hosts:
        host.set_pending(pending)
        host.start()


def heights(cluster: Cluster) -> list[int]:
    return [host.final.height for host in cluster.hosts]


@pytest.mark.parametrize("count", [4, 7, 16])
def test_finality_takes_exactly_three_message_delays(count: int) -> None:
    cluster = make(count, pending=False)
    world = cluster.world
    world.run_until(1.0)
    for host in cluster.hosts:
        host.set_pending(True)
    begin = world.now
    world.run_until(begin + 3 * HOP_S - 1e-6)
    assert heights(cluster) == [0] * count
    world.run_until(begin + 3 * HOP_S + 1e-6)
    assert heights(cluster) == [1] * count


@pytest.mark.slow
@pytest.mark.untraced
def test_a_block_costs_about_two_votes_from_each_to_each() -> None:
    cluster = make(7)
    world = cluster.world
    world.run_until(10.0)
    height, events = cluster.hosts[0].final.height, world.event_count
    world.run_until(40.0)
    blocks = cluster.hosts[0].final.height - height
    assert blocks > 80
    # 2n(n-1) votes, n-1 proposals, and the wakes of leaders.
    assert (world.event_count - events) / blocks < 2 * 7 * 6 + 3 * 7


@pytest.mark.slow
@pytest.mark.parametrize("real", [False, True], ids=["oracle", "ed25519"])
def test_one_seed_gives_one_trace(real: bool) -> None:
    link = Link(latency_s=0.01, jitter_s=0.1, loss=0.05, duplication=0.02)
    runs = []
    for seed in (3, 3, 4):
        cluster = make(seed=seed, link=link, disk=Disk(), real=real)
        cluster.world.run_until(4.0)
        assert cluster.violations == []
        runs.append((cluster.world.trace_hash, cluster.world.event_count))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.slow
def test_an_idle_chain_stands_still_between_heartbeats() -> None:
    cluster = make(pending=False)
    world = cluster.world
    world.run_until(5.0)
    events = world.event_count
    world.run_until(599.0)
    assert world.event_count == events, "not a single event in ten minutes"
    world.run_until(620.0)
    assert heights(cluster) == [1] * 4
    views = [host.engine.view for host in cluster.hosts if host.engine is not None]
    assert views == [2] * 4
    world.run_until(86_400.0)
    assert heights(cluster) == [143] * 4
    assert len(cluster.hosts[0].journal.load()) < 20


@pytest.mark.slow
@pytest.mark.untraced
def test_a_cut_off_minority_neither_moves_nor_grows() -> None:
    cluster = make()
    world = cluster.world
    world.run_until(5.0)
    world.partition({0: 0, 1: 0, 2: 1, 3: 1})
    world.run_until(15.0)
    engine = cluster.hosts[0].engine
    assert engine is not None
    view, records = engine.view, len(cluster.hosts[0].journal.load())
    world.run_until(100_000.0)
    assert engine.view == view
    assert len(cluster.hosts[0].journal.load()) == records
    world.heal()
    height = cluster.hosts[0].final.height
    world.run_until(100_015.0)
    assert min(heights(cluster)) > height + 10
    assert cluster.violations == []


@pytest.mark.slow
def test_one_that_was_away_for_long_catches_up() -> None:
    cluster = make()
    world, late = cluster.world, cluster.hosts[2]
    world.run_until(2.0)
    late.crash()
    world.run_until(400.0)
    assert late.final.height < 20
    late.start()
    world.run_until(410.0)
    assert len(dict.fromkeys(heights(cluster))) <= 2
    assert late.final.height > 1000
    assert cluster.violations == []


@pytest.mark.slow
@pytest.mark.untraced
def test_one_that_missed_everything_without_a_crash_catches_up() -> None:
    cluster = make()
    world = cluster.world
    world.run_until(2.0)
    world.partition({2: 1})
    world.run_until(100.0)
    assert cluster.hosts[2].final.height < 10
    world.heal()
    world.run_until(112.0)
    assert max(heights(cluster)) - min(heights(cluster)) <= 1
    assert cluster.violations == []


@pytest.mark.slow
def test_all_at_once_lose_power_and_go_on() -> None:
    """Everybody answers questions while asking; nothing notarized is lost (C70, C81)."""
    for instant in range(25):
        cluster = make(seed=instant, disk=Disk(sync_s=0.02, commit_s=5.0), link=Link(jitter_s=0.1))
        world = cluster.world
        world.run_until(3.0 + 0.03 * instant)
        for host in cluster.hosts:
            host.crash()
        for host in cluster.hosts:
            host.start()
        before = max(cluster.final)
        world.run_until(world.now + 10.0)
        assert min(heights(cluster)) > before + 3, f"stuck after a blackout at {instant}"
        assert cluster.violations == []


@pytest.mark.slow
def test_certificates_that_split_a_view_heal() -> None:
    """Pitfall: half hold N of a view, half U, and reject each other's parents for ever."""
    cluster = make(disk=INSTANT, pending=False)
    world = cluster.world
    world.run_until(1.0)
    hosts = cluster.hosts
    transmit = hosts[1].transmit
    cut: list[object] = []

    def notarize_reaches_one_half(to: int, message: object) -> None:
        vote = message.vote if isinstance(message, VoteMessage) else None
        if vote is None or cut or (vote.view, vote.kind) != (1, VoteKind.NOTARIZE):
            transmit(to, message)  # type: ignore[arg-type]
            return
        cut.append(message)
        for index in (0, 2):
            transmit(index, message)  # type: ignore[arg-type]

    hosts[1].transmit = notarize_reaches_one_half  # type: ignore[method-assign]
    for host in hosts:
        host.set_pending(True)
    world.run_until(1.1)
    world.partition({3: 1})
    world.run_until(4.0)
    world.heal()
    world.run_until(30.0)
    assert cut != []
    assert min(heights(cluster)) > 50
    assert cluster.violations == []


@pytest.mark.slow
@pytest.mark.untraced
@pytest.mark.parametrize("count", [4, 7])
def test_dead_leaders_cost_little_once_they_are_known_to_be_silent(count: int) -> None:
    cluster = make(count)
    world = cluster.world
    for host in cluster.hosts[: cluster.validators.fault_limit]:
        host.crash()
    world.run_until(60.0)
    height = cluster.hosts[-1].final.height
    world.run_until(90.0)
    assert (cluster.hosts[-1].final.height - height) / 30.0 >= 2.0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["twin", "fork"])
@pytest.mark.parametrize("count", [4, 7])
def test_one_kind_of_liar_in_f_seats_stops_nothing(kind: str, count: int) -> None:
    cluster = Cluster(World(2, Link(latency_s=0.02, jitter_s=0.05), fingerprint), count)
    liars = range(cluster.validators.fault_limit)
    for seat in range(count):
        if seat not in liars:
            ConsensusHost(cluster, seat)
        elif kind == "twin":
            add_twins(cluster, seat)
        else:
            add_forking_proposer(cluster, seat)
    start(cluster)
    cluster.world.run_until(20.0)
    assert cluster.violations == []
    assert min(host.final.height for host in cluster.honest) > 10
    if kind == "fork":
        assert list(cluster.convicted) != [], "equivocation is noticed"
        assert all(signer in liars for signer in cluster.convicted)


@pytest.mark.slow
def test_more_than_f_twins_fork_and_are_all_convicted() -> None:
    """Accountability: every fork convicts at least f + 1 from certificates alone, nobody honest."""
    forks = 0
    for seed in range(12):
        world = World(seed, Link(latency_s=0.02, jitter_s=0.2), fingerprint)
        cluster = Cluster(world, 4)
        for liar in (0, 1):
            add_twins(cluster, liar)
        for seat in (2, 3):
            ConsensusHost(cluster, seat)
        start(cluster)
        world.partition({0: 0, 2: 0, 4: 0, 1: 1, 3: 1, 5: 1})
        world.run_until(world.random.uniform(0.2, 3.0))
        world.heal()
        world.run_until(20.0)
        assert not any("honest validator" in item for item in cluster.violations)
        if any("disagreement" in item for item in cluster.violations):
            forks += 1
            assert cluster.audit() == [0, 1]
    assert forks > 3


def test_an_audit_of_an_honest_chain_convicts_nobody() -> None:
    cluster = make(link=Link(latency_s=0.01, jitter_s=0.3, loss=0.1))
    cluster.world.run_until(5.0)
    assert cluster.final != {}
    assert cluster.audit() == []


def test_a_store_answers_within_the_budget_and_ends_with_a_certificate() -> None:
    network = Network(4)
    blocks = [network.block(1)]
    for view in range(2, 10):
        blocks.append(network.block(view, blocks[-1].header))
    finals = {
        3: network.certificate(VoteKind.FINALIZE, 3, blocks[2].block_id),
        9: network.certificate(VoteKind.FINALIZE, 9, blocks[8].block_id),
    }
    store = Store([(block, finals.get(block.header.height)) for block in blocks], 9)
    size = len(blocks[0].encoded)
    whole = store.answer(Serve(1, 0, (), 100 * size))
    assert whole is not None
    assert whole.blocks == tuple(blocks)
    part = store.answer(Serve(1, 0, (), 4 * size))
    assert part is not None
    assert (part.blocks, part.certificate) == (tuple(blocks[:3]), finals[3])
    end = store.answer(Serve(1, 3, (), 2 * size))
    assert end is not None
    assert (end.blocks[-1], end.certificate) == (blocks[8], finals[9])
    assert store.answer(Serve(1, 9, (), 100 * size)) is None
    one = store.answer(Serve(1, None, (blocks[4].block_id,), 0))
    assert one is not None
    assert (one.blocks, one.certificate) == ((blocks[4],), None)


# -- restored journals ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_journal_from_a_copy_100_views_old_never_votes_again() -> None:
    cluster = make()
    world, victim = cluster.world, cluster.hosts[1]
    world.run_until(10.0)
    copy = copy_of(victim)
    engine = victim.engine
    assert engine is not None
    old_view, old_height = engine.view, victim.final.height
    stored = list(victim.store.entries)
    world.run_until(45.0)
    assert engine.view >= old_view + 100
    victim.crash()
    victim.restore_journal(copy)
    victim.store.entries = stored
    victim.store.synced = old_height
    votes: list[object] = []
    transmit = victim.transmit

    def spy(to: int, message: object) -> None:
        if isinstance(message, VoteMessage) and message.vote.signer == victim.index:
            votes.append(message)
        transmit(to, message)  # type: ignore[arg-type]

    victim.transmit = spy  # type: ignore[method-assign]
    victim.start()
    world.run_until(60.0)
    assert victim.halted is not None
    victim.crash()
    victim.start()
    height = max(cluster.final)
    world.run_until(120.0)
    assert votes == []
    assert min(heights(cluster)) > height + 100, "the chain goes on, and the victim follows"
    assert cluster.violations == []
