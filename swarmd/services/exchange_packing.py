"""When chunks are packed for a peer: as long as its link has not proved to be fast.

An update of a few MiB over a thin link gains most and lasts seconds, so waiting for a measurement
would come too late: packing is what a link begins with, and ends while the peer is seen to take
more than `FAST_BYTES_PER_S`. There, packing costs more processor time than the bytes are worth.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from chunks.compression import ChunkPacker, PackerStatistics
from protocol.limits import MIB

FAST_BYTES_PER_S: Final = 8 * MIB
"""Bytes per second on the wire from which on a link is fast: packing for it would take a fifth of
a core and more."""
SPAN_S: Final = 0.1
"""Shortest span of sending over which a rate is measured, seconds."""
GAP_S: Final = 0.5
"""A pause longer than this is no sending: the peer asked for nothing, seconds."""


class PackingMode(StrEnum):
    """The operator's choice."""

    AUTO = "auto"
    """Pack unless the peer's link is fast."""
    ALWAYS = "always"
    """Pack whatever compresses."""
    NEVER = "never"
    """Send chunks as they are."""


class SendMeter:
    """How fast one peer takes chunks, in bytes on the wire."""

    def __init__(self) -> None:
        """Starts without knowledge."""
        self._span_started_at = 0.0
        self._noted_at: float | None = None
        self._span_bytes = 0
        self.bytes_per_s: float | None = None
        """The newest rate; None before the first."""

    def note(self, size_bytes: int, now: float) -> None:
        """Notes that the transport took a frame with so many bytes of chunks, now (seconds)."""
        if self._noted_at is None or now - self._noted_at > GAP_S:
            self._span_started_at, self._span_bytes = now, 0
        else:
            self._span_bytes += size_bytes
        self._noted_at = now
        elapsed_s = now - self._span_started_at
        if elapsed_s >= SPAN_S:
            self.bytes_per_s = self._span_bytes / elapsed_s
            self._span_started_at, self._span_bytes = now, 0

    @property
    def is_fast(self) -> bool:
        """Whether the peer's link has proved to be fast."""
        return self.bytes_per_s is not None and self.bytes_per_s > FAST_BYTES_PER_S


class Packing:
    """One node's packer and the rule when to use it."""

    def __init__(self, mode: PackingMode = PackingMode.AUTO) -> None:
        """Starts with nothing packed."""
        self._mode = mode
        self._packer = ChunkPacker()

    def packer_for(self, meter: SendMeter) -> ChunkPacker | None:
        """The packer, if chunks for the peer of this meter are to be packed now."""
        if self._mode is PackingMode.NEVER or (self._mode is PackingMode.AUTO and meter.is_fast):
            return None
        return self._packer

    def statistics(self) -> PackerStatistics:
        """What was packed."""
        return self._packer.statistics()
