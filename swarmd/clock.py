"""The only clock of the project.

Machines take `now` as an argument; whoever needs a time source takes a `Clock`. Intervals and
deadlines use the monotonic clock. The wall clock may be wrong by decades (gateways start in 1970);
it only dates what people read, and what a validator proposes as header time.
"""

from __future__ import annotations

import time
from typing import Protocol

_NS_PER_MS = 1_000_000
_MS_PER_S = 1000


class Clock(Protocol):
    """A source of time."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back."""
        ...

    def wall_ms(self) -> int:
        """Milliseconds since 1970 as the machine believes; may jump and may be wrong."""
        ...


class SystemClock:
    """The operating system's clocks."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back, and counts while suspended."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall_ms(self) -> int:
        """Milliseconds since 1970 as the machine believes."""
        return time.time_ns() // _NS_PER_MS


class ManualClock:
    """A clock that moves only when told to; for tests and simulations."""

    def __init__(self, *, wall_ms: int = 0, monotonic_s: float = 0.0) -> None:
        """Starts at the given times: milliseconds since 1970, and seconds."""
        self._wall_ms = wall_ms
        self._monotonic_s = monotonic_s

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment."""
        return self._monotonic_s

    def wall_ms(self) -> int:
        """Milliseconds since 1970."""
        return self._wall_ms

    def advance(self, seconds: float) -> None:
        """Moves both clocks forward.

        Raises:
            ValueError: `seconds` is negative; time never goes back.
        """
        if seconds < 0:
            raise ValueError(f"a clock cannot go back by {-seconds} s")
        self._monotonic_s += seconds
        self._wall_ms += round(seconds * _MS_PER_S)

    def set_wall_ms(self, wall_ms: int) -> None:
        """Sets the wall clock alone, as an operator or NTP does; it may jump either way."""
        self._wall_ms = wall_ms
