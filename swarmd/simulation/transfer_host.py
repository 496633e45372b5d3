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

from protocol.bitfield import Bitfield
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
    RecipeKnown,
    Send,
    Stalled,
    TimerFired,
    UploadInput,
    VerifyPage,
    WriteChunk,
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
from protocol.relay import Relay
from protocol.relay_events import (
    AskPossession,
    BlameRelay,
    ChunksGained,
    ObjectReady,
    PeerClaims,
    PeerClaimsObject,
    PeerGained,
    PeerPossession,
    PeerRequested,
    PullFreed,
    PullGated,
    PullOpened,
    PushRefused,
    RelayEffect,
    RelayInput,
    RelayReceived,
    RelaySettings,
    SendPossession,
    SendPush,
    SendRelay,
    TakePush,
)
from protocol.relay_messages import (
    Complaint,
    Credit,
    News,
    Push,
    PushedChunk,
    Ready,
    RelayMessage,
    Skip,
    encode_relay,
)
from protocol.relay_scheduler import RelayScheduler
from protocol.upload import ServedManifest, Upload
from swarmd.simulation.exchange_host import SimulatedRelease, peer_id
from swarmd.simulation.links import FrameBlocked, FrameLeft, LinkNetwork, NodeLink
from swarmd.simulation.transfer_part import ImagePart
from swarmd.simulation.world import World

_FRAME_HEAD_BYTES: Final = 4
"""The length in front of each frame."""
_URGENT_BYTES_MAX: Final = 2048
"""Frames up to this size take no turn of their own on the uplink: they fit a packet or two."""
WireMessage = ExchangeMessage | RelayMessage
"""What travels between nodes."""
NEWS_DELAY_S: Final = 0.05
"""How long news of chunks is gathered, seconds (exchange.md, X47)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """How long a node's own operations take."""

    verify_s: float = 0.002
    """From a chunk's arrival until it is verified and may be served, seconds."""
    read_s: float = 0.0
    """From the wish to send chunks until they are read, seconds."""


@dataclass(frozen=True, slots=True)
class _Done:
    """A storage operation of a download is over."""

    part: ImagePart
    event: DownloadInput


@dataclass(frozen=True, slots=True)
class _Read:
    """A storage operation of an upload is over."""

    peer: int
    event: UploadInput


@dataclass(frozen=True, slots=True)
class _Write:
    """The time that verifying a chunk takes is over."""

    part: ImagePart
    effect: WriteChunk


@dataclass(frozen=True, slots=True)
class _Ready:
    """Room for a component is there: the relay may know of it."""

    part: ImagePart
    component: int


@dataclass(frozen=True, slots=True)
class _Take:
    """The time that verifying a push takes is over."""

    part: ImagePart
    effect: TakePush


@dataclass(slots=True, eq=False)
class _PushToken:
    """Stands for one push under way."""


@dataclass(frozen=True, slots=True)
class _Postponed:
    """A message that misbehaviour held back."""

    target: int
    message: WireMessage


@dataclass(frozen=True, slots=True)
class _TellNews:
    """The moment for gathered news has come."""


