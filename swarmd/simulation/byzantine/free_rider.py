"""Free-rider: takes from everybody, says it is a leaf, and gives nothing.

It keeps to the letter of the protocol: a leaf owes nobody a relay, and who claims nothing is asked
for nothing. So nothing it does is an offence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from protocol.exchange_messages import BitfieldMessage, Chunks, Have
from protocol.relay_messages import Credit, News, Push, Ready
from swarmd.simulation.transfer_host import TransferHost
from swarmd.simulation.transfer_relay import WireMessage


class FreeRider(TransferHost):
    """Keeps chunks, and all news of having them, for itself."""

    def outgoing(self, target: int, message: WireMessage) -> Iterable[WireMessage]:
        """Gives nothing, claims nothing."""
        match message:
            case Ready():
                return (replace(message, is_leaf=True),)
            case Chunks() | Push() | News() | Credit() | BitfieldMessage() | Have():
                return ()
            case _:
                return super().outgoing(target, message)
