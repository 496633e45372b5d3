"""Future flooder: votes, validly signed, for views that nobody has reached."""

from __future__ import annotations

from typing import Final

from ledger.consensus_messages import VoteMessage
from ledger.vote import VoteKind
from protocol.digest import BlockId, sha256
from swarmd.simulation.byzantine.rogue import RogueHost

AHEAD: Final = (*range(1, 13), 50, 1_000, 10**9)
"""How far ahead of its own view it votes."""


class FutureFlooder(RogueHost):
    """Fills whatever keeps votes of later views."""

    pause_s = 0.75

    def act(self) -> None:
        """Votes ahead; each time for further views."""
        engine = self.engine
        assert engine is not None, "it acts only while its engine runs"
        step = int(self.cluster.world.now / self.pause_s)
        for ahead in AHEAD:
            view = engine.view + ahead + (step if ahead > 12 else 0)
            block_id = BlockId(sha256(b"future %d" % view))
            self.say_all(VoteMessage(self.ballot(VoteKind.NULLIFY, view, None)))
            self.say_all(VoteMessage(self.ballot(VoteKind.NOTARIZE, view, block_id)))
