"""Double voter: votes for and against everything in every view, openly, to everybody."""

from __future__ import annotations

from typing import Final

from ledger.consensus_messages import VoteMessage
from ledger.vote import VoteKind
from protocol.digest import BlockId, sha256
from swarmd.simulation.byzantine.rogue import RogueHost

_INVENTED: Final = BlockId(sha256(b"invented block"))


class DoubleVoter(RogueHost):
    """Adds, to what an honest validator says, the opposite."""

    pause_s = 0.2

    def act(self) -> None:
        """Nullifies and finalizes, and notarizes what nobody proposed."""
        engine = self.engine
        assert engine is not None, "it acts only while its engine runs"
        for kind, block_id in (
            (VoteKind.NULLIFY, None),
            (VoteKind.FINALIZE, _INVENTED),
            (VoteKind.NOTARIZE, _INVENTED),
        ):
            self.say_all(VoteMessage(self.ballot(kind, engine.view, block_id)))
