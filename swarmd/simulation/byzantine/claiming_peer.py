"""Claiming peer: claims to hold everything, holds nothing, rejects or swallows every request."""

from __future__ import annotations

from collections.abc import Iterable

from protocol.bitfield import Bitfield
from protocol.exchange_messages import BitfieldMessage, ExchangeMessage, Reject, RejectReason
from swarmd.simulation.exchange_host import ExchangeHost


class ClaimingPeer(ExchangeHost):
    """Turns every bitfield into a full one."""

    is_silent = False
    """Whether it swallows requests instead of rejecting them."""
    reason = RejectReason.NOT_AVAILABLE
    """What it says when it rejects."""

    def outgoing(self, target: int, message: ExchangeMessage) -> Iterable[ExchangeMessage]:
        """Claims everything and gives nothing."""
        match message:
            case BitfieldMessage():
                size = len(self._release.components[message.component])
                full = Bitfield.full(size).encode()
                return (
                    BitfieldMessage(
                        manifest_id=message.manifest_id, component=message.component, bits=full
                    ),
                )
            case Reject():
                if self.is_silent:
                    return ()
                return (
                    Reject(
                        request_id=message.request_id,
                        indices=message.indices,
                        reason=self.reason,
                    ),
                )
            case _:
                return super().outgoing(target, message)
