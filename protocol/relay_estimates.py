"""Estimates of the relay: how long things take, and chance that a seed decides."""

from __future__ import annotations

from typing import Final

_MEAN_WEIGHT: Final = 1 / 8
"""Weight of a new sample in the mean (RFC 6298, section 2)."""
_DEVIATION_WEIGHT: Final = 1 / 4
"""Weight of a new sample in the deviation (RFC 6298, section 2)."""
_QUANTILE_STEP: Final = 0.2
"""How far one sample moves it, relative."""
_WORD: Final = 2**64 - 1


class DelayEstimate:
    """Mean plus four deviations of a delay, as TCP estimates its timeout (RFC 6298)."""

    __slots__ = ("_deviation", "_initial_s", "mean_s")

    def __init__(self, initial_s: float) -> None:
        """Starts with a bound that holds until the first sample, seconds."""
        self._initial_s = initial_s
        self._deviation = 0.0
        self.mean_s: float | None = None
        """Smoothed delay, seconds; None before the first sample."""

    def sample(self, delay_s: float) -> None:
        """Takes one measured delay, seconds."""
        delay_s = max(delay_s, 0.0)
        if self.mean_s is None:
            self.mean_s, self._deviation = delay_s, delay_s / 2
            return
        error = delay_s - self.mean_s
        self._deviation += _DEVIATION_WEIGHT * (abs(error) - self._deviation)
        self.mean_s += _MEAN_WEIGHT * error

    @property
    def bound_s(self) -> float:
        """A delay that few exceed, seconds."""
        if self.mean_s is None:
            return self._initial_s
        return self.mean_s + 4 * self._deviation


class QuantileEstimate:
    """A delay that a share of the samples does not exceed, however long the others are.

    Each sample moves the estimate by a part of itself, up or down so that both balance where the
    share is right (stochastic approximation, Robbins and Monro, 1951).
    """

    __slots__ = ("_share", "value_s")

    def __init__(self, initial_s: float, *, share: float = 0.9) -> None:
        """Starts with a guess, seconds."""
        self._share = share
        self.value_s = initial_s
        """The estimate, seconds."""

    def sample(self, delay_s: float) -> None:
        """Takes one measured delay, seconds."""
        step = _QUANTILE_STEP * self.value_s
        self.value_s += step * self._share if delay_s > self.value_s else step * (self._share - 1)


class Chance:
    """Numbers that look random and follow from a seed (splitmix64: Steele and others, 2014)."""

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        """Starts a sequence."""
        self._state = seed & _WORD

    def below(self, limit: int) -> int:
        """A number from 0 to `limit` - 1; its bias (limit / 2^64) matters to nobody here."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _WORD
        mixed = self._state
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _WORD
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _WORD
        return (mixed ^ mixed >> 31) % limit
