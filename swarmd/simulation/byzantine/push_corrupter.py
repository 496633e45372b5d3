"""Push corrupter: relays in time and in full, with one bit wrong in each chunk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from protocol.exchange_messages import Chunks
from protocol.relay_messages import Push
from swarmd.simulation.byzantine.chunk_corrupter import corrupt
from swarmd.simulation.transfer_host import TransferHost
from swarmd.simulation.transfer_relay import WireMessage


class PushCorrupter(TransferHost):
    """Spoils every chunk it sends, asked for or not."""

    def outgoing(self, target: int, message: WireMessage) -> Iterable[WireMessage]:
        """Flips a bit in each chunk."""
        match message:
            case Chunks():
                spoilt = tuple(corrupt(data) for _, data in message.chunks)
                return (replace(message, payload=spoilt),)
            case Push():
                pushed = tuple(replace(c, data=corrupt(c.data)) for c in message.chunks)
                return (replace(message, chunks=pushed),)
            case _:
                return super().outgoing(target, message)
