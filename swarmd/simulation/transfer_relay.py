"""The relays of a simulated node: feeds the machines and executes what they want.

Beside `TransferHost`, which owns streams, uploads and downloads. All images of a node share one
`RelayScheduler`, as in the daemon.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, assert_never

from protocol.bitfield import Bitfield
from protocol.exchange_events import (
    ChunksStored,
    DownloadInput,
    Offence,
    PeerBanned,
    PeerJoined,
    PeerLeft,
    PeerMessage,
)
from protocol.exchange_messages import BitfieldMessage, ExchangeMessage, Have, Interest, Request
from protocol.relay import Relay
from protocol.relay_events import (
    AskPossession,
    ChunksDropped,
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
from protocol.relay_messages import Push, PushedChunk, RelayMessage
from protocol.relay_scheduler import RelayScheduler
from swarmd.simulation.exchange_host import SimulatedRelease, peer_id
from swarmd.simulation.transfer_part import ImagePart

WireMessage = ExchangeMessage | RelayMessage
"""What travels between nodes."""
GateInput = PullGated | PullOpened | PullFreed
"""What a relay tells a download."""


class RelayOwner(Protocol):
    """The node, as its relays see it."""

    @property
    def number(self) -> int:
        """The node's number in the world."""
        ...

    @property
    def is_gone(self) -> bool:
        """Whether it left."""
        ...

    @property
    def now(self) -> float:
        """Simulated seconds."""
        ...

    def transmit(self, target: int, message: WireMessage, token: object = None) -> None:
        """Gives a message to the link; the token comes back when it has left."""
        ...

    def feed(self, part: ImagePart, event: DownloadInput | GateInput) -> None:
        """Feeds the download of an image."""
        ...

    def later(self, event: object) -> None:
        """Hands an event back after the time that verifying takes."""
        ...

    def store_push(self, part: ImagePart, push: Push) -> tuple[list[int], list[int]]:
        """Verifies and stores a push: (indices that are new here, those that lie)."""
        ...

    def cut(self, peer: int, offence: Offence) -> None:
        """Disconnects a peer for an offence, for good."""
        ...

    def serve_turns(self) -> None:
        """Serves the peers whose turn has come."""
        ...

    def note_news(self, part: ImagePart) -> None:
        """Has new chunks told of soon."""
        ...


@dataclass(frozen=True, slots=True)
class Taken:
    """The time that verifying a push takes is over."""

    part: ImagePart
    effect: TakePush


@dataclass(slots=True, eq=False)
class PushToken:
    """Stands for one push under way."""


