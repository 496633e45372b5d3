"""Misdealing peer: sends genuine chunks under wrong indices, cut short, made long, or unasked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum

from protocol.exchange_messages import Chunks, ExchangeMessage
from swarmd.simulation.exchange_host import ExchangeHost


class Misdeal(Enum):
    """What goes wrong with each chunk."""

    SHORT = "short"
    LONG = "long"
    SWAPPED = "swapped"
    WRONG_REQUEST = "wrong_request"


class MisdealingPeer(ExchangeHost):
    """Deals one kind of wrong cards."""

    misdeal = Misdeal.SHORT
    """Which kind."""

    def outgoing(self, target: int, message: ExchangeMessage) -> Iterable[ExchangeMessage]:
        """Spoils the shape of what it sends, not the bytes."""
        if not isinstance(message, Chunks):
            return super().outgoing(target, message)
        chunks: Sequence[tuple[int, bytes | memoryview]] = message.chunks
        request_id = message.request_id
        match self.misdeal:
            case Misdeal.SHORT:
                chunks = tuple((index, data[: max(1, len(data) - 1)]) for index, data in chunks)
            case Misdeal.LONG:
                chunks = tuple((index, bytes(data) + b"x") for index, data in chunks)
            case Misdeal.SWAPPED:
                payloads = [data for _, data in reversed(chunks)]
                indices = [index for index, _ in chunks]
                chunks = tuple(zip(indices, payloads, strict=True))
            case Misdeal.WRONG_REQUEST:
                request_id += 1_000_000
        return (Chunks.of(request_id, chunks),)
