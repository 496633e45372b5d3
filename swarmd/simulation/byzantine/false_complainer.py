"""False complainer: complains to everybody about everybody, and otherwise does its part."""

from __future__ import annotations

from collections.abc import Iterable

from protocol.relay_messages import Complaint, Ready
from swarmd.simulation.exchange_host import peer_id
from swarmd.simulation.transfer_host import TransferHost
from swarmd.simulation.transfer_relay import WireMessage


class FalseComplainer(TransferHost):
    """Adds complaints about all its other peers to the first message that says it takes part."""

    def outgoing(self, target: int, message: WireMessage) -> Iterable[WireMessage]:
        """Complains."""
        yield from super().outgoing(target, message)
        if isinstance(message, Ready):
            for culprit in self.peers:
                if culprit != target:
                    yield Complaint(manifest_id=message.manifest_id, culprit=peer_id(culprit))
