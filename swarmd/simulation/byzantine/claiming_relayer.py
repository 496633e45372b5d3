"""Claiming relayer: says at once that it holds everything, and sends nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from protocol.bitfield import Bitfield
from protocol.exchange_messages import BitfieldMessage, Chunks
from protocol.relay_messages import Push, Ready, Role
from swarmd.simulation.transfer_host import TransferHost
from swarmd.simulation.transfer_relay import WireMessage


class ClaimingRelayer(TransferHost):
    """Turns every bitfield into a full one and every part in a relay into a holder's."""

    role = Role.HOLDS
    """What it says it is to every relay."""

    def outgoing(self, target: int, message: WireMessage) -> Iterable[WireMessage]:
        """Claims everything and gives nothing."""
        match message:
            case BitfieldMessage():
                full = Bitfield.full(self.chunk_count(message.manifest_id, message.component))
                return (replace(message, bits=full.encode()),)
            case Ready():
                roles = tuple((number, self.role) for number, _ in message.roles)
                return (replace(message, roles=roles),)
            case Chunks() | Push():
                return ()
            case _:
                return super().outgoing(target, message)
