"""How many refused transactions a peer may hand over for nothing.

A transaction that the ledger refuses may simply have lost a race: whoever handed it over saw an
older copy, and hands it over again until it learns better. That is no offence; flooding is.
"""

from __future__ import annotations

from typing import Final

from swarmd.net.address import PeerKey

BURST: Final = 32
"""Refusals at once: twice the transactions of one signer that may wait."""
PER_S: Final = 8.0
"""Refusals regained per second; one costs about a millisecond to find."""
PEERS_MAX: Final = 4096
"""Peers remembered; the one unheard for longest is forgotten first."""


class RefusalBudget:
    """A token bucket for each peer."""

    def __init__(self) -> None:
        """Starts with a full bucket for everybody."""
        self._left: dict[PeerKey, tuple[float, float]] = {}

    def spend(self, peer: PeerKey, now: float) -> bool:
        """Counts a refusal; returns whether it is still for nothing. `now`: monotonic seconds."""
        left, since = self._left.pop(peer, (float(BURST), now))
        left = min(BURST, left + (now - since) * PER_S)
        is_free = left >= 1
        self._left[peer] = (left - 1 if is_free else left, now)
        while len(self._left) > PEERS_MAX:
            self._left.pop(next(iter(self._left)))
        return is_free
