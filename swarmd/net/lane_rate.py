"""How fast a lane is, and what follows from it: how much to keep unsent, how long to let gather.

Pure machines: time is an argument.

On a thin link everything queued delays what is decided next and what else shares the link; on a
fast one too small a queue costs a wake-up for every few records. So the bound follows the rate at
which the connection takes bytes. Receiving likewise: on a thin link each packet is a wake-up that
completes no record, so a few are left to gather first.
"""

from __future__ import annotations

from typing import Final

from protocol.limits import KIB, MIB

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
GATHER_BYTES: Final = 16 * KIB
"""What a look at the socket should find: a record."""
GATHER_S_MAX: Final = 0.004
"""Longest wait for it, seconds: at 20 Mbit/s 10 KB a look instead of 1.4 KB, for a fifth of a round
trip of 20 ms."""
GATHER_S_MIN: Final = 0.001
"""Shorter waits are not taken: epoll counts milliseconds."""


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


def gather_s(bytes_per_s: float | None) -> float:
    """How long to let packets gather before the next look, seconds; 0 where it is not worth it.

    Args:
        bytes_per_s: the rate of receiving; None: unknown yet.
    """
    if not bytes_per_s:
        return 0.0
    wait_s = GATHER_BYTES / bytes_per_s
    return min(wait_s, GATHER_S_MAX) if wait_s >= GATHER_S_MIN else 0.0
