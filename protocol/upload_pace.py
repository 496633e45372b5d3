"""How large the frames to one peer are: such that the transport takes each in a moment.

On a fast link a frame's fixed cost counts, on a slow one how long it holds up what follows.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from protocol.exchange_messages import CHUNKS_PAYLOAD_BYTES_MAX
from protocol.limits import KIB

FRAME_BYTES_START: Final = 256 * KIB
"""Payload of the first CHUNKS frames to a peer."""
FRAME_BYTES_MIN: Final = 64 * KIB
"""Payload of a CHUNKS frame to the slowest peer: its own cost still vanishes beside its bytes."""
FRAME_S_FAST: Final = 0.12
"""A frame that the transport took within this time, seconds, not counting its wait for the one
before, was small: the next may be double. 1 MiB in this time are 8 MiB/s."""
FRAME_S_SLOW: Final = 0.3
"""A frame that took longer was large: the next is half of it. Leaves a revocation, which waits for
the frame under way, nearly half of the time it has."""


class FramePace:
    """See the module's docstring."""

    def __init__(self) -> None:
        """Starts with the starting size."""
        self.frame_bytes = FRAME_BYTES_START
        """Payload of the next frame."""
        self._under_way: deque[tuple[int, float]] = deque()
        self._last_left_at = 0.0

    @property
    def unsent_bytes_max(self) -> int:
        """Payload bytes handed over and not flushed, from which on no further read is started."""
        return 2 * self.frame_bytes

    def handed_over(self, payload_bytes: int, now: float) -> None:
        """Notes a frame that the transport was given."""
        self._under_way.append((payload_bytes, now))

    def flushed(self, payload_bytes: int, now: float) -> None:
        """Notes that the transport took that much."""
        if not self._under_way or self._under_way[0][0] != payload_bytes:
            return  # a recipe page
        _, handed_over_at = self._under_way.popleft()
        taken_s = now - max(handed_over_at, self._last_left_at)
        self._last_left_at = now
        if taken_s > FRAME_S_SLOW:
            self.frame_bytes = max(payload_bytes // 2, FRAME_BYTES_MIN)
        elif taken_s < FRAME_S_FAST and 2 * payload_bytes > self.frame_bytes:
            self.frame_bytes = min(2 * self.frame_bytes, CHUNKS_PAYLOAD_BYTES_MAX)
