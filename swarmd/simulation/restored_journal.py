"""Scenarios in which a validator comes back with an old copy of its vote journal."""

from __future__ import annotations

import random

from ledger.journal import MemoryJournal
from ledger.simplex.engine import Simplex
from ledger.simplex.interface import Parameters
from swarmd.simulation.consensus_cluster import Cluster
from swarmd.simulation.consensus_events import fingerprint
from swarmd.simulation.consensus_host import ConsensusHost
from swarmd.simulation.consensus_store import Disk
from swarmd.simulation.world import Link, World


def copy_of(host: ConsensusHost) -> MemoryJournal:
    """Copies what is durable in a host's journal."""
    return MemoryJournal(host.journal.load())


def lossy_cluster(seed: int, engine: type[Simplex] = Simplex) -> Cluster:
    """Makes four started validators on links that lose a tenth of the messages.

    Args:
        seed: decides all that is random.
        engine: what they run.
    """
    link = Link(latency_s=0.01, jitter_s=0.2, loss=0.1)
    cluster = Cluster(
        World(seed, link, fingerprint),
        4,
        parameters=Parameters(delta_s=0.3, retry_s=0.3),
        disk=Disk(),
    )
    for seat in range(4):
        ConsensusHost(cluster, seat, engine=engine)
    for host in cluster.hosts:
        host.set_pending(True)
        host.start()
    return cluster


def run_restore(seed: int, engine: type[Simplex]) -> Cluster:
    """Cuts two of four validators in a view and brings one back with a slightly old journal.

    With two down nobody moves on, so that the one that comes back meets the view it voted in.

    Args:
        seed: decides all that is random.
        engine: what they run.
    """
    chance = random.Random(seed)  # noqa: S311 - replayed by seed, guards nothing
    cluster = lossy_cluster(seed, engine)
    world = cluster.world
    for round_number in range(6):
        victim, other = (cluster.hosts[i] for i in chance.sample(range(4), 2))
        if victim.halted is not None:
            continue
        world.run_until(world.now + chance.uniform(1.0, 2.0))
        copy = copy_of(victim)
        world.run_until(world.now + chance.uniform(0.05, 0.6))
        if other.is_up:
            other.crash()
        victim.crash()
        victim.restore_journal(copy)
        world.run_until(world.now + 0.7)
        victim.start()
        world.run_until(world.now + 3.0)
        if not other.is_up:
            other.start()
        world.run_until(world.now + 1.0)
        if sum(host.halted is not None for host in cluster.hosts) > 1 or round_number == 5:
            break
    return cluster
