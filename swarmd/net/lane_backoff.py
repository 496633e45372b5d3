"""To whom a lane was tried in vain, and when trying again is worth it.

Without it every link to a peer behind a firewall would begin with the same vain wait. A pure
machine: time is an argument.
"""

from __future__ import annotations

from typing import Final

from swarmd.net.address import PeerKey

PAUSE_S_START: Final = 15.0
"""After the first failure, seconds; doubles each time."""
PAUSE_S_MAX: Final = 960.0
"""Longest pause, seconds: two seconds lost in a quarter of an hour."""
PEERS_MAX: Final = 4096
"""Peers remembered; the one that failed longest ago is forgotten first."""


class LaneBackoff:
    """Remembers failures by peer."""

    def __init__(self) -> None:
        """Starts with hope for everybody."""
        self._failed: dict[PeerKey, tuple[float, float]] = {}

    def is_worth_trying(self, peer: PeerKey, now: float) -> bool:
        """Whether the peer's pause is over. `now`: monotonic seconds."""
        known = self._failed.get(peer)
        return known is None or now >= known[0]

    def failed(self, peer: PeerKey, now: float) -> float:
        """Notes a failure; returns how long nothing is tried now, seconds."""
        _, last_s = self._failed.pop(peer, (0.0, 0.0))
        pause_s = min(PAUSE_S_MAX, 2 * last_s) if last_s else PAUSE_S_START
        self._failed[peer] = (now + pause_s, pause_s)
        while len(self._failed) > PEERS_MAX:
            del self._failed[next(iter(self._failed))]
        return pause_s

    def succeeded(self, peer: PeerKey) -> None:
        """Forgets a peer's failures."""
        self._failed.pop(peer, None)
