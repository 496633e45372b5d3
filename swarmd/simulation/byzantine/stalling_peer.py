"""Stalling peer: says truthfully what it holds, takes requests, and never answers with a chunk."""

from __future__ import annotations

from collections.abc import Iterable

from protocol.exchange_messages import Chunks, ExchangeMessage
from swarmd.simulation.exchange_host import ExchangeHost


class StallingPeer(ExchangeHost):
    """Sends everything but chunks."""

    def outgoing(self, target: int, message: ExchangeMessage) -> Iterable[ExchangeMessage]:
        """Swallows chunks."""
        return () if isinstance(message, Chunks) else super().outgoing(target, message)
