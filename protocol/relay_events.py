"""Inputs and effects of `Relay` (one manifest) and `RelayScheduler` (all of them).

The host executes effects in order and feeds the answers back as inputs; `now` is given beside each
input, in seconds of a monotonic clock. Chunks are named by number (`exchange_layout`) in runs of
(first, count), except where the wire names them by object and index.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from protocol.digest import ManifestId
from protocol.exchange_events import (
    ObjectDropped,
    PeerBanned,
    PeerId,
    PeerJoined,
    PeerLeft,
    Stop,
    TimerFired,
)
from protocol.relay_messages import Push, PushFlag, RelayMessage, Run

# Inputs -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectReady:
    """An object's recipe is verified here, and there is room for its chunks."""

    object_number: int
    """Position of the object in the manifest."""
    lengths: Sequence[int]
    """Bytes of each chunk, in order."""
    held: int
    """Chunks verified already; bit `i` stands for index `i`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayReceived:
    """A relay message came from a peer that joined."""

    peer: PeerId
    """Who sent it."""
    message: RelayMessage
    """What it said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerPossession:
    """A peer told by a bitfield what it holds of an object, replacing what it said before."""

    peer: PeerId
    """Whom it concerns."""
    object_number: int
    """Position of the object in the manifest."""
    bits: int
    """Bit `i` stands for index `i`; within the object, the host checked it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerGained:
    """A peer told by a HAVE that it holds more of an object."""

    peer: PeerId
    """Whom it concerns."""
    object_number: int
    """Position of the object in the manifest."""
    indices: Iterable[int]
    """Within the object; the host checked it. `Runs` cost least, here and below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRequested:
    """A peer asked for chunks, which the upload answers: they need not be pushed to it."""

    peer: PeerId
    """Whom it concerns."""
    object_number: int
    """Position of the object in the manifest."""
    indices: Iterable[int]
    """Within the object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunksGained:
    """Chunks of a ready object are verified here, however they came, and can be given away."""

    object_number: int
    """Position of the object in the manifest."""
    indices: Iterable[int]
    """Chunk indices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunksDropped:
    """Chunks cannot be given away any more (rot), or a push of them found no room."""

    object_number: int
    """Position of the object in the manifest."""
    indices: Iterable[int]
    """Chunk indices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PushRefused:
    """A chunk of a push did not match its digest; `PeerBanned` follows if the host bans."""

    peer: PeerId
    """Who sent it."""
    object_number: int
    """Position of the object in the manifest."""
    index: int
    """Chunk index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathMeasured:
    """What the host knows of its own uplink; None where it knows nothing."""

    uplink_bytes_per_s: float | None
    """Bytes per second this node may send."""


RelayInput = (
    ObjectReady
    | ObjectDropped
    | PeerJoined
    | PeerLeft
    | PeerBanned
    | RelayReceived
    | PeerPossession
    | PeerGained
    | PeerRequested
    | ChunksGained
    | ChunksDropped
    | PushRefused
    | PathMeasured
    | Stop
    | TimerFired
)
"""Everything `Relay.handle` accepts."""


# Effects ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SendRelay:
    """Send a message to a peer; ask the rule again before it leaves."""

    peer: PeerId
    """Whom it concerns."""
    message: RelayMessage
    """What it is told; never a push."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendPossession:
    """Send a bitfield of what is held of an object to a peer; ask the rule again before."""

    peer: PeerId
    """Whom it concerns."""
    object_number: int
    """Position of the object in the manifest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendPush:
    """Read a run of chunks and push it to a peer; ask the rule again before it leaves.

    The peer gets no further push until the host feeds `RelayScheduler.push_sent`, which it does
    when the transport took the frame, or when the chunks could not be read.
    """

    manifest_id: ManifestId
    """The manifest it is about."""
    peer: PeerId
    """Whom it concerns."""
    object_number: int
    """Position of the object in the manifest."""
    first_index: int
    """Index of the first chunk within the object."""
    count: int
    """How many chunks."""
    size_bytes: int
    """Bytes of these chunks together."""
    flags: PushFlag
    """What the receiver shall do with it."""
    delegates: tuple[bytes, ...]
    """Names of whom the receiver shall pass it to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakePush:
    """Verify the chunks of a push and store them, as those of a request would be.

    The host answers `ChunksGained`, `PushRefused`, or `ChunksDropped` if there is no room.
    """

    peer: PeerId
    """Who sent it."""
    push: Push
    """The push; lengths of chunks that are not compressed were checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerClaims:
    """A peer holds chunks and may be asked for them, as if it had sent a HAVE."""

    peer: PeerId
    """Whom it concerns."""
    runs: Sequence[Run]
    """Chunk numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerClaimsObject:
    """What a peer may be asked for of an object, replacing what was said before."""

    peer: PeerId
    """Whom it concerns."""
    object_number: int
    """Position of the object in the manifest."""
    bits: int
    """Bit `i` stands for index `i`; zero: it shall not be asked for now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskPossession:
    """Repeat the interest at a peer: its bitfield tells what news did not reach this node."""

    peer: PeerId
    """Whom it concerns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PullGated:
    """Ask for chunks of an object only as `PullOpened` permits from now on."""

    object_number: int
    """Position of the object in the manifest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PullOpened:
    """These chunks may be asked for: nobody is expected to push them any more."""

    runs: Sequence[Run]
    """Chunk numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PullFreed:
    """Ask for any chunk of an object: nobody seeds it."""

    object_number: int
    """Position of the object in the manifest."""


RelayEffect = (
    SendRelay
    | SendPossession
    | SendPush
    | TakePush
    | PeerClaims
    | PeerClaimsObject
    | AskPossession
    | PullGated
    | PullOpened
    | PullFreed
)
"""Everything the relay's machines return."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    """What a node says about itself to every relay it takes part in."""

    site: bytes = b""
    """Name of the local network, 0 to 32 bytes: peers that say the same are served first, and one
    peer of another site is asked to serve that site. Empty: no network is known to be local."""
    is_leaf: bool = False
    """Never relays: metered, or on battery."""
    receivers_min: int = 2
    """Receivers below which a holder pushes nothing and is asked instead, at least 2."""
