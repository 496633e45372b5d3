"""Stalling relayer: does everything right, seconds late."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from protocol.exchange_messages import Chunks
from protocol.relay_messages import Push
from swarmd.simulation.transfer_host import TransferHost
from swarmd.simulation.transfer_relay import WireMessage

STALL_S: Final = 5.0
"""How late chunks leave, simulated seconds."""


class StallingRelayer(TransferHost):
    """Holds chunks and pushes back for a while, and credits them at once."""

    def outgoing(self, target: int, message: WireMessage) -> Iterable[WireMessage]:
        """Postpones what carries chunks."""
        if isinstance(message, Chunks | Push):
            self.postpone(target, message, STALL_S)
            return ()
        return super().outgoing(target, message)
