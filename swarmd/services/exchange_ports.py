"""What the exchange service needs from the rest of the daemon, as small protocols."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from protocol.digest import ManifestId
from protocol.download_board import Allowance
from protocol.exchange_events import Offence, PeerId
from swarmd.net.uplink_window import PathState

T = TypeVar("T")


class StreamLike(Protocol):
    """A framed bidirectional stream to an authenticated peer; net streams and lanes fit."""

    @property
    def peer(self) -> PeerId:
        """Transport key of the other end."""
        ...

    async def send_frame(self, parts: Sequence[bytes | memoryview]) -> None:
        """Sends one frame whose body is the parts in order; they stay unchanged until it returns.

        A lane writes the parts as they are, a libp2p stream joins them.

        Raises:
            TransportError: the stream broke.
        """
        ...

    async def receive_frame(self) -> bytes | bytearray | memoryview | None:
        """Waits for a frame; None at the end. What it returned never changes afterwards.

        Raises:
            TransportError: the stream broke.
            RemoteProtocolError: the peer broke the framing.
        """
        ...

    async def reset(self) -> None:
        """Breaks the stream off; never fails."""
        ...


class StreamOpener(Protocol):
    """Opens streams of the exchange protocol."""

    async def __call__(self, peer: PeerId) -> StreamLike:
        """Opens one to a connected peer.

        Raises:
            TransportError: not connected, or refused.
        """
        ...


@runtime_checkable
class MeasuredStream(Protocol):
    """A stream that knows what its connection is like."""

    def path(self) -> PathState | None:
        """What the system knows of the connection now; None: nothing."""
        ...

    def pace(self, bytes_per_s: int | None) -> None:
        """Has what is sent spread over time; None: no limit."""
        ...


class ExchangeAuthority(Protocol):
    """The questions the exchange asks; each answer holds only for the moment it was given."""

    def may_serve(self, peer: PeerId, manifest_id: ManifestId) -> bool:
        """Whether this peer may be told about and given this manifest's content now."""
        ...

    def may_ask(self, peer: PeerId, manifest_id: ManifestId) -> bool:
        """Whether this peer may learn that this node wants the manifest, and may serve it."""
        ...


class PeerScore(Protocol):
    """Takes note of how peers behave."""

    def blame(self, peer: PeerId, offence: Offence, detail: str) -> None:
        """Notes proven misbehaviour; may disconnect the peer."""
        ...

    def stalled(self, peer: PeerId) -> None:
        """Notes that a peer answers nothing in time: no proof of anything."""
        ...


class TrafficRates(Allowance, Protocol):
    """What the rates of this node permit; streams ask by themselves before they send."""

    @property
    def takes_pushes(self) -> bool:
        """Whether chunks may come that were not asked for: a rate of asking does not hold them."""
        ...

    def frame_s(self, peer: PeerId, size_bytes: int, *, links: int) -> float:
        """How long a frame may be held back when so many links send at once, seconds."""
        ...


class BlockingRunner(Protocol):
    """Runs calls that may block on storage."""

    async def __call__(self, call: Callable[[], T], /) -> T:
        """Runs a call and returns what it returns, or raises what it raises."""
        ...


class StartedStatus(Protocol):
    """What `nursery.start` gives a task, as far as the service needs it."""

    def started(self) -> None:
        """Tells that the task is ready."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerExchange:
    """What was exchanged with one connected peer over the present stream."""

    peer: PeerId
    """Whom it concerns."""
    sent_bytes: int
    """Chunk bytes."""
    received_bytes: int
    """Chunk bytes, superfluous ones included."""
    unsent_bytes: int
    """Chunk bytes that wait for the peer to take them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchProgress:
    """How far one fetch is."""

    manifest_id: ManifestId
    """The manifest it is about."""
    total_bytes: int
    """Bytes of all components."""
    chunks_total: int
    """Chunks of all components."""
    chunks_missing: int
    """Chunks neither stored nor reused yet."""
    fetched_bytes: int
    """Chunk bytes that came from peers and were stored."""
    reused_bytes: int
    """Bytes taken from images already held."""
    patched_bytes: int
    """Bytes that patches made from images already held."""
    wasted_bytes: int
    """Bytes that came and were dropped."""
    is_paused: bool
    """Whether the disk is full."""
    peers: int
    """Peers being asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeStatistics:
    """What the service has done since it was made, and does now."""

    fetched_bytes: int
    """Chunk bytes fetched and stored."""
    reused_bytes: int
    """Bytes taken from images already held."""
    patched_bytes: int
    """Bytes that patches made from images already held."""
    sent_bytes: int
    """Chunk bytes sent, as they travelled."""
    packed_chunks: int
    """Chunks sent packed, or ready to be."""
    blames: dict[Offence, int]
    """Proven offences, by kind."""
    stalls: int
    """Peers found stalling."""
    fetches: tuple[FetchProgress, ...]
    """Fetches under way."""
    peers: tuple[PeerExchange, ...]
    """Connected peers with a stream."""