class RelayDesk:
    """See the module's docstring."""

    def __init__(self, owner: RelayOwner, settings: RelaySettings | None) -> None:
        """Starts without images; without settings nothing is relayed."""
        self._owner = owner
        self._settings = settings
        self._scheduler = RelayScheduler()
        self._parts: dict[Relay, ImagePart] = {}
        self._under_way: dict[int, PushToken] = {}

    @property
    def is_pushing(self) -> bool:
        """Whether pushes wait for the uplink."""
        return self._scheduler.is_pressing

    def make(self, release: SimulatedRelease, entropy: int) -> Relay | None:
        """Makes the relay of an image."""
        if self._settings is None:
            return None
        return Relay(
            manifest_id=release.manifest_id,
            own_key=peer_id(self._owner.number),
            chunk_counts=[len(chunks) for chunks in release.components],
            settings=self._settings,
            entropy=entropy,
        )

    def add(self, part: ImagePart, priority: int) -> None:
        """Begins to schedule an image's pushes."""
        if part.relay is not None:
            self._parts[part.relay] = part
            self._scheduler.add(part.relay, priority=priority)

    # Inputs --------------------------------------------------------------------------------------

    def joined(self, part: ImagePart, peer: int) -> None:
        """A peer may be relayed with."""
        if part.relay is not None:
            self.feed(part, PeerJoined(peer=peer_id(peer)))
            self._scheduler.joined(part.relay, peer_id(peer))

    def lost(self, event: PeerLeft | PeerBanned) -> None:
        """A peer left or was banned."""
        self._under_way.pop(int.from_bytes(event.peer, "big"), None)
        self._scheduler.left(event.peer)
        for part in self._parts.values():
            self.feed(part, event)

    def ready(self, part: ImagePart, component: int) -> None:
        """Tells the relay that a component's recipe and room are there."""
        lengths = [len(chunk) for chunk in part.release.components[component]]
        held = part.served.possession[component].bits
        part.relayed[component] = None
        self.feed(part, ObjectReady(object_number=component, lengths=lengths, held=held))

    def received(self, part: ImagePart, source: int, message: RelayMessage) -> None:
        """Takes a relay message."""
        if isinstance(message, Push):
            part.took(source, sum(len(chunk.data) for chunk in message.chunks))
        self.feed(part, RelayReceived(peer=peer_id(source), message=message))

    def told(self, part: ImagePart, source: int, message: BitfieldMessage | Have) -> bool:
        """Lets the relay judge possession news; tells whether the download hears of it that way."""
        if part.relay is None:
            return False
        number, peer = message.component, peer_id(source)
        event: PeerPossession | PeerGained
        if isinstance(message, BitfieldMessage):
            bits = Bitfield.decode(message.bits, part.served.possession[number].size).bits
            event = PeerPossession(peer=peer, object_number=number, bits=bits)
        else:
            event = PeerGained(peer=peer, object_number=number, indices=tuple(message.indices))
        self.feed(part, event)
        return number in part.relayed

    def requested(self, part: ImagePart, source: int, message: Request) -> None:
        """Notes what the upload is about to answer."""
        if part.relay is None:
            return
        event = PeerRequested(
            peer=peer_id(source), object_number=message.component, indices=tuple(message.indices)
        )
        self.feed(part, event)

    def gained(self, part: ImagePart, component: int, indices: Iterable[int]) -> None:
        """Notes chunks that are verified, however they came."""
        if part.relay is not None:
            self.feed(part, ChunksGained(object_number=component, indices=indices))
        self._owner.note_news(part)

    def left(self, target: int, token: PushToken) -> None:
        """A push has left the uplink."""
        if token is self._under_way.get(target):
            del self._under_way[target]
            self._scheduler.push_sent(peer_id(target))
            self._pump()

    def blocked(self, target: int, token: PushToken) -> None:
        """A push waits for the window of its flow."""
        if token is self._under_way.get(target):
            self._scheduler.push_blocked(peer_id(target))
            self._pump()

    def take(self, taken: Taken) -> None:
        """Verifies and stores a push whose time has come."""
        part, push, peer = taken.part, taken.effect.push, taken.effect.peer
        number = push.object_number
        fresh, bad = self._owner.store_push(part, push)
        if fresh:
            self.gained(part, number, fresh)
            self._owner.feed(part, ChunksStored(component=number, indices=(), gained=fresh))
        if bad:
            self.feed(part, PushRefused(peer=peer, object_number=number, index=bad[0]))
            self._owner.cut(int.from_bytes(peer, "big"), Offence.CORRUPT_CHUNK)

    def dropped(self, part: ImagePart, component: int, indices: Iterable[int]) -> None:
        """Notes that pushed chunks found no room."""
        self.feed(part, ChunksDropped(object_number=component, indices=indices))

    def feed(self, part: ImagePart, event: RelayInput) -> None:
        """Feeds the relay of an image."""
        if part.relay is not None:
            for effect in _merge_claims(part.relay.handle(event, self._owner.now)):
                self._execute(part, effect)
            self._pump()

    # Effects -------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Hands out the pushes that there are slots for."""
        if not self._owner.is_gone:
            for relay, effect in self._scheduler.next_effects(self._owner.now):
                self._execute(self._parts[relay], effect)
            self._owner.serve_turns()

    def _execute(self, part: ImagePart, effect: RelayEffect) -> None:
        match effect:
            case SendRelay():
                self._owner.transmit(int.from_bytes(effect.peer, "big"), effect.message)
            case SendPush():
                self._push(part, effect)
            case TakePush():
                self._owner.later(Taken(part, effect))
            case PullGated() | PullOpened() | PullFreed():
                self._owner.feed(part, effect)
            case SendPossession() | AskPossession():
                self._speak_of_possession(part, effect)
            case PeerClaims() | PeerClaimsObject():
                self._pass_possession(part, effect)
            case _:
                assert_never(effect)

    def _speak_of_possession(self, part: ImagePart, effect: SendPossession | AskPossession) -> None:
        """Tells a peer what is held here, or asks what it holds."""
        message: WireMessage
        if isinstance(effect, SendPossession):
            held = part.served.possession[effect.object_number].encode()
            message = part.bitfield(effect.object_number, held)
        else:
            components = tuple(
                number
                for number, possession in enumerate(part.served.possession)
                if not possession.is_full
            )
            if not components:
                return
            message = Interest(manifest_id=part.release.manifest_id, components=components)
        self._owner.transmit(int.from_bytes(effect.peer, "big"), message)

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
            self._owner.feed(part, PeerMessage(peer=effect.peer, message=message))

    def _push(self, part: ImagePart, effect: SendPush) -> None:
        target = int.from_bytes(effect.peer, "big")
        indices = range(effect.first_index, effect.first_index + effect.count)
        chunks = [(index, part.chunk(effect.object_number, index)) for index in indices]
        token = self._under_way[target] = PushToken()
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
        self._owner.transmit(target, message, token)


def _merge_claims(effects: list[RelayEffect]) -> list[RelayEffect]:
    """Makes one of claims that follow each other: news of many runs is one input of a download."""
    if len(effects) < 2:
        return effects
    merged: list[RelayEffect] = []
    for effect in effects:
        last = merged[-1] if merged else None
        if (
            isinstance(effect, PeerClaims)
            and isinstance(last, PeerClaims)
            and last.peer == effect.peer
        ):
            merged[-1] = PeerClaims(peer=last.peer, runs=(*last.runs, *effect.runs))
        else:
            merged.append(effect)
    return merged
