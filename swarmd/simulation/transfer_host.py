"""A node of a transfer over thin links: the production machines on `LinkNetwork`.

Messages travel over the link model with the size that their encoding really has, but as objects:
nothing is copied, so that many nodes fit into one process. Verifying and storing take the times of
a `Disk`. A node may fetch several images. Byzantine nodes override `outgoing`, which sees every
message before it is given to the link.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from protocol.digest import ManifestId
from protocol.download_requests import LANE_BITS
from protocol.errors import RemoteProtocolError
from protocol.exchange_events import (
    Acquired,
    Blame,
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
    PeerBanned,
    PeerJoined,
    PeerLeft,
    PeerMessage,
    PrepareComponent,
    ReadChunks,
    ReadPage,
    RecipeHeld,
    RecipeKnown,
    Send,
    Stalled,
    TimerFired,
    TurnCame,
    UploadInput,
    VerifyPage,
    WriteChunks,
)
from protocol.exchange_messages import (
    BitfieldMessage,
    Cancel,
    Chunks,
    ExchangeMessage,
    Have,
    Interest,
    NotInterested,
    RecipePageMessage,
    RecipeRequest,
    Reject,
    Request,
    Unknown,
    encode_exchange_parts,
)
from protocol.relay_events import PathMeasured, RelaySettings
from protocol.relay_messages import (
    Complaint,
    Credit,
    News,
    Push,
    Ready,
    RelayMessage,
    Skip,
    encode_relay,
)
from protocol.upload import ServedManifest, Upload
from protocol.upload_turns import UploadTurns
from swarmd.simulation.exchange_host import SimulatedRelease, peer_id
from swarmd.simulation.frame_links import FrameNetwork
from swarmd.simulation.links import FrameBlocked, FrameLeft, LinkNetwork, NodeLink
from swarmd.simulation.transfer_events import (
    Done,
    Postponed,
    Read,
    RoomReady,
    TellNews,
    Write,
)
from swarmd.simulation.transfer_part import ImagePart
from swarmd.simulation.transfer_relay import (
    GateInput,
    PushToken,
    RelayDesk,
    Taken,
    WireMessage,
)
from swarmd.simulation.world import World

_FRAME_HEAD_BYTES: Final = 4
"""The length in front of each frame."""
URGENT_BYTES_MAX: Final = 2048
"""Frames up to this size take no turn of their own on the uplink: they fit a packet or two."""
NEWS_DELAY_S: Final = 0.05
"""How long news of chunks is gathered, seconds (exchange.md, X47)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """How long a node's own operations take."""

    verify_s: float = 0.002
    """From a chunk's arrival until it is verified and may be served, seconds."""
    prepare_s: float = 0.002
    """From a complete recipe until there is room for the chunks, seconds."""
    read_s: float = 0.0
    """From the wish to send chunks until they are read, seconds."""


