"""A token bucket in bytes: what a rate permits now, and when it will permit again.

A pure machine: time is an argument. Taking may go into debt, because a chunk is sent or asked for
as a whole; the debt is paid before anything else is permitted, so the rate holds in the long run
and over any span the excess is at most the burst and one chunk.
"""

from __future__ import annotations

import math
from typing import Final

BURST_S: Final = 0.25
"""Seconds of a rate that may be saved up: over 10 s that is 2.5 %, half of what may be exceeded."""


class TokenBucket:
    """Permits bytes at a rate."""

    def __init__(self, bytes_per_s: int | None, now: float) -> None:
        """Starts full.

        Args:
            bytes_per_s: the rate; None: no limit.
            now: monotonic seconds.
        """
        self._rate = bytes_per_s
        self._level = self._burst
        self._since = now

    @property
    def bytes_per_s(self) -> int | None:
        """The rate; None: no limit."""
        return self._rate

    @property
    def _burst(self) -> float:
        return 0.0 if self._rate is None else self._rate * BURST_S

    def set_rate(self, bytes_per_s: int | None, now: float) -> None:
        """Changes the rate; what was saved or owed is kept, within the new burst."""
        self._refill(now)
        was_limited = self._rate is not None
        self._rate = bytes_per_s
        self._level = min(self._level, self._burst) if was_limited else self._burst

    def _refill(self, now: float) -> None:
        if self._rate is not None:
            self._level = min(self._burst, self._level + (now - self._since) * self._rate)
        self._since = now

    def room_bytes(self, now: float) -> float:
        """Bytes permitted now; infinite without a limit, not above zero: none."""
        if self._rate is None:
            return math.inf
        self._refill(now)
        return self._level

    def take(self, size_bytes: int, now: float) -> None:
        """Counts bytes that are sent or asked for, whether permitted or not."""
        if self._rate is not None:
            self._refill(now)
            self._level -= size_bytes

    def give_back(self, size_bytes: int, now: float) -> None:
        """Takes back what was counted and did not happen."""
        if self._rate is not None:
            self._refill(now)
            self._level = min(self._burst, self._level + size_bytes)

    def ready_at(self, size_bytes: float, now: float) -> float:
        """When that many bytes, at most a burst, will be permitted; `now` if they are."""
        if self._rate is None:
            return now
        missing = min(size_bytes, self._burst) - self.room_bytes(now)
        return now if missing <= 0 else now + missing / self._rate
