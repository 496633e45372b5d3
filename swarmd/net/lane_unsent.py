"""How much a lane keeps in the kernel that has not been sent once: a few milliseconds' worth.

On a thin link everything queued delays what is decided next and what else shares the link; on a
fast one too small a queue costs a wake-up for every few records. So the bound follows the rate at
which the connection takes bytes. A pure machine: time is an argument.
"""

from __future__ import annotations

from typing import Final

from protocol.limits import KIB, MIB

UNSENT_BYTES_MIN: Final = 16 * KIB
"""One record: less would leave the kernel without work between two wake-ups."""
UNSENT_BYTES_MAX: Final = 1 * MIB
"""What a fast link takes while the process waits for its turn on a busy processor."""
UNSENT_BYTES_START: Final = 32 * KIB
"""Until a rate is known: 13 ms at 20 Mbit/s; a fast link leaves it behind within two spans."""
UNSENT_S: Final = 0.0125
"""Seconds of sending kept ahead: a scheduler's time slice and the way through the event loop."""
SPAN_S: Final = 0.02
"""The rate is measured over spans of at least this, seconds."""


class UnsentLimit:
    """Follows the rate; limits are powers of two, so that they seldom change."""

    def __init__(self) -> None:
        """Starts without a rate."""
        self.limit_bytes = UNSENT_BYTES_START
        """Bytes to keep at most."""
        self._since: float | None = None
        self._moved_bytes = 0

    def note(self, moved_bytes: int, now: float) -> None:
        """Counts bytes that the connection took. `now`: monotonic seconds."""
        if self._since is None:
            self._since = now
        self._moved_bytes += moved_bytes
        span_s = now - self._since
        if span_s < SPAN_S:
            return
        wanted_bytes = int(self._moved_bytes / span_s * UNSENT_S)
        limit_bytes = UNSENT_BYTES_MIN
        while limit_bytes < min(wanted_bytes, UNSENT_BYTES_MAX):
            limit_bytes *= 2
        self.limit_bytes = limit_bytes
        self._since, self._moved_bytes = now, 0
