"""Token buckets by key, with a bound on how many are kept."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

KEPT_MAX: Final = 4096
"""Buckets kept: about 1 MiB. The one used least recently is forgotten first."""


class TokenBuckets:
    """Each key may spend `burst` tokens at once and `per_s` tokens a second in the long run."""

    def __init__(self, *, burst: float, per_s: float) -> None:
        """Starts with full buckets."""
        self._burst = burst
        self._per_s = per_s
        self._left: dict[Hashable, tuple[float, float]] = {}

    def left(self, key: Hashable, now: float) -> float:
        """Tokens a key has at a time of the monotonic clock, seconds."""
        left, since = self._left.get(key, (self._burst, now))
        return min(self._burst, left + (now - since) * self._per_s)

    def spend(self, key: Hashable, now: float, tokens: float = 1.0) -> bool:
        """Takes tokens if they are there; returns whether they were."""
        left = self.left(key, now)
        is_enough = left >= tokens
        self._left.pop(key, None)
        self._left[key] = (left - tokens if is_enough else left, now)
        while len(self._left) > KEPT_MAX:
            self._left.pop(next(iter(self._left)))
        return is_enough
