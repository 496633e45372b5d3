"""Boaster: claims to be far ahead of everybody, and then helps nobody."""

from __future__ import annotations

from collections.abc import Iterable

from ledger.consensus_messages import Blocks, CertificateMessage, Message, Status
from swarmd.simulation.byzantine.rogue import RogueHost


class Boaster(RogueHost):
    """Makes the others ask it instead of somebody who would answer."""

    pause_s = 0.25

    def act(self) -> None:
        """Boasts."""
        self.say_all(Status(self.epoch, 10**9, None))

    def outgoing(self, seat: int, message: Message) -> Iterable[Message | bytes]:
        """Withholds certificates and blocks from those who ask."""
        if isinstance(message, Blocks | CertificateMessage):
            return ()
        return super().outgoing(seat, message)