class TransferHost:
    """See the module's docstring. Make it, add images, then `join` its peers."""

    part_kind: type[ImagePart] = ImagePart
    """What it holds of an image."""
    is_timed = True
    """Whether the world asks it for its deadline after every event."""

    def __init__(
        self,
        world: World,
        network: LinkNetwork | FrameNetwork,
        link: NodeLink,
        *,
        disk: Disk | None = None,
        relays: RelaySettings | None = None,
    ) -> None:
        """Makes a node without images.

        Args:
            world: where it lives.
            network: how messages travel.
            link: how the node is attached.
            disk: how long verifying and storing take.
            relays: what it says of itself to relays; None: it only pulls.
        """
        self._relays = RelayDesk(self, relays)
        self._deadline: float | None = None
        self._is_deadline_known = False
        self._world = world
        self._network = network
        self._disk = disk or Disk()
        self._uploads: dict[int, Upload] = {}
        self._turns = UploadTurns(lambda: self._relays.is_pushing)
        self._parts: dict[ManifestId, ImagePart] = {}
        self._lanes: list[ImagePart] = []
        self._is_news_due = False
        self.link: Final = link
        """How the node is attached."""
        self.is_gone = False
        """Whether it left."""
        self.offences: Final[list[tuple[int, Offence]]] = []
        """Whom it disconnected for breaking the protocol."""
        self.number: Final = world.add(self, is_timed=self.is_timed)
        """The node's number in the world."""
        network.attach(self.number, link)

    def add_image(
        self,
        release: SimulatedRelease,
        *,
        held: Sequence[Iterable[int]] | None = None,
        wants: bool = True,
        knows_recipe: bool = True,
        priority: int = 0,
    ) -> ImagePart:
        """Begins to serve, and perhaps to fetch, an image.

        Args:
            release: the image.
            held: for each component, the chunks held from the start; None for nothing.
            wants: whether the node fetches what it lacks.
            knows_recipe: whether the recipe is verified already.
            priority: of its relay; a larger number is more urgent.
        """
        part = self.part_kind(
            release,
            lane=len(self._parts),
            held=held,
            wants=wants,
            entropy=self._world.random.getrandbits(64),
            relay=self._relays.make(release, self._world.random.getrandbits(64)),
            now=self._world.now,
        )
        self._parts[release.manifest_id] = part
        self._lanes.append(part)
        self._relays.add(part, priority)
        for peer in self.peers:
            self._join(part, peer)
        for component, chunks in enumerate(release.components):
            if part.download is None:
                self._relays.ready(part, component)
            elif knows_recipe:
                lengths = [len(chunk) for chunk in chunks]
                self.feed(part, RecipeKnown(component=component, lengths=lengths))
        return part

    def _join(self, part: ImagePart, peer: int) -> None:
        self.feed(part, PeerJoined(peer=peer_id(peer)))
        self._relays.joined(part, peer)

    def measure_uplink(self, bytes_per_s: float) -> None:
        """Tells its relays what it takes its uplink for."""
        for part in self.parts:
            self._relays.feed(part, PathMeasured(uplink_bytes_per_s=bytes_per_s))

    @property
    def now(self) -> float:
        """Simulated seconds."""
        return self._world.now

    @property
    def parts(self) -> tuple[ImagePart, ...]:
        """What it holds of each image, in the order of `add_image`."""
        return tuple(self._lanes)

    @property
    def is_done(self) -> bool:
        """Whether all that it wants is complete and verified."""
        return all(
            part.download is None or part.figures.finished_at is not None for part in self.parts
        )

    @property
    def peers(self) -> tuple[int, ...]:
        """Connected peers."""
        return tuple(self._uploads)

    def may_serve(self, peer: int, manifest_id: ManifestId) -> bool:  # noqa: ARG002
        """The rule for a peer; scenarios override it."""
        return True

    def chunk_count(self, manifest_id: ManifestId, component: int) -> int:
        """Chunks of one component of an image it knows."""
        return self._parts[manifest_id].served.possession[component].size

    def outgoing(self, target: int, message: WireMessage) -> Iterable[WireMessage]:  # noqa: ARG002
        """What is really sent instead of a message; honest nodes send it."""
        return (message,)

    def find(self, manifest_id: ManifestId) -> ServedManifest | None:
        """The `Library` of the uploads."""
        part = self._parts.get(manifest_id)
        return None if part is None else part.served

    # Streams -------------------------------------------------------------------------------------

    def connect(self, peer: int) -> None:
        """Opens this side of a stream; the other node must do the same."""
        self._uploads[peer] = Upload(
            peer=peer_id(peer),
            library=self,
            may_serve=lambda manifest_id: self.may_serve(peer, manifest_id),
            turns=self._turns,
        )
        for part in self.parts:
            self._join(part, peer)

    def disconnect(self, peer: int) -> None:
        """Ends this side of a stream."""
        if self._end_upload(peer):
            self._lose(PeerLeft(peer=peer_id(peer)))

    def _end_upload(self, peer: int) -> bool:
        upload = self._uploads.pop(peer, None)
        if upload is None:
            return False
        upload.end()
        return True

    def _lose(self, event: PeerLeft | PeerBanned) -> None:
        for part in self.parts:
            self.feed(part, event)
        self._relays.lost(event)

    def leave(self) -> None:
        """Ends the node; its peers notice that their streams broke."""
        self.is_gone = True
        for peer in self.peers:
            self._hang_up(peer)

    def _hang_up(self, peer: int) -> None:
        self._network.disconnect(self.number, peer)
        self._world.send(self.number, peer, None)

    def cut(self, peer: int, offence: Offence) -> None:
        """Disconnects a peer for an offence, for good."""
        if self._end_upload(peer):
            self.offences.append((peer, offence))
            self._lose(PeerBanned(peer=peer_id(peer)))
            self._hang_up(peer)

    def transmit(self, target: int, message: WireMessage, token: object = None) -> None:
        """Gives a message, or what `outgoing` makes of it, to the link.

        Args:
            target: for whom.
            message: what its machine wants sent.
            token: comes back in `FrameLeft`; None: nobody waits for that.
        """
        for actual in self.outgoing(target, message):
            self._put(target, actual, token)
            token = None
        if token is not None:
            # Swallowed: the machine that sent it must not notice.
            self._world.post(self.number, 0.0, FrameLeft(target, token))

    def postpone(self, target: int, message: WireMessage, delay_s: float) -> None:
        """Gives a message to the link some time later, past `outgoing`."""
        self._world.post(self.number, delay_s, Postponed(target, message))

    def size_of(self, message: WireMessage) -> int:
        """What a message takes on the stream."""
        if isinstance(message, RelayMessage):
            parts = encode_relay(message)
        else:
            parts = encode_exchange_parts(message)
        return _FRAME_HEAD_BYTES + sum(map(len, parts))

    def _put(self, target: int, message: WireMessage, token: object) -> None:
        size = self.size_of(message)
        is_urgent = size <= URGENT_BYTES_MAX and not isinstance(message, Chunks | Push)
        self._network.send(
            self.number, target, message, size_bytes=size, is_urgent=is_urgent, token=token
        )

    # Actor ---------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """When one of the machines wants to be woken."""
        if not self._is_deadline_known:
            self._deadline = None if self.is_gone else self._next_deadline()
            self._is_deadline_known = True
        return self._deadline

    def _next_deadline(self) -> float | None:
        times: list[float | None] = []
        for part in self._lanes:
            if part.download is not None:
                times.append(part.download.deadline)
            if part.relay is not None:
                times.append(part.relay.deadline)
        times.append(self._turns.deadline)
        return min((time for time in times if time is not None), default=None)

    def wake(self, now: float) -> None:
        """Wakes the machines whose time has come."""
        self._is_deadline_known = False
        for part in self._lanes:
            if part.download is not None and is_due(part.download.deadline, now):
                self.feed(part, TimerFired())
            if part.relay is not None and is_due(part.relay.deadline, now):
                self._relays.feed(part, TimerFired())
        self.serve_turns()

    def receive(self, source: int, message: object, now: float) -> None:  # noqa: ARG002
        """Takes a message, or the end of a stream (None)."""
        self._is_deadline_known = False
        if self.is_gone or source not in self._uploads:
            return
        if message is None:
            self.disconnect(source)
            return
        try:
            self._dispatch(source, message)
        except ExchangeOffenceError as error:
            self.cut(source, error.offence)
        except RemoteProtocolError:
            self.cut(source, Offence.MALFORMED)

    def handle(self, event: object, now: float) -> None:  # noqa: ARG002
        """Takes the end of an own operation."""
        self._is_deadline_known = False
        if self.is_gone:
            return
        match event:
            case FrameLeft():
                self._left(event.target, event.token)
            case FrameBlocked():
                if isinstance(event.token, PushToken):
                    self._relays.blocked(event.target, event.token)
            case Write():
                self._write(event.part, event.effect)
            case Taken():
                self._relays.take(event)
            case Done():
                self.feed(event.part, event.event)
            case RoomReady():
                self._prepared(event.part, event.component)
            case Read():
                if self._uploads.get(event.peer) is event.upload:
                    self._feed_upload(event.peer, event.event)
            case TellNews():
                self._tell_news()
            case Postponed():
                self._put(event.target, event.message, None)
            case _:
                raise AssertionError(f"no event of a node: {event!r}")

    def _left(self, target: int, token: object) -> None:
        if isinstance(token, PushToken):
            self._relays.left(target, token)
        elif isinstance(token, int) and target in self._uploads:
            self._feed_upload(target, Flushed(payload_bytes=token))

    def _dispatch(self, source: int, message: object) -> None:
        match message:  # the most frequent first
            case Have() | BitfieldMessage():
                part = self._parts.get(message.manifest_id)
                if part is not None and not self._relays.told(part, source, message):
                    self.feed(part, PeerMessage(peer=peer_id(source), message=message))
            case Request():
                self._feed_upload(source, PeerMessage(peer=peer_id(source), message=message))
                part = self._parts.get(message.manifest_id)
                if part is not None:
                    self._relays.requested(part, source, message)
            case Chunks() | RecipePageMessage() | Reject():
                self._answered(source, message)
            case Push() | Ready() | Credit() | Skip() | Complaint() | News():
                part = self._parts.get(message.manifest_id)
                if part is not None:
                    self._relays.received(part, source, message)
                    if isinstance(message, Ready):
                        held = tuple(number for number, _ in message.roles)
                        self.feed(part, RecipeHeld(peer=peer_id(source), components=held))
            case Interest() | Cancel() | RecipeRequest() | NotInterested():
                self._feed_upload(source, PeerMessage(peer=peer_id(source), message=message))
            case Unknown():
                part = self._parts.get(message.manifest_id)
                if part is not None:
                    self.feed(part, PeerMessage(peer=peer_id(source), message=message))
            case _:
                raise AssertionError(f"no message: {message!r}")

    def _answered(self, source: int, message: Chunks | RecipePageMessage | Reject) -> None:
        """Takes the answer to a request of one of the downloads."""
        number = message.request_id >> LANE_BITS
        part = self._lanes[number] if number < len(self._lanes) else None
        if part is None or part.download is None:
            raise ExchangeOffenceError(Offence.UNSOLICITED, "nothing was asked")
        if isinstance(message, Chunks):
            part.took(source, message.payload_bytes)
        self.feed(part, PeerMessage(peer=peer_id(source), message=message))

    # Machines ------------------------------------------------------------------------------------

    def _feed_upload(self, peer: int, event: UploadInput) -> None:
        for effect in self._uploads[peer].handle(event, self._world.now):
            match effect:
                case Send():
                    self._count_sent(effect.message, effect.served)
                    self.transmit(peer, effect.message, upload_bytes(effect.message) or None)
                case ReadChunks():
                    self._read(peer, self._parts[effect.manifest_id].read(effect))
                case ReadPage():
                    self._read(peer, self._parts[effect.manifest_id].read_page(effect))
                case _:
                    assert_never(effect)
        self.serve_turns()

    def serve_turns(self) -> None:
        """Serves the peers whose turn has come."""
        if self._turns.has_waiting:
            self._is_deadline_known = False
            for peer in self._turns.due(self._world.now):
                number = int.from_bytes(peer, "big")
                if number in self._uploads:
                    self._feed_upload(number, TurnCame())

    def _read(self, peer: int, event: UploadInput) -> None:
        """Hands an upload what was read for it, after the time that reading takes."""
        read = Read(peer, self._uploads[peer], event)
        self._world.post(self.number, self._disk.read_s, read)

    def _count_sent(self, message: ExchangeMessage, served: ManifestId | None) -> None:
        if isinstance(message, Chunks) and served is not None:
            size = message.payload_bytes
            self._parts[served].figures.sent_bytes += size

    def feed(self, part: ImagePart, event: DownloadInput | GateInput) -> None:
        """Feeds the download of an image."""
        self._is_deadline_known = False
        if part.download is not None:
            for effect in part.download.handle(event, self._world.now):
                self._execute(part, effect)

    def _execute(self, part: ImagePart, effect: DownloadEffect) -> None:
        match effect:
            case Send():
                self.transmit(int.from_bytes(effect.peer, "big"), effect.message)
            case WriteChunks():
                self.later(Write(part, effect))
            case VerifyPage():
                self._post_done(part, part.verify_page(effect))
            case PrepareComponent(component=component):
                self._world.post(self.number, self._disk.prepare_s, RoomReady(part, component))
            case ComponentComplete(component=component):
                self._post_done(part, ComponentVerified(component=component))
            case Finished():
                part.figures.finished_at = self._world.now
            case Blame():
                part.blames.append(effect)
                self.cut(int.from_bytes(effect.peer, "big"), effect.offence)
            case Stalled():
                part.stalls.append(int.from_bytes(effect.peer, "big"))
            case _:
                assert_never(effect)

    def later(self, event: object) -> None:
        """Hands an event back after the time that verifying takes."""
        self._world.post(self.number, self._disk.verify_s, event)

    def _prepared(self, part: ImagePart, component: int) -> None:
        part.prepared[component] = None
        # The relay first: what it expects by push is not to be asked for in the same instant.
        self._relays.ready(part, component)
        held = part.served.possession[component].copy()
        self.feed(part, ComponentPrepared(component=component, held=held))

    def _post_done(self, part: ImagePart, event: DownloadInput) -> None:
        self.later(Done(part, event))

    def _write(self, part: ImagePart, effect: WriteChunks) -> None:
        for answer in part.write(effect):
            if isinstance(answer, ChunksStored):
                self._relays.gained(part, effect.component, answer.indices)
            self.feed(part, answer)

    def store_push(self, part: ImagePart, push: Push) -> tuple[list[int], list[int]]:
        """Verifies and stores a push: (indices that are new here, those that lie)."""
        return part.store_push(push)

    def note_news(self, part: ImagePart) -> None:
        """Has new chunks told of soon."""
        if part.has_news and not self._is_news_due:
            self._is_news_due = True
            self._world.post(self.number, NEWS_DELAY_S, TellNews())

    def _tell_news(self) -> None:
        self._is_news_due = False
        for part in self.parts:
            for component, indices in part.take_news():
                news = Acquired(
                    manifest_id=part.release.manifest_id, component=component, indices=indices
                )
                for peer in self.peers:
                    if not self._is_told_by_relay(part, peer):
                        self._feed_upload(peer, news)

    def _is_told_by_relay(self, part: ImagePart, peer: int) -> bool:
        relay = part.relay
        return relay is not None and relay.tells(peer_id(peer))


def is_due(deadline: float | None, now: float) -> bool:
    """Whether a machine wants to be woken by now."""
    return deadline is not None and deadline <= now


def join(
    network: LinkNetwork | FrameNetwork, newcomer: TransferHost, peers: Iterable[TransferHost]
) -> None:
    """Opens streams between a node and others."""
    for peer in peers:
        if peer is not newcomer and not peer.is_gone:
            network.connect(newcomer.number, peer.number)
            newcomer.connect(peer.number)
            peer.connect(newcomer.number)


def upload_bytes(message: ExchangeMessage) -> int:
    """Bytes that an upload counts until they have left."""
    match message:
        case Chunks():
            return message.payload_bytes
        case RecipePageMessage():
            return len(message.page)
        case _:
            return 0