class TransferHost:
    """See the module's docstring. Make it, add images, then `join` its peers."""

    def __init__(
        self,
        world: World,
        network: LinkNetwork,
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
        self._settings = relays
        self._scheduler = RelayScheduler()
        self._world = world
        self._network = network
        self._disk = disk or Disk()
        self._uploads: dict[int, Upload] = {}
        self._parts: dict[ManifestId, ImagePart] = {}
        self._is_news_due = False
        self._under_way: dict[int, _PushToken] = {}
        self.link: Final = link
        """How the node is attached."""
        self.is_gone = False
        """Whether it left."""
        self.offences: Final[list[tuple[int, Offence]]] = []
        """Whom it disconnected for breaking the protocol."""
        self.number: Final = world.add(self)
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
        part = ImagePart(
            release,
            lane=len(self._parts),
            held=held,
            wants=wants,
            entropy=self._world.random.getrandbits(64),
            relay=self._make_relay(release),
            now=self._world.now,
        )
        self._parts[release.manifest_id] = part
        if part.relay is not None:
            self._scheduler.add(part.relay, priority=priority)
        for peer in self.peers:
            self._join(part, peer)
        for component, chunks in enumerate(release.components):
            if part.download is None:
                self._ready(part, component)
            elif knows_recipe:
                lengths = [len(chunk) for chunk in chunks]
                self._feed(part, RecipeKnown(component=component, lengths=lengths))
        return part

    def _make_relay(self, release: SimulatedRelease) -> Relay | None:
        if self._settings is None:
            return None
        return Relay(
            manifest_id=release.manifest_id,
            own_key=peer_id(self.number),
            chunk_counts=[len(chunks) for chunks in release.components],
            settings=self._settings,
            entropy=self._world.random.getrandbits(64),
        )

    def _join(self, part: ImagePart, peer: int) -> None:
        joined = PeerJoined(peer=peer_id(peer))
        self._feed(part, joined)
        self._feed_relay(part, joined)
        if part.relay is not None:
            self._scheduler.joined(part.relay, joined.peer)

    def _ready(self, part: ImagePart, component: int) -> None:
        """Tells the relay that a component's recipe and room are there."""
        lengths = [len(chunk) for chunk in part.release.components[component]]
        held = part.served.possession[component].bits
        part.relayed[component] = None
        self._feed_relay(part, ObjectReady(object_number=component, lengths=lengths, held=held))

    @property
    def parts(self) -> tuple[ImagePart, ...]:
        """What it holds of each image, in the order of `add_image`."""
        return tuple(self._parts.values())

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
        )
        for part in self.parts:
            self._join(part, peer)

    def disconnect(self, peer: int) -> None:
        """Ends this side of a stream."""
        if self._uploads.pop(peer, None) is not None:
            self._lose(PeerLeft(peer=peer_id(peer)))

    def _lose(self, event: PeerLeft | PeerBanned) -> None:
        self._scheduler.left(event.peer)
        for part in self.parts:
            self._feed(part, event)
            self._feed_relay(part, event)

    def leave(self) -> None:
        """Ends the node; its peers notice that their streams broke."""
        self.is_gone = True
        for peer in self.peers:
            self._hang_up(peer)

    def _hang_up(self, peer: int) -> None:
        self._network.disconnect(self.number, peer)
        self._world.send(self.number, peer, None)

    def _cut(self, peer: int, offence: Offence) -> None:
        if self._uploads.pop(peer, None) is not None:
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
        self._world.post(self.number, delay_s, _Postponed(target, message))

    def _put(self, target: int, message: WireMessage, token: object) -> None:
        if isinstance(message, RelayMessage):
            parts = encode_relay(message)
        else:
            parts = encode_exchange_parts(message)
        size = _FRAME_HEAD_BYTES + sum(map(len, parts))
        is_urgent = size <= _URGENT_BYTES_MAX and not isinstance(message, Chunks | Push)
        self._network.send(
            self.number, target, message, size_bytes=size, is_urgent=is_urgent, token=token
        )

    # Actor ---------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """When one of the machines wants to be woken."""
        if self.is_gone:
            return None
        times: list[float | None] = []
        for part in self.parts:
            if part.download is not None:
                times.append(part.download.deadline)
            if part.relay is not None:
                times.append(part.relay.deadline)
        return min((time for time in times if time is not None), default=None)

    def wake(self, now: float) -> None:
        """Wakes the machines whose time has come."""
        for part in self.parts:
            if part.download is not None and _is_due(part.download.deadline, now):
                self._feed(part, TimerFired())
            if part.relay is not None and _is_due(part.relay.deadline, now):
                self._feed_relay(part, TimerFired())

    def receive(self, source: int, message: object, now: float) -> None:  # noqa: ARG002
        """Takes a message, or the end of a stream (None)."""
        if self.is_gone or source not in self._uploads:
            return
        if message is None:
            self.disconnect(source)
            return
        try:
            self._dispatch(source, message)
        except ExchangeOffenceError as error:
            self._cut(source, error.offence)
        except RemoteProtocolError:
            self._cut(source, Offence.MALFORMED)

    def handle(self, event: object, now: float) -> None:  # noqa: ARG002
        """Takes the end of an own operation."""
        if self.is_gone:
            return
        match event:
            case FrameLeft():
                self._left(event.target, event.token)
            case FrameBlocked():
                if isinstance(event.token, _PushToken):
                    self._scheduler.push_blocked(peer_id(event.target))
                    self._pump()
            case _Write():
                self._write(event.part, event.effect)
            case _Take():
                self._take(event.part, event.effect)
            case _Done():
                self._feed(event.part, event.event)
            case _Ready():
                self._ready(event.part, event.component)
            case _Read():
                if event.peer in self._uploads:
                    self._feed_upload(event.peer, event.event)
            case _TellNews():
                self._tell_news()
            case _Postponed():
                self._put(event.target, event.message, None)
            case _:
                raise AssertionError(f"no event of a node: {event!r}")

    def _left(self, target: int, token: object) -> None:
        if isinstance(token, _PushToken):
            if token is self._under_way.get(target):
                del self._under_way[target]
                self._scheduler.push_sent(peer_id(target))
                self._pump()
        elif isinstance(token, int) and target in self._uploads:
            self._feed_upload(target, Flushed(payload_bytes=token))

    def _dispatch(self, source: int, message: object) -> None:
        match message:
            case Request():
                self._feed_upload(source, PeerMessage(peer=peer_id(source), message=message))
                self._note_request(source, message)
            case Push() | Ready() | Credit() | Skip() | Complaint() | News():
                part = self._parts.get(message.manifest_id)
                if part is not None:
                    if isinstance(message, Push):
                        part.took(source, sum(len(chunk.data) for chunk in message.chunks))
                    self._feed_relay(part, RelayReceived(peer=peer_id(source), message=message))
            case Interest() | Cancel() | RecipeRequest() | NotInterested():
                self._feed_upload(source, PeerMessage(peer=peer_id(source), message=message))
            case Chunks() | RecipePageMessage() | Reject():
                number = message.request_id >> LANE_BITS
                if number >= len(self._parts) or self.parts[number].download is None:
                    raise ExchangeOffenceError(Offence.UNSOLICITED, "nothing was asked")
                if isinstance(message, Chunks):
                    size = sum(len(data) for _, data in message.chunks)
                    self.parts[number].took(source, size)
                self._feed(self.parts[number], PeerMessage(peer=peer_id(source), message=message))
            case BitfieldMessage() | Have() | Unknown():
                part = self._parts.get(message.manifest_id)
                if part is not None and not self._tell_relay(part, source, message):
                    self._feed(part, PeerMessage(peer=peer_id(source), message=message))
            case _:
                raise AssertionError(f"no message: {message!r}")

    def _tell_relay(
        self, part: ImagePart, source: int, message: BitfieldMessage | Have | Unknown
    ) -> bool:
        """Lets the relay judge possession news; tells whether the download hears of it that way."""
        relay = part.relay
        if relay is None or isinstance(message, Unknown):
            return False
        number, peer = message.component, peer_id(source)
        size = part.served.possession[number].size
        event: PeerPossession | PeerGained
        if isinstance(message, BitfieldMessage):
            bits = Bitfield.decode(message.bits, size).bits
            event = PeerPossession(peer=peer, object_number=number, bits=bits)
        else:
            event = PeerGained(peer=peer, object_number=number, indices=message.indices)
        self._feed_relay(part, event)
        return number in part.relayed

    def _note_request(self, source: int, message: Request) -> None:
        part = self._parts.get(message.manifest_id)
        if part is not None:
            self._feed_relay(
                part,
                PeerRequested(
                    peer=peer_id(source),
                    object_number=message.component,
                    indices=message.indices,
                ),
            )

    # Machines ------------------------------------------------------------------------------------

    def _feed_upload(self, peer: int, event: UploadInput) -> None:
        for effect in self._uploads[peer].handle(event, self._world.now):
            match effect:
                case Send():
                    self._count_sent(effect.message, effect.served)
                    self.transmit(peer, effect.message, _upload_bytes(effect.message) or None)
                case ReadChunks():
                    read: UploadInput = self._parts[effect.manifest_id].read(effect)
                    self._world.post(self.number, self._disk.read_s, _Read(peer, read))
                case ReadPage():
                    read = self._parts[effect.manifest_id].read_page(effect)
                    self._world.post(self.number, self._disk.read_s, _Read(peer, read))
                case _:
                    assert_never(effect)

    def _count_sent(self, message: ExchangeMessage, served: ManifestId | None) -> None:
        if isinstance(message, Chunks) and served is not None:
            size = sum(len(data) for _, data in message.chunks)
            self._parts[served].figures.sent_bytes += size

    def _feed(
        self, part: ImagePart, event: DownloadInput | PullGated | PullOpened | PullFreed
    ) -> None:
        if part.download is not None:
            for effect in part.download.handle(event, self._world.now):
                self._execute(part, effect)

    def _execute(self, part: ImagePart, effect: DownloadEffect) -> None:
        match effect:
            case Send():
                self.transmit(int.from_bytes(effect.peer, "big"), effect.message)
            case WriteChunk():
                self._world.post(self.number, self._disk.verify_s, _Write(part, effect))
            case VerifyPage():
                self._post_done(part, part.verify_page(effect))
            case PrepareComponent(component=component):
                held = part.served.possession[component].copy()
                self._post_done(part, ComponentPrepared(component=component, held=held))
                self._world.post(self.number, self._disk.verify_s, _Ready(part, component))
            case ComponentComplete(component=component):
                self._post_done(part, ComponentVerified(component=component))
            case Finished():
                part.figures.finished_at = self._world.now
            case Blame():
                part.blames.append(effect)
                self._cut(int.from_bytes(effect.peer, "big"), effect.offence)
            case Stalled():
                part.stalls.append(int.from_bytes(effect.peer, "big"))
            case _:
                assert_never(effect)

    def _post_done(self, part: ImagePart, event: DownloadInput) -> None:
        self._world.post(self.number, self._disk.verify_s, _Done(part, event))

    # Relay ---------------------------------------------------------------------------------------

    def _feed_relay(self, part: ImagePart, event: RelayInput) -> None:
        if part.relay is not None:
            for effect in part.relay.handle(event, self._world.now):
                self._execute_relay(part, effect)
            self._pump()

    def _pump(self) -> None:
        """Hands out the pushes that there are slots for."""
        if not self.is_gone:
            for relay, effect in self._scheduler.next_effects(self._world.now):
                self._execute_relay(self._parts[relay.manifest_id], effect)

    def _execute_relay(self, part: ImagePart, effect: RelayEffect) -> None:
        match effect:
            case SendRelay():
                self.transmit(int.from_bytes(effect.peer, "big"), effect.message)
            case SendPush():
                self._push(part, effect)
            case TakePush():
                self._world.post(self.number, self._disk.verify_s, _Take(part, effect))
            case PullGated() | PullOpened() | PullFreed():
                self._feed(part, effect)
            case SendPossession() | AskPossession():
                self._speak_of_possession(part, effect)
            case PeerClaims() | PeerClaimsObject():
                self._pass_possession(part, effect)
            case BlameRelay():
                self._cut(int.from_bytes(effect.peer, "big"), effect.offence)
            case _:
                assert_never(effect)

    def _speak_of_possession(self, part: ImagePart, effect: SendPossession | AskPossession) -> None:
        """Tells a peer what is held here, or asks what it holds."""
        message: WireMessage
        if isinstance(effect, SendPossession):
            held = part.served.possession[effect.object_number].encode()
            message = part.bitfield(effect.object_number, held)
        else:
            message = Interest(
                manifest_id=part.release.manifest_id,
                components=tuple(
                    number
                    for number, possession in enumerate(part.served.possession)
                    if not possession.is_full
                ),
            )
        self.transmit(int.from_bytes(effect.peer, "big"), message)

    def _pass_possession(self, part: ImagePart, effect: PeerClaims | PeerClaimsObject) -> None:
        """Tells the download what a peer holds."""
        if part.download is None or not part.download.has_peer(effect.peer):
            return
        messages: list[BitfieldMessage | Have]
        if isinstance(effect, PeerClaims):
            messages = part.haves(effect.runs)
        else:
            size = part.served.possession[effect.object_number].size
            bits = Bitfield(size, effect.bits).encode()
            messages = [part.bitfield(effect.object_number, bits)]
        for message in messages:
            self._feed(part, PeerMessage(peer=effect.peer, message=message))

    def _push(self, part: ImagePart, effect: SendPush) -> None:
        target = int.from_bytes(effect.peer, "big")
        indices = range(effect.first_index, effect.first_index + effect.count)
        chunks = [(index, part.chunk(effect.object_number, index)) for index in indices]
        token = self._under_way[target] = _PushToken()
        message = Push(
            manifest_id=effect.manifest_id,
            object_number=effect.object_number,
            flags=effect.flags,
            delegates=effect.delegates,
            chunks=tuple(
                PushedChunk(index=index, data=data) for index, data in chunks if data is not None
            ),
        )
        assert len(message.chunks) == effect.count, "only what is held is pushed"
        part.figures.sent_bytes += effect.size_bytes
        self.transmit(target, message, token)

    def _take(self, part: ImagePart, effect: TakePush) -> None:
        """Verifies and stores a push whose time has come."""
        number = effect.push.object_number
        fresh, bad = part.store_push(effect.push)
        if fresh:
            self._gained(part, number, fresh)
            self._feed(part, ChunksStored(component=number, indices=(), gained=fresh))
        if bad:
            refused = PushRefused(peer=effect.peer, object_number=number, index=bad[0])
            self._feed_relay(part, refused)
            self._cut(int.from_bytes(effect.peer, "big"), Offence.CORRUPT_CHUNK)

    def _write(self, part: ImagePart, effect: WriteChunk) -> None:
        answer = part.write(effect)
        if isinstance(answer, ChunksStored):
            self._gained(part, effect.component, answer.indices)
        self._feed(part, answer)

    def _gained(self, part: ImagePart, component: int, indices: Sequence[int]) -> None:
        self._feed_relay(part, ChunksGained(object_number=component, indices=indices))
        self._note_news(part)

    def _note_news(self, part: ImagePart) -> None:
        if part.has_news and not self._is_news_due:
            self._is_news_due = True
            self._world.post(self.number, NEWS_DELAY_S, _TellNews())

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
        return relay is not None and relay.tells_news and relay.has_peer(peer_id(peer))


def _is_due(deadline: float | None, now: float) -> bool:
    return deadline is not None and deadline <= now


def join(network: LinkNetwork, newcomer: TransferHost, peers: Iterable[TransferHost]) -> None:
    """Opens streams between a node and others."""
    for peer in peers:
        if peer is not newcomer and not peer.is_gone:
            network.connect(newcomer.number, peer.number)
            newcomer.connect(peer.number)
            peer.connect(newcomer.number)


def _upload_bytes(message: ExchangeMessage) -> int:
    """Bytes that an upload counts until they have left."""
    match message:
        case Chunks():
            return sum(len(data) for _, data in message.chunks)
        case RecipePageMessage():
            return len(message.page)
        case _:
            return 0
