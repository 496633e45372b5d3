"""How fast a lane is, and what follows from it: how much to keep unsent, how long records are.

Pure machines: time is an argument.

On a thin link everything queued delays what is decided next and what else shares the link; on a
fast one too small a queue costs a wake-up for every few records. So the bound follows the rate at
which the connection takes bytes. Records likewise: nothing of one can be used before it is there
whole, while short ones cost a call and a tag for every few kilobytes.
"""

from __future__ import annotations

from typing import Final

from protocol.limits import KIB, MIB
from swarmd.net.lane_records import RECORD_BYTES_MAX

SPAN_S: Final = 0.02
"""A rate is measured over spans of at least this, seconds."""
UNSENT_BYTES_MIN: Final = 16 * KIB
"""One record: less would leave the kernel without work between two wake-ups."""
UNSENT_BYTES_MAX: Final = 1 * MIB
"""What a fast link takes while the process waits for its turn on a busy processor."""
UNSENT_BYTES_START: Final = 32 * KIB
"""Until a rate is known: 13 ms at 20 Mbit/s; a fast link leaves it behind within two spans."""
UNSENT_S: Final = 0.0125
"""Seconds of sending kept ahead: a scheduler's time slice and the way through the event loop."""


class RateMeter:
    """Bytes per second over the last span; what idle time there was counts."""

    def __init__(self) -> None:
        """Starts without a rate."""
        self.bytes_per_s: float | None = None
        """The last span's; None before the first has ended."""
        self._since: float | None = None
        self._moved_bytes = 0

    def note(self, moved_bytes: int, now: float) -> None:
        """Counts bytes that were moved. `now`: monotonic seconds."""
        if self._since is None:
            self._since = now
        self._moved_bytes += moved_bytes
        span_s = now - self._since
        if span_s >= SPAN_S:
            self.bytes_per_s = self._moved_bytes / span_s
            self._since, self._moved_bytes = now, 0


def unsent_bytes_max(bytes_per_s: float | None) -> int:
    """Bytes to keep in the kernel that were never sent; a power of two, so that it seldom changes.

    Args:
        bytes_per_s: the rate of sending; None: unknown yet.
    """
    if bytes_per_s is None:
        return UNSENT_BYTES_START
    wanted_bytes = min(int(bytes_per_s * UNSENT_S), UNSENT_BYTES_MAX)
    limit_bytes = UNSENT_BYTES_MIN
    while limit_bytes < wanted_bytes:
        limit_bytes *= 2
    return limit_bytes


def record_bytes_max(bytes_per_s: float | None) -> int:
    """What a record carries at most; a power of two, and half of what is kept unsent.

    Args:
        bytes_per_s: the rate of sending; None: unknown yet.
    """
    if bytes_per_s is None:
        return UNSENT_BYTES_MIN
    return min(RECORD_BYTES_MAX, max(UNSENT_BYTES_MIN, unsent_bytes_max(bytes_per_s) // 2))
