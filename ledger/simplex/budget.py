"""Byte budget of each peer: what it may make us send by asking (C92)."""

from __future__ import annotations

from typing import Final

from protocol.limits import MIB

BUDGET_BYTES_MAX: Final = 2 * MIB
"""What a peer may ask for at once, bytes; four full answers."""
BUDGET_BYTES_PER_S: Final = 1 * MIB
"""How fast the budget refills; catches up 30 times faster than a chain of full blocks grows."""


class Budget:
    """Token buckets, one for each peer."""

    __slots__ = ("_tokens", "_updated_at")

    def __init__(self, count: int) -> None:
        """Starts with full buckets."""
        self._tokens = [float(BUDGET_BYTES_MAX)] * count
        self._updated_at = [0.0] * count

    def take(self, peer: int, size_bytes: int, now: float) -> bool:
        """Spends bytes of a peer's budget, if it has them."""
        elapsed = max(0.0, now - self._updated_at[peer])
        self._updated_at[peer] = now
        tokens = min(BUDGET_BYTES_MAX, self._tokens[peer] + elapsed * BUDGET_BYTES_PER_S)
        if tokens < size_bytes:
            self._tokens[peer] = tokens
            return False
        self._tokens[peer] = tokens - size_bytes
        return True
