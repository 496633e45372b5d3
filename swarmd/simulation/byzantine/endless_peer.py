"""Endless peer: answers each request again and again, long after every index was answered."""

from __future__ import annotations

from collections.abc import Iterable

from protocol.exchange_messages import Chunks, ExchangeMessage
from swarmd.simulation.exchange_host import ExchangeHost

REPETITIONS = 50
"""How often each answer is sent."""


class EndlessPeer(ExchangeHost):
    """Repeats every chunk."""

    def outgoing(self, target: int, message: ExchangeMessage) -> Iterable[ExchangeMessage]:
        """Repeats chunks, all of them genuine."""
        if isinstance(message, Chunks):
            return (message,) * REPETITIONS
        return super().outgoing(target, message)
