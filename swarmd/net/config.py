"""Limits of the network adapter and the question it asks about every peer.

Each number bounds memory, time or bandwidth a peer can cost this node.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from protocol.errors import ConfigError
from protocol.limits import GOSSIP_BYTES_MAX, HELLO_BYTES_MAX, HELLO_SECONDS_MAX, KIB

if TYPE_CHECKING:
    from swarmd.net.address import PeerKey
    from swarmd.net.wire import Wire


class PeerClass(Enum):
    """How far a peer is trusted to use this node's resources."""

    STRANGER = "stranger"
    """Proved a key that no membership covers yet: may say hello, nothing else."""
    MEMBER = "member"
    """A node of the chain."""
    VALIDATOR = "validator"
    """A voter of the current or the next epoch."""


class Admission(Protocol):
    """Who may do what, asked anew each time; answers are local, immediate and never raise."""

    def peer_class(self, peer: PeerKey) -> PeerClass:
        """The class whose connection slots the peer uses."""
        ...

    def may_connect(self, peer: PeerKey) -> bool:
        """Whether a peer that has just proved its key may stay connected."""
        ...

    def may_open(self, peer: PeerKey, protocol: str) -> bool:
        """Whether the peer may open, and may learn of, a protocol."""
        ...

    def may_gossip(self, peer: PeerKey) -> bool:
        """Whether gossip and the names of topics may be exchanged with the peer."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipConfig:
    """Parameters of gossipsub."""

    heartbeat_s: int = 1
    """Seconds between mesh maintenance steps (gossipsub 1.1 default; sends nothing when idle)."""
    degree: int = 6
    """Peers per topic mesh (gossipsub 1.1 default D)."""
    degree_low: int = 4
    """Fewer mesh peers than this are replenished (D_lo)."""
    degree_high: int = 12
    """More mesh peers than this are pruned (D_hi)."""
    messages_per_topic_per_second_max: int = 200
    """Per forwarder and topic, our own included: a full block of transactions in 3 s."""
    topics_max: int = 64
    """Topics one peer may subscribe to: 16 groups, three kinds of message each, and spare."""
    message_bytes_max: int = GOSSIP_BYTES_MAX
    """Bytes of one message's data."""
    seen_max: int = 8192
    """Message ids remembered against duplicates: 64 bytes each, half a MiB."""
    seen_s: float = 300.0
    """Seconds an id is remembered: longer than any relay keeps a message to repeat it."""
    queue_messages_max: int = 256
    """Undelivered messages per subscription; the newest is dropped and counted when full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """Everything that shapes one network."""

    seed: bytes = field(repr=False)
    """Ed25519 seed of the transport key, 32 bytes, secret."""
    listen: tuple[tuple[str, int], ...] = ()
    """Addresses to listen on, as (IPv4 or IPv6 address, port); port 0 takes a free one."""
    wire: Wire | None = field(default=None, repr=False)
    """What carries the bytes; None means TCP. Simulations pass a `MemoryWire`."""

    stranger_connections_max: int = 16
    """Connections of strangers: a hello takes about 10 round trips, so 16 serve a join storm."""
    member_connections_max: int = 192
    """Connections of members; each costs about 100 KiB, so all together stay below 20 MiB."""
    validator_connections_max: int = 64
    """Connections of validators: twice the largest validator set, for epochs that overlap."""
    handshakes_max: int = 64
    """Inbound connections that have not proved a key yet; when full, the oldest gives way."""
    handshake_s: float = 5.0
    """Seconds for the whole inbound handshake: six round trips of a satellite link."""
    dial_s: float = 8.0
    """Seconds for TCP connect and outbound handshake at one address."""
    dial_stagger_s: float = 0.3
    """Seconds before the next address is tried beside a silent one (RFC 8305 allows 0.1 to 2)."""
    negotiate_s: int = 5
    """Seconds to agree on a stream's protocol."""
    stranger_s: float = float(HELLO_SECONDS_MAX)
    """Seconds after which a peer that is still a stranger is disconnected."""
    stranger_grace_s: float = 2.0
    """Seconds a stranger keeps its slot for sure (a hello takes ten round trips). Then, when slots
    are lacking, the oldest gives way to a newcomer."""
    stranger_bytes_max: int = HELLO_BYTES_MAX + 16 * KIB
    """Bytes a stranger may send, and as many receive, on the wire: hello and handshakes."""
    streams_per_peer_max: int = 32
    """Inbound streams a member or validator may have open."""
    stranger_streams_max: int = 2
    """Inbound streams a stranger may have open: hello and one retry."""
    stream_window_bytes: int = 256 * KIB
    """Unread bytes buffered per stream, at least yamux's initial 256 KiB; bounds memory to
    `streams_per_peer_max` windows a peer and speed to one window a round trip."""
    stall_s: float = 30.0
    """Seconds without progress after which a blocked send ends the connection."""
    close_s: float = 5.0
    """Seconds an orderly shutdown may take."""
    events_max: int = 1024
    """Connection events waiting to be read; older ones are dropped, `peers()` stays true."""
    gossip: GossipConfig = field(default_factory=GossipConfig)
    """Parameters of gossipsub."""

    def __post_init__(self) -> None:
        """Refuses values outside their ranges.

        Raises:
            ConfigError: a value is out of range.
        """
        if len(self.seed) != 32:
            raise ConfigError(f"transport key seed of {len(self.seed)} bytes, expected 32")
        if self.stream_window_bytes < 256 * KIB:
            raise ConfigError(f"stream window of {self.stream_window_bytes} bytes, at least 262144")
        positive = (
            self.stranger_connections_max,
            self.member_connections_max,
            self.validator_connections_max,
            self.handshakes_max,
            self.handshake_s,
            self.dial_s,
            self.negotiate_s,
            self.streams_per_peer_max,
            self.stranger_streams_max,
            self.stall_s,
        )
        if min(positive) <= 0:
            raise ConfigError("every limit and deadline of the network must be positive")

    @property
    def connections_max(self) -> int:
        """Connections of all classes together."""
        return (
            self.stranger_connections_max
            + self.member_connections_max
            + self.validator_connections_max
        )

    def connections_of(self, peer_class: PeerClass) -> int:
        """Connection slots of one class."""
        match peer_class:
            case PeerClass.STRANGER:
                return self.stranger_connections_max
            case PeerClass.MEMBER:
                return self.member_connections_max
            case PeerClass.VALIDATOR:
                return self.validator_connections_max
