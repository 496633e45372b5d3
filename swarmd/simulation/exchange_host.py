"""A node of the exchange in the simulated world: the production machines, a store in memory.

Frames really are encoded and decoded. A node's uplink is one queue with a rate; what overtakes
nothing on a stream overtakes nothing here. The world's link must neither lose, duplicate nor
reorder, because a stream does not: a stream breaks as a whole (`disconnect`, `leave`). Byzantine
nodes subclass `ExchangeHost` and override `outgoing`, which sees every message before it is queued.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from chunks.recipe import Recipe
from chunks.recipe_page import RecipePager, decode_recipe_page, verify_page
from protocol.bitfield import Bitfield
from protocol.digest import ChunkId, ManifestId, sha256
from protocol.download import Download
from protocol.download_requests import LANE_BITS
from protocol.errors import RemoteProtocolError, VerificationError
from protocol.exchange_events import (
    Acquired,
    Blame,
    ChunkRefused,
    ChunksRead,
    ChunksStored,
    ComponentComplete,
    ComponentPrepared,
    ComponentVerified,
    DownloadEffect,
    DownloadInput,
    ExchangeOffenceError,
    Finished,
    Flushed,
    Offence,
    PageRead,
    PageRefused,
    PageVerified,
    PeerBanned,
    PeerId,
    PeerJoined,
    PeerLeft,
    PeerMessage,
    PrepareComponent,
    ReadChunks,
    ReadPage,
    Send,
    Stalled,
    TimerFired,
    TurnCame,
    UploadInput,
    VerifyPage,
    WriteChunks,
)
from protocol.exchange_messages import (
    Cancel,
    Chunks,
    ExchangeMessage,
    Interest,
    NotInterested,
    RecipePageMessage,
    RecipeRequest,
    Reject,
    Request,
    decode_exchange,
    encode_exchange,
)
from protocol.picker import RarestFirst
from protocol.upload import ServedManifest, Upload
from protocol.upload_turns import UploadTurns
from swarmd.simulation.world import World

_PEER: Final = struct.Struct(">I")
STORAGE_DELAY_S: Final = 0.002
"""How long a read, a write or a verification takes, simulated seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRelease:
    """What is exchanged: the chunks of each component, under one manifest id."""

    manifest_id: ManifestId
    """The manifest it is about."""
    components: tuple[tuple[bytes, ...], ...]
    """Chunks of each component."""
    recipes: tuple[Recipe, ...]
    """Their recipes."""
    pagers: tuple[RecipePager, ...]
    """Their recipe pages."""

    @classmethod
    def of(cls, components: Sequence[Sequence[bytes]]) -> SimulatedRelease:
        """Makes a release of given chunks."""
        # Chunks that are one object are hashed once: there are crowds of gigabytes of one mebibyte.
        distinct = {id(chunk): chunk for chunks in components for chunk in chunks}
        digests = {number: sha256(chunk) for number, chunk in distinct.items()}
        recipes = tuple(
            Recipe(
                [len(chunk) for chunk in chunks], b"".join(digests[id(chunk)] for chunk in chunks)
            )
            for chunks in components
        )
        return cls(
            manifest_id=ManifestId(sha256(b"".join(recipe.root for recipe in recipes))),
            components=tuple(tuple(chunks) for chunks in components),
            recipes=recipes,
            pagers=tuple(RecipePager(recipe) for recipe in recipes),
        )


@dataclass(frozen=True, slots=True)
class _Sent:
    """A frame has left the uplink."""

    target: int
    body: bytes
    """The page as it came."""
    payload_bytes: int


@dataclass(frozen=True, slots=True)
class _Answer:
    """A storage operation of the download is done."""

    event: DownloadInput


@dataclass(frozen=True, slots=True)
class _Read:
    """A storage operation of an upload is done."""

    peer: int
    """Whom it concerns."""
    upload: Upload
    """Who asked for it: a stream that opened since knows nothing of it."""
    event: UploadInput


@dataclass(frozen=True, slots=True)
class Leave:
    """Posted by a scenario: the node ends, without a word."""


