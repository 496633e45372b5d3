"""Restored validator: keeps every rule, but its operator puts old snapshots of its disk back.

Each time the votes since the snapshot are forgotten. The start-up question finds out (C81 to C85),
unless the lost votes reached only those who do not answer; so it counts as one of the f.
"""

from __future__ import annotations

from typing import Final

from ledger.journal import MemoryJournal
from ledger.simplex.engine import Simplex
from swarmd.simulation.byzantine.rogue import RogueHost
from swarmd.simulation.consensus_cluster import Cluster

RESTORES: Final = 3
"""How often it is set back."""


class RestoredValidator(RogueHost):
    """Loses the newest part of its journal again and again, with the production engine."""

    engine_type = Simplex
    pause_s = 2.0

    def __init__(self, cluster: Cluster, index: int) -> None:
        """Adds the host; its disk counts as exchanged from the start."""
        super().__init__(cluster, index)
        self.restored = True
        self._snapshot: MemoryJournal | None = None
        self._restores = 0

    def act(self) -> None:
        """Takes a snapshot, or goes back to the one it has."""
        if self._snapshot is None:
            self._snapshot = MemoryJournal(self.journal.load())
            return
        if self._restores == RESTORES:
            return
        self._restores += 1
        self.crash()
        self.restore_journal(self._snapshot)
        self._snapshot = None
        self.start()
