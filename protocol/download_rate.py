"""How fast a download comes in, from all peers together, and how large requests should be for it.

On thin links small requests spread the work; where much comes in, what bounds a transfer is what
each message costs, here and at the peer. A pure machine.
"""

from __future__ import annotations

from typing import Final

from protocol.exchange_flow import REQUEST_BYTES_MAX
from protocol.limits import MIB

SPAN_S: Final = 0.2
"""Shortest span over which the rate is measured, seconds."""
FAST_BYTES_PER_S: Final = 8 * MIB
"""Below this, bytes per second, links are what bounds a transfer, and requests follow the window of
each peer alone."""
REQUEST_S: Final = 0.1
"""What all peers deliver in so many seconds one request holds at least, where much comes in."""
REQUEST_PEER_S: Final = 0.5
"""But no more than what its peer delivers in so many seconds: thin links among fast ones."""


class IntakeRate:
    """See the module's docstring."""

    __slots__ = (
        "_since",
        "_span_bytes",
        "bytes_per_s",
    )

    def __init__(self) -> None:
        """Starts without knowledge."""
        self._since = 0.0
        self._span_bytes = 0
        self.bytes_per_s = 0.0
        """The newest rate; 0 before the first."""

    def note(self, size_bytes: int, now: float) -> None:
        """Notes that chunks of so many bytes came, now (seconds)."""
        self._span_bytes += size_bytes
        elapsed_s = now - self._since
        if elapsed_s >= SPAN_S:
            self.bytes_per_s = self._span_bytes / elapsed_s
            self._since, self._span_bytes = now, 0

    def request_bytes_min(self, peer_bytes_per_s: float | None) -> int:
        """What a request to a peer should hold at least; 0: what its window says.

        Args:
            peer_bytes_per_s: what the peer delivers; None: unknown.
        """
        if peer_bytes_per_s is None or self.bytes_per_s < FAST_BYTES_PER_S:
            return 0
        wanted = min(self.bytes_per_s * REQUEST_S, peer_bytes_per_s * REQUEST_PEER_S)
        return int(wanted) if wanted < REQUEST_BYTES_MAX else REQUEST_BYTES_MAX
