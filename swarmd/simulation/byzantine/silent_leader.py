"""Silent leader: votes like everybody else, but never shows anybody a block it leads."""

from __future__ import annotations

from collections.abc import Iterable

from ledger.consensus_messages import Message, Propose
from swarmd.simulation.byzantine.rogue import RogueHost


class SilentLeader(RogueHost):
    """Swallows its own proposals."""

    def outgoing(self, seat: int, message: Message) -> Iterable[Message | bytes]:
        """Passes on everything but proposals."""
        return () if isinstance(message, Propose) else super().outgoing(seat, message)
