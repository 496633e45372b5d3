"""Double proposer: shows everybody two blocks in each view it leads, and votes for both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ledger.consensus_messages import Message, Propose, VoteMessage
from ledger.vote import VoteKind
from swarmd.simulation.byzantine.rogue import RogueHost


class DoubleProposer(RogueHost):
    """Adds a second proposal to each, in the other order for every second receiver."""

    def outgoing(self, seat: int, message: Message) -> Iterable[Message | bytes]:
        """Doubles proposals."""
        if not isinstance(message, Propose):
            return super().outgoing(seat, message)
        header = message.block.header
        other = replace(message.block, header=replace(header, time_ms=header.time_ms + 1))
        vote = self.ballot(VoteKind.NOTARIZE, header.view, other.block_id)
        both = (message, Propose(other)) if seat % 2 else (Propose(other), message)
        return (*both, VoteMessage(vote))
