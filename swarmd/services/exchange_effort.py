"""How long reading a peer pauses because its messages cost much: one peer is no whole processor.

A bitfield of 32 KiB whose bits alternate is a quarter of a million runs, and takes a second. What
honest peers say costs microseconds, so their share is never reached. A pure machine.
"""

from __future__ import annotations

from typing import Final

SHARE: Final = 0.5
"""Of the event loop's time, what the messages of one peer may take in the long run."""
BURST_S: Final = 0.25
"""What they may take beyond it, seconds: the first bitfields of a large manifest."""
PAUSE_S_MAX: Final = 2.0
"""Longest pause, seconds: some muxers reset a stream whose reader stalls for five."""


class Effort:
    """Seconds that a peer's messages took."""

    def __init__(self) -> None:
        """Starts without any."""
        self._spent_s = 0.0
        self._since: float | None = None

    def pause_s(self, spent_s: float, now: float) -> float:
        """Counts a message; returns how long nothing more is to be read, seconds.

        Args:
            spent_s: what the message took.
            now: when it was done, monotonic seconds.
        """
        if self._since is not None:
            self._spent_s = max(0.0, self._spent_s - (now - self._since) * SHARE)
        self._since = now
        self._spent_s += spent_s
        return min(max(0.0, self._spent_s - BURST_S) / SHARE, PAUSE_S_MAX)
