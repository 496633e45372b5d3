"""The relays of the exchange service: which manifests are relayed with whom, and their effects.

A manifest has a relay while it is fetched here, and as long as peers take part in it; the first
READY of a permitted peer begins it at a holder. Only peers that the authority permits both to be
served and to be asked take part, and it is asked again at every message and every re-evaluation.
All relays share one scheduler, which hands out pushes as links take them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

import trio

from chunks.recipe import Recipe
from chunks.store import ChunkStore
from protocol.authorised import AuthorisedManifest
from protocol.bitfield import Bitfield
from protocol.digest import Digest, ManifestId
from protocol.errors import EncodingError, StorageError
from protocol.exchange_events import (
    ExchangeOffenceError,
    ObjectDropped,
    Offence,
    PeerBanned,
    PeerId,
    PeerJoined,
    PeerLeft,
    Send,
    Stop,
    TimerFired,
    TurnCame,
)
from protocol.exchange_messages import BitfieldMessage, Have, Request
from protocol.relay import Relay
from protocol.relay_events import (
    ChunksDropped,
    ChunksGained,
    ObjectReady,
    PeerGained,
    PeerPossession,
    PeerRequested,
    PullFreed,
    PushRefused,
    RelayInput,
    RelayReceived,
    RelaySettings,
    SendPush,
)
from protocol.relay_messages import Ready, RelayMessage
from protocol.relay_scheduler import RelayScheduler
from protocol.relay_statistics import RelayStatistics
from protocol.runs import Runs
from protocol.upload_turns import UploadTurns
from swarmd.entropy import Entropy
from swarmd.services.exchange_fetch import Fetch
from swarmd.services.exchange_library import ServedLibrary
from swarmd.services.exchange_link import PeerLink
from swarmd.services.exchange_links import LinkTable
from swarmd.services.exchange_pushed import PushOutcome
from swarmd.services.exchange_relay_effects import RelayEffects
from swarmd.services.exchange_relay_host import RelayHost
from swarmd.services.exchange_relay_seat import RelaySeat, priority_of
from swarmd.services.exchange_relay_sender import PushSender
from swarmd.services.exchange_relay_uplink import RelayUplink

logger = logging.getLogger(__name__)

SEATS_MAX: Final = 64
"""Manifests relayed at once; of others nothing is relayed here."""
IDLE_S: Final = 60.0
"""A relay that nobody receives by, of a manifest that is not fetched, ends after this, seconds."""
WELCOMES_MAX: Final = 256
"""Manifests remembered of a peer whose pushes were welcome on its link, so that late ones are no
offence; the oldest is forgotten first."""
TICK_S: Final = 0.016
"""How late a deadline of a relay may be met, seconds: below what any of them must be exact to."""
_ENTROPY_BOUND: Final = 2**62


class RelayDesk:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        own_key: PeerId,
        settings: RelaySettings | None,
        entropy: Entropy,
        store: ChunkStore,
        library: ServedLibrary,
        links: LinkTable,
        sender: PushSender,
        host: RelayHost,
    ) -> None:
        """Starts without relays.

        Args:
            own_key: this node's transport key.
            settings: what this node says of itself; None: it relays nothing and takes no pushes.
            entropy: lets nodes choose differently.
            store: knows the recipes of what is held.
            library: what may be served.
            links: the peers.
            sender: reads and packs what is pushed.
            host: the service.
        """
        self._own_key = own_key
        self._settings = settings
        self._entropy = entropy
        self._store = store
        self._library = library
        self._links = links
        self._sender = sender
        self._host = host
        self._effects = RelayEffects(
            links=links, library=library, sender=sender, host=host, on_left=self._left
        )
        self._scheduler = RelayScheduler()
        self._seats: dict[ManifestId, RelaySeat] = {}
        self._welcomed: dict[PeerId, dict[ManifestId, None]] = {}
        self._nursery: trio.Nursery | None = None
        self._changed = trio.Event()
        self._is_pumping = False
        self.turns: Final = UploadTurns(lambda: self._scheduler.is_pressing)
        """Who is answered when: behind fresh units, and by need."""
        self._uplink = RelayUplink(links)

    # Life cycle ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keeps the relays' time until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = self._effects.nursery = nursery
            try:
                while True:
                    self._changed = trio.Event()
                    with trio.move_on_at(self._next_at()):
                        await self._changed.wait()
                    self._wake()
                    # Much happens in little time: deadlines are looked at once for all of it.
                    wanted_at = trio.current_time() + TICK_S
                    await trio.sleep_until(wanted_at)
                    for seat in self._seats.values():
                        seat.relay.host_late(trio.current_time() - wanted_at)
            finally:
                self._nursery = self._effects.nursery = None

    def _next_at(self) -> float:
        times = [seat.relay.deadline for seat in self._seats.values()]
        times += [seat.idle_until for seat in self._seats.values()]
        times += [self._sender.blocked_at, *self._uplink.deadlines, self.turns.deadline]
        return min((time for time in times if time is not None), default=float("inf"))

    def _wake(self) -> None:
        now = self._host.now()
        for peer in self._sender.take_blocked(now):
            self._scheduler.push_blocked(peer)
        for seat in tuple(self._seats.values()):
            deadline = seat.relay.deadline
            if deadline is not None and deadline <= now:
                self._feed(seat, TimerFired())
            if seat.idle_until is not None and seat.idle_until <= now:
                self._end_if_idle(seat, now)
        self._pump()
        self._uplink.wake(now)

    # Seats ---------------------------------------------------------------------------------------

    def statistics(self) -> tuple[tuple[ManifestId, RelayStatistics], ...]:
        """What each relay has done and does."""
        return tuple((key, seat.relay.statistics()) for key, seat in self._seats.items())

    @property
    def pushed_bytes(self) -> int:
        """Chunk bytes handed to links in pushes, since the start."""
        return self._sender.pushed_bytes

    def _open(self, authorised: AuthorisedManifest, *, is_fetched: bool) -> RelaySeat | None:
        """The relay of a manifest, begun if there is none yet and room for one."""
        seat = self._seats.get(authorised.manifest_id)
        if seat is not None or self._settings is None:
            return seat
        if len(self._seats) >= SEATS_MAX and not (is_fetched and self._make_room()):
            return None
        relay = Relay(
            manifest_id=authorised.manifest_id,
            own_key=self._own_key,
            chunk_counts=[item.chunk_count for item in authorised.manifest.objects],
            settings=self._settings,
            entropy=self._entropy.uint(_ENTROPY_BOUND),
        )
        seat = RelaySeat(authorised, relay, idle_until=self._host.now() + IDLE_S)
        self._seats[authorised.manifest_id] = seat
        self._scheduler.add(relay, priority=priority_of(authorised))
        for link in self._links:
            self._join(seat, link)
        return seat

    def _make_room(self) -> bool:
        """Ends the relay of something that is not fetched here: what is fetched comes first."""
        for seat in self._seats.values():
            if seat.fetch is None:
                self._close(seat)
                return True
        return False

    def _close(self, seat: RelaySeat) -> None:
        for link in self._links:
            self._note_welcome(seat, link.peer)
        self._feed(seat, Stop())
        seat.is_closed = True
        self._seats.pop(seat.manifest_id, None)
        self._scheduler.remove(seat.manifest_id)
        self._sender.forget(seat.images)
        self._changed.set()

    def _end_if_idle(self, seat: RelaySeat, now: float) -> None:
        seat.idle_until = now + IDLE_S
        if seat.fetch is None and not seat.relay.statistics().receivers:
            self._close(seat)

    def _join(self, seat: RelaySeat, link: PeerLink) -> None:
        relay, peer = seat.relay, link.peer
        if link.is_closed or relay.has_peer(peer) or seat.is_closed:
            return
        if self._host.may_relay(peer, seat.manifest_id):
            self._feed(seat, PeerJoined(peer=peer))
            self._scheduler.joined(relay, peer)

    # Fetches -------------------------------------------------------------------------------------

    def fetch_begins(self, fetch: Fetch) -> None:
        """Takes part in the relay of what is fetched."""
        seat = self._open(fetch.authorised, is_fetched=True)
        if seat is not None:
            seat.fetch = fetch

    def fetch_ended(self, fetch: Fetch) -> None:
        """Welcomes no more pushes of what is not fetched any more; goes on giving what is held."""
        seat = self._seats.get(fetch.authorised.manifest_id)
        if seat is not None and seat.fetch is fetch:
            seat.fetch = None
            for number in range(len(seat.images)):
                self._feed(seat, ObjectDropped(component=number))

    def prepared(self, fetch: Fetch, number: int, recipe: Recipe, held: Bitfield) -> None:
        """Welcomes pushes of an object, or gives it away if it is complete."""
        seat = self._seats.get(fetch.authorised.manifest_id)
        if seat is not None:
            self._ready(seat, number, recipe, held)

    def _ready(self, seat: RelaySeat, number: int, recipe: Recipe, held: Bitfield) -> None:
        self._feed(seat, ObjectReady(object_number=number, lengths=recipe.lengths, held=held.bits))

    def dropped(self, fetch: Fetch, number: int) -> None:
        """Welcomes no more pushes of an object that is not wanted any more."""
        seat = self._seats.get(fetch.authorised.manifest_id)
        if seat is not None:
            self._feed(seat, ObjectDropped(component=number))

    def unwelcome(self, fetch: Fetch) -> None:
        """Welcomes no more pushes of a fetch, which goes on by asking everybody, seeders too."""
        seat = self._seats.get(fetch.authorised.manifest_id)
        if seat is None or seat.fetch is not fetch:
            return
        for number in range(len(seat.images)):
            self._feed(seat, ObjectDropped(component=number))
            fetch.feed(PullFreed(object_number=number))
        # What a relay is told of possession is less than what a download must know.
        for link in self._links:
            if fetch.machine.has_peer(link.peer):
                link.send(Send(peer=link.peer, message=fetch.machine.interest))

    def gained(self, manifest_id: ManifestId, number: int, indices: Runs) -> None:
        """Tells what was verified."""
        seat = self._seats.get(manifest_id)
        if seat is not None:
            self._feed(seat, ChunksGained(object_number=number, indices=indices))

    def lost(self, manifest_id: ManifestId, number: int, indices: Iterable[int]) -> None:
        """Takes back what rotted."""
        seat = self._seats.get(manifest_id)
        if seat is not None:
            self._sender.forget((seat.images[number],))
            self._feed(seat, ChunksDropped(object_number=number, indices=indices))

    def pushed(self, fetch: Fetch, outcome: PushOutcome) -> None:
        """Tells what became of a push."""
        manifest_id, taken = fetch.authorised.manifest_id, outcome.taken
        self._keep(fetch, outcome)
        seat = self._seats.get(manifest_id)
        if seat is None:
            return
        number = taken.push.object_number
        for index, detail in outcome.refused:
            self._feed(seat, PushRefused(peer=taken.peer, object_number=number, index=index))
            self._ban(seat, taken.peer)
            where = f"manifest {manifest_id.hex()[:8]} object {number} chunk {index}"
            self._host.blame_relay(taken.peer, Offence.CORRUPT_CHUNK, f"push, {where}: {detail}")
            return
        written = outcome.written
        if written is None or written.full:
            chunks = taken.push.chunks
            indices = range(chunks[0].index, chunks[0].index + len(chunks))
            lacking = [index for index in indices if not self._holds(seat, number, index)]
            self._feed(seat, ChunksDropped(object_number=number, indices=lacking))

    def _keep(self, fetch: Fetch, outcome: PushOutcome) -> None:
        """Keeps what was verified in memory, for whom it is passed on to."""
        image = fetch.authorised.manifest.objects[outcome.taken.push.object_number].digest
        if outcome.written is not None and not outcome.refused:
            self._sender.keep(image, outcome.taken.push)

    def _holds(self, seat: RelaySeat, number: int, index: int) -> bool:
        served = self._library.find(seat.manifest_id)
        return served is not None and index in served.possession[number]

    # Peers ---------------------------------------------------------------------------------------

    def link_begins(self, link: PeerLink) -> None:
        """Has a new peer take part where it may."""
        for seat in tuple(self._seats.values()):
            self._join(seat, link)

    def link_left(self, link: PeerLink) -> None:
        """Forgets a peer."""
        self._scheduler.left(link.peer)
        self._sender.left(link.peer)
        for seat in tuple(self._seats.values()):
            self._leave(seat, link.peer)
        self._welcomed.pop(link.peer, None)
        self._pump()

    def _note_welcome(self, seat: RelaySeat, peer: PeerId) -> None:
        """Remembers that a peer whose part ends here may have pushes on their way."""
        if seat.relay.has_peer(peer):
            welcomed = self._welcomed.setdefault(peer, {})
            welcomed[seat.manifest_id] = None
            if len(welcomed) > WELCOMES_MAX:
                del welcomed[next(iter(welcomed))]

    def _leave(self, seat: RelaySeat, peer: PeerId) -> None:
        if seat.relay.has_peer(peer):
            self._feed(seat, PeerLeft(peer=peer))

    def banned(self, manifest_id: ManifestId, peer: PeerId) -> None:
        """Puts a peer out of a relay that gave a bad chunk to a request."""
        seat = self._seats.get(manifest_id)
        if seat is not None:
            self._ban(seat, peer)

    def _ban(self, seat: RelaySeat, peer: PeerId) -> None:
        self._feed(seat, PeerBanned(peer=peer))

    def withdraw(self, manifest_id: ManifestId) -> None:
        """Ends a relay at once: its queues are dropped."""
        seat = self._seats.get(manifest_id)
        if seat is not None:
            self._close(seat)

    def reevaluate(self) -> None:
        """Asks the authority again about all who take part."""
        for seat in tuple(self._seats.values()):
            for link in self._links:
                if self._host.may_relay(link.peer, seat.manifest_id):
                    self._join(seat, link)
                else:
                    self._note_welcome(seat, link.peer)
                    self._leave(seat, link.peer)

    def is_useful(self, peer: PeerId) -> bool:
        """Whether a link to a peer would serve a relay that has receivers."""
        return any(
            seat.relay.is_seeding and self._host.may_relay(peer, seat.manifest_id)
            for seat in self._seats.values()
        )

    def take(self, peer: PeerId, message: RelayMessage) -> None:
        """Takes a relay message; who may not take part is not answered (G8).

        Raises:
            ExchangeOffenceError: the peer broke the protocol.
        """
        if not self._host.may_relay(peer, message.manifest_id):
            return
        seat = self._seats.get(message.manifest_id)
        if seat is None and isinstance(message, Ready):
            seat = self._begin_as_holder(message.manifest_id)
        if seat is None:
            return
        link = self._links.get(peer)
        if link is not None:
            self._join(seat, link)
        try:
            self._feed(seat, RelayReceived(peer=peer, message=message))
        except ExchangeOffenceError as error:
            was_welcome = message.manifest_id in self._welcomed.get(peer, {})
            if error.offence is Offence.UNSOLICITED and was_welcome:
                return  # pushed before it heard that the welcome is over
            self._ban(seat, peer)
            raise

    def _begin_as_holder(self, manifest_id: ManifestId) -> RelaySeat | None:
        authorised = self._library.authorised(manifest_id)
        if authorised is None or self._nursery is None:
            return None
        seat = self._open(authorised, is_fetched=False)
        if seat is not None:
            self._nursery.start_soon(self._tell_held, seat)
        return seat

    async def _tell_held(self, seat: RelaySeat) -> None:
        """Readies the objects that are complete here."""
        served = self._library.find(seat.manifest_id)
        objects = seat.authorised.manifest.objects
        for number, item in enumerate(objects):
            if served is None or not served.possession[number].is_full:
                continue

            def read(image: Digest = item.digest) -> Recipe | None:
                try:
                    return self._store.recipe(image)
                except StorageError:
                    return None

            recipe = await self._host.in_thread(read)
            is_open = not seat.is_closed and seat.fetch is None
            if recipe is not None and recipe.root == item.recipe_root and is_open:
                self._ready(seat, number, recipe, served.possession[number])

    def take_possession(self, peer: PeerId, message: Have | BitfieldMessage) -> bool:
        """Takes possession news where a relay judges it.

        Returns:
            Whether the relay passes on what the download may know of it.

        Raises:
            ExchangeOffenceError: a claim outside the manifest.
        """
        seat = self._seats.get(message.manifest_id)
        if seat is None or not seat.relay.has_peer(peer):
            return False
        number = message.component
        if number >= len(seat.images):
            raise ExchangeOffenceError(Offence.MALFORMED, f"a claim of object {number}")
        count = seat.authorised.manifest.objects[number].chunk_count
        if isinstance(message, Have):
            if message.indices.last >= count:
                raise ExchangeOffenceError(Offence.MALFORMED, f"a claim of {message.indices.last}")
            event: RelayInput = PeerGained(peer=peer, object_number=number, indices=message.indices)
        else:
            try:
                bits = Bitfield.decode(message.bits, count).bits
            except EncodingError as error:
                raise ExchangeOffenceError(Offence.MALFORMED, str(error)) from error
            event = PeerPossession(peer=peer, object_number=number, bits=bits)
        is_judged = seat.relay.is_receiving(number)
        self._feed(seat, event)
        return is_judged

    def requested(self, peer: PeerId, message: Request) -> None:
        """Notes that the peer's upload answers a request."""
        seat = self._seats.get(message.manifest_id)
        if seat is None or not seat.relay.has_peer(peer) or message.component >= len(seat.images):
            return
        if message.indices.last < seat.authorised.manifest.objects[message.component].chunk_count:
            event = PeerRequested(
                peer=peer, object_number=message.component, indices=message.indices
            )
            self._feed(seat, event)

    def tells(self, manifest_id: ManifestId, peer: PeerId) -> bool:
        """Whether a relay tells the peer what is gained."""
        seat = self._seats.get(manifest_id)
        return seat is not None and seat.relay.tells(peer)

    def serve_turns(self) -> None:
        """Has the peers read for whose turn has come."""
        if self.turns.has_waiting:
            for peer in self.turns.due(self._host.now()):
                link = self._links.get(peer)
                if link is not None:
                    link.feed(TurnCame())
            self._changed.set()

    # Effects -------------------------------------------------------------------------------------

    def _feed(self, seat: RelaySeat, event: RelayInput) -> None:
        if seat.is_closed:
            return
        for effect in seat.relay.handle(event, self._host.now()):
            self._effects.execute(seat, effect)
        self._pump()
        self._changed.set()

    def _pump(self) -> None:
        """Hands out the pushes that there are slots for."""
        if self._is_pumping:
            return
        self._is_pumping = True
        try:
            self._hand_out()
        finally:
            self._is_pumping = False
        self.serve_turns()

    def _hand_out(self) -> None:
        if not self._scheduler.open_slots or not self._has_work:
            return
        now = self._host.now()
        known_deadlines = self._uplink.deadlines
        room_bytes = self._uplink.room_bytes(self._scheduler.under_way_bytes, now)
        if self._uplink.deadlines != known_deadlines:
            self._changed.set()
        is_idle = self._uplink.is_drained
        for relay, effect in self._scheduler.next_effects(now, room_bytes, is_idle=is_idle):
            if isinstance(effect, SendPush):
                self._uplink.handed_out(effect.size_bytes)
            seat = self._seats.get(relay.manifest_id)
            if seat is not None:
                self._effects.execute(seat, effect)
                self._changed.set()

    @property
    def _has_work(self) -> bool:
        return any(seat.relay.has_work for seat in self._seats.values())

    def _left(self, peer: PeerId) -> None:
        """The transport took a push, or it was not made."""
        self._sender.left(peer)
        self._scheduler.push_sent(peer)
        self._pump()
