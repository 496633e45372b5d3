"""Mute relayer: takes everything, passes nothing on, serves nobody and returns no credit."""

from __future__ import annotations

from collections.abc import Iterable

from protocol.exchange_messages import Chunks
from protocol.relay_messages import Credit, News, Push
from swarmd.simulation.transfer_host import TransferHost
from swarmd.simulation.transfer_relay import WireMessage


class MuteRelayer(TransferHost):
    """Swallows whatever would be of use to others."""

    def outgoing(self, target: int, message: WireMessage) -> Iterable[WireMessage]:
        """Keeps chunks, pushes, news and credits for itself."""
        if isinstance(message, Chunks | Push | News | Credit):
            return ()
        return super().outgoing(target, message)
