"""A bounded memory of what was used lately.

Two generations instead of a list of uses: what is asked for moves to the young one, and when that
is full the old one goes. No step can fail between threads; at worst something is forgotten early.
"""

from __future__ import annotations

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class RecentMap(Generic[K, V]):
    """Values by key, the least recently used ones forgotten."""

    def __init__(self, weight_max: int) -> None:
        """Holds values of at most twice `weight_max`; each weighs what its setter says."""
        self._weight_max = weight_max
        self._young: dict[K, tuple[V, int]] = {}
        self._aged: dict[K, tuple[V, int]] = {}
        self._weight = 0

    def __len__(self) -> int:
        """How many values are held."""
        return len(self._young.keys() | self._aged.keys())

    def get(self, key: K) -> V | None:
        """A value, or None if it is not here, or not any more."""
        found = self._young.get(key)
        if found is None:
            found = self._aged.get(key)
            if found is None:
                return None
            self.put(key, *found)
        return found[0]

    def put(self, key: K, value: V, weight: int = 1) -> None:
        """Takes a value in."""
        known = self._young.get(key)
        self._young[key] = (value, weight)
        self._weight += weight - (0 if known is None else known[1])
        if self._weight >= self._weight_max:
            self._aged, self._young, self._weight = self._young, {}, 0

    def pop(self, key: K) -> None:
        """Forgets a value, if it is here."""
        known = self._young.pop(key, None)
        if known is not None:
            self._weight -= known[1]
        self._aged.pop(key, None)

    def clear(self) -> None:
        """Forgets all."""
        self._young, self._aged, self._weight = {}, {}, 0
