"""How a connected peer is reached: from where to where, directly or through a third node."""

from __future__ import annotations

from dataclasses import dataclass

from swarmd.net.address import PeerKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The way one connection takes."""

    host: str
    """IP address at the other end; empty where the wire has none or a third node is between."""
    port: int
    """Port at the other end: the one dialed, or the peer's temporary one; 0: unknown."""
    local_host: str
    """IP address at this end; empty likewise."""
    via: PeerKey | None
    """The member that passes the bytes on; None: a direct connection."""
    is_inbound: bool
    """Whether the peer dialed."""
    since: float
    """When the connection was registered, seconds of the event loop's clock."""
