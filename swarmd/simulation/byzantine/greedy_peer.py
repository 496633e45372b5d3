"""Greedy peer: asks everybody for everything, again and again, and throws away what it is given."""

from __future__ import annotations

from typing import Final

from protocol.exchange_messages import Chunks, Reject, Request
from protocol.runs import Runs
from swarmd.simulation.transfer_host import TransferHost

RUN_CHUNKS: Final = 16
"""Chunks of each request."""
REQUESTS: Final = 32
"""Requests that are open at each peer at first; each answer is followed by another one."""
AGAIN_S: Final = 0.25
"""How long after a reject it asks that peer anew, seconds."""
_FIRST_ID: Final = 1 << 62


class GreedyPeer(TransferHost):
    """Fetches the image as everybody does, and asks for all of it for ever besides."""

    asked = 0
    """Requests beyond what it needs."""

    def connect(self, peer: int) -> None:
        """Begins to ask as soon as it knows of an image."""
        super().connect(peer)
        for _ in range(REQUESTS):
            self._ask(peer)

    def receive(self, source: int, message: object, now: float) -> None:
        """Asks anew for each answer that it did not need."""
        is_answer = isinstance(message, Chunks | Reject) and message.request_id >= _FIRST_ID
        if not is_answer:
            super().receive(source, message, now)
        elif isinstance(message, Chunks):
            self._ask(source)
        else:
            self._ask(source, AGAIN_S)

    def _ask(self, peer: int, delay_s: float = 0.0) -> None:
        for part in self.parts[:1]:
            size = len(part.release.components[0])
            first = self.asked * RUN_CHUNKS % size
            self.asked += 1
            request = Request(
                request_id=_FIRST_ID + self.asked,
                manifest_id=part.release.manifest_id,
                component=0,
                indices=Runs.of(range(first, min(first + RUN_CHUNKS, size))),
            )
            self.postpone(peer, request, delay_s)
