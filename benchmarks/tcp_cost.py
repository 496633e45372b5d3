"""How many packets TCP makes of what is sent, and how many bytes they have.

Assumed: IPv4 (20 bytes) and TCP with timestamps (32 bytes), no link layer; IPv6 takes 20 bytes more
for each packet. Every piece is sent at once (no Nagle), in segments of at most 1,448 bytes. Nothing
is lost. Of acknowledgements there are two accounts:

- `each`: every segment has one of its own. No implementation sends more; this is the bound.
- `delayed`: none is sent where data goes back within 40 ms of the arrival (Linux's least delay), or
  for every first of two full segments.

A probe of keepalive and its answer are a packet each, after so many seconds in which nothing came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from benchmarks.wire_tap import Sent

HEADER_BYTES: Final = 52
"""IPv4 and TCP with timestamps."""
SEGMENT_BYTES: Final = 1448
"""Payload of a segment on Ethernet."""
DELAY_S: Final = 0.04
"""Least time for which an acknowledgement is held back."""
OPENING_BYTES: Final = 60 + 60 + HEADER_BYTES
"""Three packets, two of them with all options."""
ENDING_BYTES: Final = 4 * HEADER_BYTES
"""An end and its acknowledgement in each direction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What TCP makes of the pieces of some connections."""

    payload_bytes: int
    """Bytes that were sent."""
    segments: int
    """Packets with payload."""
    acknowledgements: int
    """Packets of nothing but an acknowledgement, held back where TCP does."""
    probes: int
    """Packets of keepalive and their answers."""

    @property
    def bound_bytes(self) -> int:
        """All bytes if each segment has an acknowledgement of its own."""
        return self.payload_bytes + HEADER_BYTES * (2 * self.segments + self.probes)

    @property
    def bytes(self) -> int:
        """All bytes if acknowledgements are held back as Linux does."""
        packets = self.segments + self.acknowledgements + self.probes
        return self.payload_bytes + HEADER_BYTES * packets


def cost(
    connections: Sequence[Sequence[Sent]],
    *,
    start_s: float,
    end_s: float,
    trip_s: float,
    idle_s: Sequence[int],
) -> Cost:
    """What some connections cost that are open all the time.

    Args:
        connections: what was sent on each so far, in order.
        start_s: begin of the time that is counted.
        end_s: its end.
        trip_s: from one end to the other.
        idle_s: seconds after which each of the two ends probes.
    """
    segments = acknowledgements = probes = payload_bytes = 0
    for everything in connections:
        sent = [item for item in everything if item.at_s >= start_s]
        payload_bytes += sum(item.bytes for item in sent)
        for position, item in enumerate(sent):
            count = -(-item.bytes // SEGMENT_BYTES)
            segments += count
            acknowledgements += count // 2  # every second full one at once
            if count % 2 and not _answered(item, sent[position + 1 :], trip_s):
                acknowledgements += 1
        moments = [*(item.at_s for item in everything), end_s]
        for before, later in pairwise(moments):
            since = max(before, start_s)
            if later > since:
                probes += sum(
                    2 * (int((later - before) // idle) - int((since - before) // idle))
                    for idle in idle_s
                )
    return Cost(
        payload_bytes=payload_bytes,
        segments=segments,
        acknowledgements=acknowledgements,
        probes=probes,
    )


def _answered(item: Sent, later: Sequence[Sent], trip_s: float) -> bool:
    """Whether the receiver sends something while it holds the acknowledgement back."""
    arrival = item.at_s + trip_s
    for other in later:
        if other.at_s > arrival + DELAY_S:
            return False
        if other.is_ours is not item.is_ours and other.at_s >= arrival:
            return True
    return False
