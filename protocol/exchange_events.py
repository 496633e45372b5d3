"""Inputs and effects of the exchange machines `Download` and `Upload`.

The host executes effects in order and feeds the answers back as inputs. `now` is given beside each
input, in seconds of a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from protocol.bitfield import Bitfield
from protocol.digest import ManifestId
from protocol.errors import RemoteProtocolError
from protocol.exchange_messages import HAVE_RUNS_MAX, ExchangeMessage, Have, split_payload
from protocol.lean import lean
from protocol.runs import NO_CHUNKS, Runs

PeerId = bytes
"""Opaque name of a peer, as its transport authenticated it."""


class Offence(Enum):
    """What a peer is blamed for; the text is stable and appears in metrics."""

    CORRUPT_CHUNK = "corrupt_chunk"
    """A chunk of the right length that does not hash to the recipe's digest."""
    WRONG_LENGTH = "wrong_length"
    """A chunk shorter or longer than the verified recipe says."""
    CORRUPT_PAGE = "corrupt_page"
    """A recipe page that does not lead to the manifest's root."""
    UNSOLICITED = "unsolicited"
    """An answer to nothing that is open: never asked, or answered before."""
    MALFORMED = "malformed"
    """A message that does not decode, or names what the manifest does not have."""


class ExchangeOffenceError(RemoteProtocolError):
    """A peer broke the exchange protocol in a way that names its offence.

    Attributes:
        offence: what for.
    """

    def __init__(self, offence: Offence, message: str) -> None:
        super().__init__(f"{message} [{offence.value}]")
        self.offence = offence


# Inputs of Download -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerJoined:
    """A stream to a peer that may be asked for this manifest is open."""

    peer: PeerId
    """Whom it concerns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLeft:
    """The stream to a peer ended, or it may no longer be asked."""

    peer: PeerId
    """Whom it concerns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerBanned:
    """The host found a peer guilty elsewhere: never ask it for this manifest again."""

    peer: PeerId
    """Whom it concerns."""


@lean
class PeerMessage:
    """A message from a peer that concerns this download."""

    peer: PeerId
    """Whom it concerns."""
    message: ExchangeMessage
    """What it said, or is to be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeHeld:
    """A peer says that it holds recipes, whatever it holds of chunks (`relay_messages.Ready`)."""

    peer: PeerId
    """Who says so."""
    components: tuple[int, ...]
    """Positions in the manifest's objects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeKnown:
    """The complete recipe of a component was verified before (resumed, or made here)."""

    component: int
    """Position of the component in the manifest."""
    lengths: Sequence[int]
    """Bytes of each chunk, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectWanted:
    """The host wants an object that the download could do without, such as a patch."""

    component: int
    """Position in the manifest's objects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectDropped:
    """The host does not want it after all: no more of it is asked for."""

    component: int
    """Position in the manifest's objects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageVerified:
    """A page leads to the manifest's recipe root."""

    component: int
    """Position of the component in the manifest."""
    page: int
    """Page number."""
    lengths: Sequence[int]
    """Bytes of each chunk the page lists, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRefused:
    """A page does not lead to the manifest's recipe root."""

    component: int
    """Position of the component in the manifest."""
    page: int
    """Page number."""
    detail: str
    """Why, for the evidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentPrepared:
    """Space for a component is allocated; what other images supplied is in place."""

    component: int
    """Position of the component in the manifest."""
    held: Bitfield
    """Chunks already stored and verified."""


@lean
class ChunksStored:
    """Chunks matched their digests and are written."""

    component: int
    """Position of the component in the manifest."""
    indices: Iterable[int]
    """Chunks whose `WriteChunks` this answers."""
    gained: Iterable[int] = ()
    """Other chunks that became stored by the way, because their bytes are equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRefused:
    """A chunk did not match its digest; nothing was written."""

    component: int
    """Position of the component in the manifest."""
    index: int
    """Chunk index."""
    detail: str
    """Expected and actual digest, for the evidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentVerified:
    """The complete image of a component matched its digest and is visible."""

    component: int
    """Position of the component in the manifest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunksLost:
    """Chunks stored earlier rotted and must be fetched again."""

    component: int
    """Position of the component in the manifest."""
    indices: Iterable[int]
    """Chunk indices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageFull:
    """These chunks, or the preparation of the component, found no space; intake pauses."""

    component: int
    """Position of the component in the manifest."""
    indices: Iterable[int]
    """Chunk indices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageReady:
    """There may be space again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Give the download up: revoked, or no longer wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFired:
    """The machine's deadline has come."""


StorageInput = (
    RecipeKnown
    | ObjectWanted
    | ObjectDropped
    | PageVerified
    | PageRefused
    | ComponentPrepared
    | ChunksStored
    | ChunkRefused
    | ComponentVerified
    | ChunksLost
    | StorageFull
    | StorageReady
)
"""What the host tells a download about its storage."""

DownloadInput = (
    PeerJoined | PeerLeft | PeerBanned | PeerMessage | RecipeHeld | Stop | TimerFired | StorageInput
)
"""Everything `Download.handle` accepts."""


# Inputs of Upload -------------------------------------------------------------------------------


