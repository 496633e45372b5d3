"""Mute validator: hears everything and never says a word; to the others it is switched off."""

from __future__ import annotations

from collections.abc import Iterable

from ledger.consensus_messages import Message
from swarmd.simulation.byzantine.rogue import RogueHost


class MuteValidator(RogueHost):
    """Swallows everything."""

    def outgoing(self, _seat: int, _message: Message) -> Iterable[Message | bytes]:
        """Says nothing."""
        return ()
