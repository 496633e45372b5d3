"""Impersonator: votes in the names of others, and answers start-up questions with lies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ledger.consensus_messages import Message, NewestVoteAnswer, VoteMessage
from ledger.vote import VoteKind
from protocol.digest import BlockId, sha256
from swarmd.simulation.byzantine.rogue import RogueHost


class Impersonator(RogueHost):
    """Signs with its own key whatever name it writes."""

    pause_s = 0.4

    def act(self) -> None:
        """Contradicts itself in the name of each other validator."""
        engine = self.engine
        assert engine is not None, "it acts only while its engine runs"
        block_id = BlockId(sha256(b"block %d" % engine.view))
        for name in self.others:
            for kind, subject in ((VoteKind.NULLIFY, None), (VoteKind.FINALIZE, block_id)):
                vote = self.ballot(kind, engine.view, subject, seat=name)
                self.say_all(VoteMessage(vote), is_bad=True)

    def outgoing(self, seat: int, message: Message) -> Iterable[Message | bytes]:
        """Answers questions in another's name, and with a vote the asker never cast."""
        if not isinstance(message, NewestVoteAnswer):
            return super().outgoing(seat, message)
        engine = self.engine
        assert engine is not None, "its engine has just answered"
        lie = self.ballot(VoteKind.NULLIFY, engine.view + 100, None, seat=seat)
        other = (message.answerer + 1) % len(self.cluster.seats(self.epoch))
        return (replace(message, answerer=other), replace(message, vote=lie))

    def is_bad(self, content: Message | bytes) -> bool:
        """All its answers are lies."""
        return isinstance(content, NewestVoteAnswer)
