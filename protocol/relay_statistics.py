"""What a relay tells about itself."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.relay_messages import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayStatistics:
    """What a relay has done and does."""

    roles: tuple[tuple[int, Role], ...]
    """This node's part for each object."""
    members: int
    """Peers that joined."""
    receivers: int
    """Those that welcome pushes of some object."""
    given_units: int
    """Units given to relayers."""
    reinjected_units: int
    """Units given again because their relayer made no progress."""
    doubtful_units: int
    """Credits believed without a voucher."""
    paused_relayers: int
    """Relayers that get nothing now."""
    convicted: int
    """Members that never relay again."""
    owed_units: int
    """Pushes that wait here."""
    owed_bytes: int
    """Their bytes."""
    skipped_units: int
    """Pushes that found a member's queue full."""
    pushed_bytes: int
    """Bytes that came by push and were taken."""
    duplicate_bytes: int
    """Bytes that came by push and were here already."""
    dropped_bytes: int
    """Bytes that came by push and found no room."""
    pending_bytes: int
    """Pushed bytes that wait for verification."""
    repair_s: float
    """How long a chunk is expected by push before it is pulled, seconds."""
