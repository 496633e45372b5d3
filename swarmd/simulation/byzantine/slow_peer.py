"""Slow peer: promises everything at once, takes every request, and sends a byte a second.

What is not a chunk leaves at once, so that it looks like the best of peers until it is asked.
"""

from __future__ import annotations

import math
from typing import Final

from protocol.exchange_messages import Chunks, ExchangeMessage
from swarmd.simulation.exchange_host import ExchangeHost

CRAWL_BYTES_PER_S: Final = 1.0
"""How fast chunks leave."""


class SlowPeer(ExchangeHost):
    """Serves a chunk in hours."""

    def put(self, target: int, message: ExchangeMessage, payload_bytes: int) -> None:
        """Has chunks queue at that rate, and everything else pass them."""
        queued_until, rate = self._uplink_free_at, self._uplink_bytes_per_s
        if isinstance(message, Chunks):
            self._uplink_bytes_per_s = CRAWL_BYTES_PER_S
            super().put(target, message, payload_bytes)
        else:
            self._uplink_free_at, self._uplink_bytes_per_s = 0.0, math.inf
            super().put(target, message, payload_bytes)
            self._uplink_free_at = queued_until
        self._uplink_bytes_per_s = rate
