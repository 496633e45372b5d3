"""Half voter: shows each vote to one half of the others, so that only some reach a quorum."""

from __future__ import annotations

from collections.abc import Iterable

from ledger.consensus_messages import Message, VoteMessage
from swarmd.simulation.byzantine.rogue import RogueHost


class HalfVoter(RogueHost):
    """Withholds votes from every second seat; which half hears of a view changes with the view."""

    def outgoing(self, seat: int, message: Message) -> Iterable[Message | bytes]:
        """Swallows votes to the half whose turn it is not."""
        if isinstance(message, VoteMessage) and (seat + message.vote.view) % 2:
            return ()
        return super().outgoing(seat, message)
