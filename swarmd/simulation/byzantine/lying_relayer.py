"""Lying relayer: returns a credit for every unit and passes none on."""

from __future__ import annotations

from collections.abc import Iterable

from protocol.exchange_messages import Chunks
from protocol.relay_messages import Push
from swarmd.simulation.transfer_host import TransferHost
from swarmd.simulation.transfer_relay import WireMessage


class LyingRelayer(TransferHost):
    """Swallows chunks and pushes; its machine believes that they left, and says so."""

    def outgoing(self, target: int, message: WireMessage) -> Iterable[WireMessage]:
        """Keeps chunks and pushes for itself."""
        if isinstance(message, Chunks | Push):
            return ()
        return super().outgoing(target, message)
