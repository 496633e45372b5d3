"""Stale epoch: says today what was true in an earlier epoch, and signs for later ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from ledger.consensus_messages import CertificateMessage, Message, Status, VoteMessage
from ledger.vote import VoteKind
from swarmd.simulation.byzantine.rogue import RogueHost

KEPT_MAX: Final = 48
"""Messages it remembers."""


class StaleEpoch(RogueHost):
    """Repeats votes and certificates of earlier epochs as if they were of this one."""

    pause_s = 0.5
    _kept: deque[tuple[int, Message]] | None = None

    def outgoing(self, _seat: int, message: Message) -> Iterable[Message | bytes]:
        """Remembers what it says."""
        if self._kept is None:
            self._kept = deque(maxlen=KEPT_MAX)
        if isinstance(message, VoteMessage | CertificateMessage):
            self._kept.append((self.epoch, message))
        return (message,)

    def act(self) -> None:
        """Repeats the past and forestalls the future."""
        engine = self.engine
        assert engine is not None, "it acts only while its engine runs"
        for epoch in (self.epoch - 1, self.epoch + 1):
            vote = self.ballot(VoteKind.NULLIFY, engine.view, None, epoch=epoch)
            self.say_all(VoteMessage(vote), is_bad=True)
            for seat in self.others:
                self.say_in(epoch, seat, VoteMessage(vote), is_bad=True)
        for epoch, message in list(self._kept or ())[:8]:
            if epoch < self.epoch:
                self.say_all(message, is_bad=True)
        for handover in list(self.store.handovers.values())[-2:]:
            if handover.certificate.epoch < self.epoch:
                self.say_all(CertificateMessage(handover.certificate), is_bad=True)
                status = Status(self.epoch, engine.view, handover.certificate)
                self.say_all(status, is_bad=True)
