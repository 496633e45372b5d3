"""What the table of connections holds and tells: connections, events, counts, errors of dialing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.errors import TransportError
from swarmd.net.address import PeerAddress, PeerKey
from swarmd.net.guards import RawStream
from swarmd.net.route import Route

if TYPE_CHECKING:
    from libp2p.abc import INetConn


@dataclass(frozen=True, slots=True)
class PeerEvent:
    """A peer came (its first connection) or went (its last)."""

    peer: PeerKey
    """Who."""
    is_connected: bool
    """Whether it came."""


class OtherPeerError(TransportError):
    """Nobody at the addresses proved the key we dialed, but somebody proved another one.

    Attributes:
        proven: where, with the key that was proved there; the other side does not know ours.
    """

    def __init__(self, message: str, proven: PeerAddress) -> None:
        super().__init__(message)
        self.proven = proven


DialReport = Callable[[PeerAddress, "Exception | None"], None]
"""Told how each address behaved: None when the peer proved its key there."""


@dataclass(frozen=True, slots=True, eq=False)
class RegisteredConnection:
    """A connection whose peer has proved its key and was let in."""

    conn: INetConn
    """The streams."""
    peer: PeerKey
    """Who is at the other end."""
    is_inbound: bool
    """Whether the peer dialed."""
    since: float
    """When it was registered, seconds of the event loop's clock."""
    raw: RawStream | None
    """The bytes at the bottom; None: unknown."""

    @property
    def via(self) -> PeerKey | None:
        """The member that passes the bytes on; None: a direct connection."""
        return None if self.raw is None else self.raw.via

    def route(self) -> Route:
        """The way it takes."""
        raw = self.raw
        there = None if raw is None else raw.get_remote_address()
        here = None if raw is None else raw.get_local_address()
        return Route(
            host="" if there is None else there[0],
            port=0 if there is None else there[1],
            local_host="" if here is None else here[0],
            via=self.via,
            is_inbound=self.is_inbound,
            since=self.since,
        )


@dataclass(slots=True)
class ConnectionCounters:
    """What the table has seen; see `NetworkStatistics`."""

    bytes_in: int = 0
    """Bytes received on the wire."""
    bytes_out: int = 0
    """Bytes sent on the wire."""
    refused: int = 0
    """Peers turned away after they proved a key."""
    failed_handshakes: int = 0
    """Inbound connections that proved no key."""
    violations: int = 0
    """Connections ended for breaking a rule."""
    events_dropped: int = 0
    """Events nobody read in time."""
    faults: int = 0
    """Unexpected exceptions of background tasks."""