class ExchangeHost:
    """One node; see the module's docstring. Add it to the world, then `connect`."""

    def __init__(
        self,
        world: World,
        release: SimulatedRelease,
        *,
        held: Sequence[Iterable[int]] | None = None,
        wants: bool = True,
        uplink_bytes_per_s: float = 2_500_000.0,
        entropy: int = 0,
    ) -> None:
        """Makes a node.

        Args:
            world: where it lives.
            release: what is exchanged.
            held: for each component, the chunks held from the start; None for nothing.
            wants: whether it fetches what it lacks.
            uplink_bytes_per_s: what it can send, all peers together.
            entropy: for the picker.
        """
        self._world = world
        self._release = release
        self._uplink_bytes_per_s = uplink_bytes_per_s
        self._uplink_free_at = 0.0
        held = held or [()] * len(release.components)
        self._data = [
            {index: chunks[index] for index in indices}
            for chunks, indices in zip(release.components, held, strict=True)
        ]
        self._served = ServedManifest(
            manifest_id=release.manifest_id,
            possession=tuple(Bitfield(len(chunks)) for chunks in release.components),
        )
        for field, data in zip(self._served.possession, self._data, strict=True):
            for index in data:
                field.add(index)
        self._uploads: dict[int, Upload] = {}
        self._turns = UploadTurns()
        self._download: Download | None = None
        if wants:
            self._download = Download(
                manifest_id=release.manifest_id,
                chunk_counts=[len(chunks) for chunks in release.components],
                picker=RarestFirst(size=sum(map(len, release.components)), entropy=entropy),
                lane=1,
            )
        self.storage_delay_s = STORAGE_DELAY_S
        """How long a read, a write or a verification takes, simulated seconds."""
        self.is_gone = False
        """Whether it left."""
        self.number: Final = world.add(self)
        """The node's number in the world."""
        self.finished_at: float | None = None
        """When its download finished, simulated seconds."""
        self.blames: list[Blame] = []
        """Whom it blamed for bad content."""
        self.offences: list[tuple[int, Offence]] = []
        """Whom it disconnected for breaking the protocol."""
        self.stalls: list[int] = []
        """Whom it found stalling."""
        self.received_bytes: dict[int, int] = {}
        """Chunk bytes that came from each peer."""
        self.sent_bytes = 0
        """Chunk bytes sent."""
        self.in_flight_bytes_max = 0
        """Most bytes asked for or buffered at once."""

    @property
    def deadline(self) -> float | None:
        """When the download, or who waits for a turn, wants to be woken."""
        if self.is_gone:
            return None
        times = [self._turns.deadline]
        if self._download is not None:
            times.append(self._download.deadline)
        return min((time for time in times if time is not None), default=None)

    @property
    def peers(self) -> tuple[int, ...]:
        """Connected peers."""
        return tuple(self._uploads)

    @property
    def content(self) -> tuple[bytes, ...]:
        """What is stored of each component, in order."""
        return tuple(b"".join(data[index] for index in sorted(data)) for data in self._data)

    def may_serve(self, peer: int) -> bool:  # noqa: ARG002
        """The rule for a peer; scenarios override it."""
        return True

    def outgoing(
        self,
        target: int,  # noqa: ARG002
        message: ExchangeMessage,
    ) -> Iterable[ExchangeMessage]:
        """What is really sent instead of a message; honest nodes send it."""
        return (message,)

    def connect(self, peer: int) -> None:
        """Opens this side of a stream; the other node must do the same."""
        self._uploads[peer] = Upload(
            peer=_PEER.pack(peer),
            library=self,
            may_serve=lambda _: self.may_serve(peer),
            turns=self._turns,
        )
        if self._download is not None:
            self._feed(PeerJoined(peer=_PEER.pack(peer)))

    def disconnect(self, peer: int) -> None:
        """Ends this side of a stream."""
        if self._end_upload(peer) and self._download is not None:
            self._feed(PeerLeft(peer=_PEER.pack(peer)))

    def _end_upload(self, peer: int) -> bool:
        upload = self._uploads.pop(peer, None)
        if upload is None:
            return False
        upload.end()
        return True

    def find(self, manifest_id: ManifestId) -> ServedManifest | None:
        """The `Library` of the uploads."""
        return self._served if manifest_id == self._served.manifest_id else None

    # Actor ---------------------------------------------------------------------------------------

    def receive(self, source: int, message: object, now: float) -> None:  # noqa: ARG002
        """Takes a frame, or the end of a stream (None)."""
        if self.is_gone or source not in self._uploads:
            return
        if message is None:
            self.disconnect(source)
            return
        assert isinstance(message, bytes), "only frames travel between nodes"
        try:
            self._dispatch(source, decode_exchange(message))
        except ExchangeOffenceError as error:
            self._cut(source, error.offence)
        except RemoteProtocolError:
            self._cut(source, Offence.MALFORMED)

    def _cut(self, peer: int, offence: Offence) -> None:
        self.offences.append((peer, offence))
        self._end_upload(peer)
        if self._download is not None:
            self._feed(PeerBanned(peer=_PEER.pack(peer)))
        self._world.send(self.number, peer, None)

    def handle(self, event: object, now: float) -> None:  # noqa: ARG002
        """Takes the end of an own operation."""
        if self.is_gone:
            return
        match event:
            case _Sent():
                self._world.send(self.number, event.target, event.body)
                if event.payload_bytes and event.target in self._uploads:
                    self._feed_upload(event.target, Flushed(payload_bytes=event.payload_bytes))
            case _Answer():
                self._feed(event.event)
            case _Read() if self._uploads.get(event.peer) is event.upload:
                self._feed_upload(event.peer, event.event)
            case Leave():
                self.leave()
            case _:
                pass

    def leave(self) -> None:
        """Ends the node; its peers notice that their streams broke."""
        self.is_gone = True
        for peer in self._uploads:
            self._world.send(self.number, peer, None)

    def wake(self, now: float) -> None:
        """The download's deadline has come, or a turn."""
        if self._download is not None:
            deadline = self._download.deadline
            if deadline is not None and deadline <= now:
                self._feed(TimerFired())
        self._serve_turns()

    def _dispatch(self, source: int, message: ExchangeMessage) -> None:
        event = PeerMessage(peer=_PEER.pack(source), message=message)
        match message:
            case Request() | Interest() | Cancel() | RecipeRequest() | NotInterested():
                self._feed_upload(source, event)
            case Chunks() | RecipePageMessage() | Reject():
                if self._download is None or message.request_id >> LANE_BITS != 1:
                    raise ExchangeOffenceError(Offence.UNSOLICITED, "nothing was asked")
                if isinstance(message, Chunks):
                    size = message.payload_bytes
                    self.received_bytes[source] = self.received_bytes.get(source, 0) + size
                self._feed(event)
            case _:
                if self._download is not None:
                    self._feed(event)

    # Effects -------------------------------------------------------------------------------------

    def _feed_upload(self, peer: int, event: UploadInput) -> None:
        for effect in self._uploads[peer].handle(event, self._world.now):
            match effect:
                case Send():
                    self.transmit(peer, effect.message)
                case ReadChunks():
                    self._post(_Read(peer, self._uploads[peer], self._read(effect)))
                case ReadPage():
                    pager = self._release.pagers[effect.component]
                    page = pager.page(effect.page).encode()
                    read = PageRead(request_id=effect.request_id, page=page)
                    self._post(_Read(peer, self._uploads[peer], read))
                case _:
                    assert_never(effect)
        self._serve_turns()

    def _serve_turns(self) -> None:
        for peer in self._turns.due(self._world.now):
            (number,) = _PEER.unpack(peer)
            if number in self._uploads:
                self._feed_upload(number, TurnCame())

    def _read(self, effect: ReadChunks) -> ChunksRead:
        found: list[tuple[int, bytes | None]] = []
        total_bytes = 0
        for index in effect.indices:
            data = self._data[effect.component].get(index)
            total_bytes += len(data or b"")
            if found and total_bytes > effect.bytes_max:
                break
            found.append((index, data))
        return ChunksRead.of(effect.request_id, found)

    def transmit(self, target: int, message: ExchangeMessage) -> None:
        """Queues a message, or what `outgoing` makes of it, at the uplink."""
        payload_bytes = _payload_bytes(message)
        for actual in self.outgoing(target, message):
            self.sent_bytes += _payload_bytes(actual)
            self.put(target, actual, payload_bytes)
            payload_bytes = 0

    def put(self, target: int, message: ExchangeMessage, payload_bytes: int) -> None:
        """Gives a message to the link; `payload_bytes` are told to the upload when it has left."""
        body = encode_exchange(message)
        start = max(self._world.now, self._uplink_free_at)
        self._uplink_free_at = start + len(body) / self._uplink_bytes_per_s
        delay_s = self._uplink_free_at - self._world.now
        self._world.post(self.number, delay_s, _Sent(target, body, payload_bytes))

    def _feed(self, event: DownloadInput) -> None:
        assert self._download is not None, "only nodes that want something have a download"
        for effect in self._download.handle(event, self._world.now):
            self._execute(effect)
        used_bytes = self._download.in_flight_bytes
        self.in_flight_bytes_max = max(self.in_flight_bytes_max, used_bytes)

    def _execute(self, effect: DownloadEffect) -> None:
        match effect:
            case Send():
                (peer,) = _PEER.unpack(effect.peer)
                self.transmit(peer, effect.message)
            case VerifyPage():
                self._post(_Answer(self._verify(effect)))
            case PrepareComponent(component=component):
                held = self._served.possession[component].copy()
                self._post(_Answer(ComponentPrepared(component=component, held=held)))
            case WriteChunks():
                for index, data in effect.chunks:
                    self._post(_Answer(self._write(effect.component, index, bytes(data))))
            case ComponentComplete(component=component):
                self._post(_Answer(ComponentVerified(component=component)))
            case Finished():
                self.finished_at = self._world.now
            case Blame():
                self.blames.append(effect)
            case Stalled():
                self.stalls.append(_PEER.unpack(effect.peer)[0])
            case _:
                assert_never(effect)

    def _verify(self, effect: VerifyPage) -> PageVerified | PageRefused:
        recipe = self._release.recipes[effect.component]
        try:
            page = decode_recipe_page(effect.body)
            verify_page(page, recipe.root, recipe.chunk_count)
            if page.page_index != effect.page:
                raise VerificationError("another page than the one asked for")
        except VerificationError as error:
            return PageRefused(component=effect.component, page=effect.page, detail=str(error))
        return PageVerified(component=effect.component, page=effect.page, lengths=page.lengths)

    def _write(self, component: int, index: int, data: bytes) -> ChunksStored | ChunkRefused:
        if ChunkId(sha256(data)) != self._release.recipes[component].digest(index):
            return ChunkRefused(component=component, index=index, detail=sha256(data).hex())
        self._data[component][index] = data
        self._served.possession[component].add(index)
        news = Acquired(
            manifest_id=self._release.manifest_id,
            component=component,
            indices=(index,),
        )
        for peer in tuple(self._uploads):
            self._feed_upload(peer, news)
        return ChunksStored(component=component, indices=(index,))

    def _post(self, event: object) -> None:
        self._world.post(self.number, self.storage_delay_s, event)


def connect_all(hosts: Sequence[ExchangeHost]) -> None:
    """Connects every pair."""
    for one in hosts:
        for other in hosts:
            if one is not other:
                one.connect(other.number)


def is_banned_by(host: ExchangeHost, peer: int) -> bool:
    """Whether a node blamed or disconnected a peer."""
    blamed = any(blame.peer == _PEER.pack(peer) for blame in host.blames)
    return blamed or any(culprit == peer for culprit, _ in host.offences)


def peer_id(number: int) -> PeerId:
    """How a node of that number is called in blames."""
    return _PEER.pack(number)


def _payload_bytes(message: ExchangeMessage) -> int:
    match message:
        case Chunks():
            return message.payload_bytes
        case RecipePageMessage():
            return len(message.page)
        case _:
            return 0