@lean
class ChunksRead:
    """What a `ReadChunks` effect found: it covers a prefix of its indices, at least one."""

    request_id: int
    """The request it belongs to."""
    found: Runs
    """Chunks that were read."""
    lengths: tuple[int, ...]
    """Bytes of each in the payload."""
    payload: tuple[bytes | memoryview, ...]
    """Parts whose concatenation is all chunks found, in order."""
    packed: frozenset[int] = frozenset()
    """Indices whose bytes are one zstd frame of the chunk."""
    absent: Runs = NO_CHUNKS
    """Chunks that are missing or rotten."""

    @classmethod
    def of(cls, request_id: int, chunks: Iterable[tuple[int, bytes | None]]) -> ChunksRead:
        """Makes the answer of single chunks; (index, None) for those that are not there."""
        listed = tuple(chunks)
        found = [(index, data) for index, data in listed if data is not None]
        return cls(
            request_id=request_id,
            found=Runs.of_ascending([index for index, _ in found]),
            lengths=tuple(len(data) for _, data in found),
            payload=tuple(data for _, data in found),
            absent=Runs.of(index for index, data in listed if data is None),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRead:
    """What a `ReadPage` effect found."""

    request_id: int
    """The request it belongs to."""
    page: bytes | None
    """None: not held."""


@lean
class Flushed:
    """The transport took this many payload bytes of CHUNKS and page messages."""

    payload_bytes: int


@dataclass(frozen=True, kw_only=True)
class Acquired:
    """Chunks became servable here: tell the peer if it is interested.

    One event serves the uploads of all peers: what it says is made once.
    """

    manifest_id: ManifestId
    """The manifest it is about."""
    component: int
    """Position of the component in the manifest."""
    indices: Iterable[int]
    """Which."""

    @cached_property
    def messages(self) -> tuple[Have, ...]:
        """What those are told who are interested."""
        pairs = Runs.of(self.indices).pairs
        return tuple(
            Have(
                manifest_id=self.manifest_id,
                component=self.component,
                indices=Runs(pairs[start : start + HAVE_RUNS_MAX]),
            )
            for start in range(0, len(pairs), HAVE_RUNS_MAX)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A manifest may be served from now on, or its possession was read anew."""

    manifest_id: ManifestId
    """The manifest it is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn:
    """A manifest may no longer be served: drop everything of it, now."""

    manifest_id: ManifestId
    """The manifest it is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnCame:
    """What made the upload wait for its turn may be over (`upload_turns.UploadTurns.due`)."""


UploadInput = (
    PeerMessage | ChunksRead | PageRead | Flushed | Acquired | Opened | Withdrawn | TurnCame
)
"""Everything `Upload.handle` accepts."""


# Effects ----------------------------------------------------------------------------------------


@lean
class Send:
    """Send a message to a peer, in the order given."""

    peer: PeerId
    """Whom it concerns."""
    message: ExchangeMessage
    """What it said, or is to be told."""
    served: ManifestId | None = None
    """Set where the message tells or gives something of a manifest: a host that queues it asks the
    rule again before the message leaves, and sends `refusal_of` it instead if that says no."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyPage:
    """Check a page against the recipe root; answer PageVerified or PageRefused."""

    component: int
    """Position of the component in the manifest."""
    page: int
    """Page number."""
    body: bytes
    """The page as it came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareComponent:
    """Allocate a component whose recipe is complete; answer ComponentPrepared or StorageFull."""

    component: int
    """Position of the component in the manifest."""


@lean
class WriteChunks:
    """Hash and write chunks; answer ChunksStored, ChunkRefused or StorageFull for each."""

    component: int
    """Position of the component in the manifest."""
    indices: Runs
    """Which."""
    lengths: tuple[int, ...]
    """Bytes of each in the payload."""
    payload: tuple[bytes | memoryview, ...]
    """Parts whose concatenation is all of them, as they came."""
    packed: frozenset[int] = frozenset()
    """Indices whose bytes are one zstd frame of the chunk, to be unpacked first."""

    @property
    def chunks(self) -> tuple[tuple[int, memoryview], ...]:
        """The single chunks, (index, bytes)."""
        return split_payload(self.indices, self.lengths, self.payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentComplete:
    """Every chunk of a component is stored: check the image and make it visible.

    Answer ComponentVerified, or ChunksLost if some rotted meanwhile.
    """

    component: int
    """Position of the component in the manifest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Every component is complete and verified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blame:
    """A peer is proven guilty to this node: score it. The machine never asks it again."""

    peer: PeerId
    """Whom it concerns."""
    offence: Offence
    """What for."""
    manifest_id: ManifestId
    """The manifest it is about."""
    component: int
    """Position of the component in the manifest."""
    position: int
    """Chunk index, or page number for CORRUPT_PAGE."""
    detail: str
    """What was expected and what came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stalled:
    """Every open request at a peer is overdue; told once for each time it joins.

    No proof of malice, since thin links stall too: a hint for who chooses peers.
    """

    peer: PeerId
    """Whom it concerns."""


DownloadEffect = (
    Send
    | VerifyPage
    | PrepareComponent
    | WriteChunks
    | ComponentComplete
    | Finished
    | Blame
    | Stalled
)
"""Everything `Download.handle` returns."""


@lean
class ReadChunks:
    """Read chunks in order, as many as fit `bytes_max`, at least one; answer ChunksRead."""

    request_id: int
    """The request it belongs to."""
    manifest_id: ManifestId
    """The manifest it is about."""
    component: int
    """Position of the component in the manifest."""
    indices: Runs
    """Which."""
    bytes_max: int
    """Most bytes, unless the first chunk has more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPage:
    """Read a recipe page; answer PageRead."""

    request_id: int
    """The request it belongs to."""
    manifest_id: ManifestId
    """The manifest it is about."""
    component: int
    """Position of the component in the manifest."""
    page: int
    """Page number."""


UploadEffect = Send | ReadChunks | ReadPage
"""Everything `Upload.handle` returns."""
