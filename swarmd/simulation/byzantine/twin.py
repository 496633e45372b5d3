"""Twins: two processes that hold one validator's key and know nothing of each other.

Each keeps the rules with its own journal; together they contradict themselves. As an attack on
purpose, the twins switch off what stops an honest operator's mistake: the start-up question and the
halt on a foreign vote.
"""

from __future__ import annotations

from ledger.simplex.engine import Simplex
from swarmd.simulation.consensus_cluster import Cluster
from swarmd.simulation.consensus_host import ConsensusHost


class TwinEngine(Simplex):
    """The production engine without the guards against a second holder of its key."""

    @property
    def may_vote(self) -> bool:
        """Twins never ask before they vote."""
        return True

    def _halt(self, reason: str) -> None:
        """Twins do not care about votes they do not know."""


def add_twins(cluster: Cluster, index: int) -> list[ConsensusHost]:
    """Adds two hosts with the key of validator `index`."""
    return [ConsensusHost(cluster, index, engine=TwinEngine, is_honest=False) for _ in range(2)]
