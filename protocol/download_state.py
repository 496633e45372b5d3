"""What a download tells about itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from protocol.exchange_events import PeerId


class DownloadState(Enum):
    """Phase of a download."""

    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerProgress:
    """What one peer contributed."""

    peer: PeerId
    """Whom it concerns."""
    received_bytes: int
    """Useful and superfluous chunk bytes that came from it."""
    open_requests: int
    """Unanswered requests."""
    rate: float | None
    """Estimated bytes per second; None before the first measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadStatistics:
    """Progress of a download."""

    state: DownloadState
    """The phase."""
    chunks_total: int
    """Chunks of all components."""
    chunks_missing: int
    """Chunks not stored, those of unprepared components included."""
    wasted_bytes: int
    """Arrived and dropped: duplicates of the endgame, late or during a pause."""
    peers: tuple[PeerProgress, ...]
    """Connected peers, in order of joining."""
