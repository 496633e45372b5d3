"""The exchange service: fetches authorised manifests from many peers at once, and serves them.

One link (stream) per peer carries both directions; one `Fetch` per manifest being fetched. This
module routes between the tables of both, asks the authority, and ends at once what it no longer
permits.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final, TypeVar

import trio

from chunks.recipe import Recipe
from chunks.store import ChunkStore
from protocol.authorised import AuthorisedManifest
from protocol.digest import Digest, ManifestId
from protocol.errors import StorageError, VerificationError
from protocol.exchange_events import (
    Blame,
    ChunksRead,
    ComponentPrepared,
    Offence,
    Opened,
    PageRead,
    PeerBanned,
    PeerId,
    PeerJoined,
    PeerLeft,
    ReadChunks,
    ReadPage,
    RecipeHeld,
    Send,
    Stalled,
    Withdrawn,
)
from protocol.exchange_messages import BitfieldMessage, ExchangeMessage, Have, Request
from protocol.relay_events import RelaySettings
from protocol.relay_messages import Ready, RelayMessage
from protocol.relay_statistics import RelayStatistics
from protocol.runs import Runs
from protocol.upload import Upload
from swarmd.entropy import Entropy
from swarmd.services.exchange_copies import CopyWatch, CopyWatches
from swarmd.services.exchange_fetch import Fetch, FetchStoppedError
from swarmd.services.exchange_fetches import FetchTable, PickerFactory, rarest_first
from swarmd.services.exchange_library import ServedLibrary
from swarmd.services.exchange_link import PeerLink
from swarmd.services.exchange_links import LinkTable
from swarmd.services.exchange_news import News
from swarmd.services.exchange_packing import Packing, PackingMode, SendMeter
from swarmd.services.exchange_ports import (
    BlockingRunner,
    ExchangeAuthority,
    ExchangeStatistics,
    PeerExchange,
    PeerScore,
    StartedStatus,
    StreamLike,
    StreamOpener,
    TrafficRates,
)
from swarmd.services.exchange_pushed import PushOutcome
from swarmd.services.exchange_relay import RelayDesk
from swarmd.services.exchange_relay_sender import PushSender

logger = logging.getLogger(__name__)

T = TypeVar("T")


SYNCS_MAX: Final = 4
"""Waits for the disk under way at once; each has a thread that does nothing else."""


class _WorkerThreads:
    """Runs calls in worker threads, so many at once."""

    def __init__(self, threads_max: int) -> None:
        self._limiter = trio.CapacityLimiter(threads_max)

    async def __call__(self, call: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(call, limiter=self._limiter)


class ExchangeService:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        own_key: PeerId,
        store: ChunkStore,
        authority: ExchangeAuthority,
        score: PeerScore,
        open_stream: StreamOpener,
        entropy: Entropy,
        make_picker: PickerFactory = rarest_first,
        run_blocking: BlockingRunner | None = None,
        packing: PackingMode = PackingMode.AUTO,
        relays: RelaySettings | None = None,
        traffic: TrafficRates | None = None,
    ) -> None:
        """Wires the service; nothing runs before `run`.

        Args:
            own_key: this node's transport key; breaks ties between streams.
            store: where chunks are read and written, in worker threads.
            authority: what may be served and asked.
            score: told of offences.
            open_stream: opens an exchange stream to a connected peer.
            entropy: lets nodes pick in different orders.
            make_picker: the picking rule.
            run_blocking: runs store calls; by default in worker threads with a limiter of their
                own. A simulation on a virtual clock runs them in place.
            packing: whether chunks are compressed on the wire.
            relays: what this node says of itself to relays; None: it takes part in none.
            traffic: what rates permit; None: no rate is kept.
        """
        self._store = store
        self._authority = authority
        self._score = score
        self._library = ServedLibrary(store, tells_parts=relays is None)
        self._packing = Packing(packing)
        self._run_blocking = run_blocking or _WorkerThreads(os.cpu_count() or 1)
        self._run_syncing = run_blocking or _WorkerThreads(SYNCS_MAX)
        self._links = LinkTable(own_key, open_stream, host=self)
        self._traffic = traffic
        self._fetches = FetchTable(store, entropy, make_picker, traffic)
        self._relays = RelayDesk(
            own_key=own_key,
            settings=relays,
            entropy=entropy,
            store=store,
            library=self._library,
            links=self._links,
            sender=PushSender(self._library, self._packing, self._run_blocking),
            host=self,
        )
        self._news = News(self._links, self._relays.tells)
        self._copies = CopyWatches(self._links, authority.may_ask, self.is_fetching)
        self._repairs: dict[ManifestId, trio.Event] = {}
        self._offering: dict[ManifestId, object] = {}
        self._nursery: trio.Nursery | None = None
        self._blames: dict[Offence, int] = {}
        self._stalls = 0
        self._fetched_bytes = self._reused_bytes = self._patched_bytes = self._sent_bytes = 0

    # Life cycle ----------------------------------------------------------------------------------

    async def run(self, *, task_status: StartedStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Works until cancelled; ready once `task_status` was told."""
        async with trio.open_nursery() as nursery:
            self._nursery = self._links.nursery = nursery
            nursery.start_soon(self._news.run)
            nursery.start_soon(self._relays.run)
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                # Links run on their streams' nurseries: one that ends later opens no other.
                self._nursery = self._links.nursery = None

    def peer_connected(self, peer: PeerId) -> None:
        """Notes that streams to a member can be opened."""
        self._links.connected(peer)

    def peer_disconnected(self, peer: PeerId) -> None:
        """Notes that a peer is gone or suspended: its link ends now."""
        self._fetches.forget_peer(peer)
        self._links.disconnected(peer)

    def pause(self) -> None:
        """Ends all exchange with peers; fetches wait until `resume`."""
        self._links.pause()

    def resume(self) -> None:
        """Exchanges with peers again."""
        self._links.resume()

    def refuse_pushes(self) -> None:
        """Takes only what was asked for from now on, in fetches under way, too."""
        for fetch in self._fetches:
            self._relays.unwelcome(fetch)

    # Fetching and serving ------------------------------------------------------------------------

    async def offer(self, authorised: AuthorisedManifest) -> None:
        """Opens a manifest for serving with what the store holds of it; does not fetch.

        If `stop` is called meanwhile the manifest stays closed.
        """
        manifest_id = authorised.manifest_id
        token = self._offering[manifest_id] = object()
        try:
            possession = await self._run_blocking(
                partial(self._library.read_possession, authorised)
            )
            if self._offering.get(manifest_id) is not token:
                return
        finally:
            if self._offering.get(manifest_id) is token:
                del self._offering[manifest_id]
        self._library.open(authorised, possession)
        for link in self._links:
            link.feed(Opened(manifest_id=manifest_id))

    async def fetch(self, authorised: AuthorisedManifest) -> None:
        """Fetches what is missing of a manifest, serving it on meanwhile and afterwards.

        Cancelling gives the fetch up; what was stored stays for the next time.

        Raises:
            LocalProtocolError: it is being fetched already.
            FetchStoppedError: `stop` was called.
            VerificationError: the manifest contradicts itself.
            StorageError: the store failed; trying again may help.
        """
        while (repair := self._repairs.get(authorised.manifest_id)) is not None:
            await repair.wait()
        await self._fetch(authorised)

    async def _fetch(self, authorised: AuthorisedManifest) -> None:
        fetch = self._fetches.begin(authorised, owner=self)
        try:
            await self.offer(authorised)
            self._relays.fetch_begins(fetch)
            self._links.want_all()
            for link in self._links:
                self._join(fetch, link)
            await fetch.run()
        finally:
            self._relays.fetch_ended(fetch)
            self._fetches.end(fetch)
            self._fetched_bytes += fetch.fetched_bytes
            self._reused_bytes += fetch.reused_bytes
            self._patched_bytes += fetch.patched_bytes

    def stop(self, manifest_id: ManifestId) -> None:
        """Ends serving and fetching of a manifest: nothing new leaves after this returns.

        A frame already handed to a stream may finish within half a second; a stream on which it
        does not is reset. `fetch` raises `FetchStoppedError`.
        """
        self._library.close(manifest_id)
        self._offering.pop(manifest_id, None)
        fetch = self._fetches.get(manifest_id)
        if fetch is not None:
            fetch.stop()
        self._withdraw(manifest_id)

    def is_open(self, manifest_id: ManifestId) -> bool:
        """Whether a manifest is being fetched, is served, or is about to be."""
        is_served = self._library.find(manifest_id) is not None
        return is_served or manifest_id in self._offering or manifest_id in self._fetches

    @property
    def is_busy(self) -> bool:
        """Whether anything is being fetched."""
        return any(True for _ in self._fetches)

    def is_fetching(self, manifest_id: ManifestId) -> bool:
        """Whether a manifest is being fetched or repaired."""
        return manifest_id in self._fetches or manifest_id in self._repairs

    @contextmanager
    def watch_copies(self, authorised: AuthorisedManifest) -> Iterator[CopyWatch]:
        """Has peers tell what they hold of a manifest, within the block."""
        with self._copies.watching(authorised) as watch:
            self._links.want_all()
            yield watch

    def ask_again(self, watch: CopyWatch) -> None:
        """Asks every peer again; call it every `exchange_copies.RENEW_S`."""
        self._copies.renew(watch)
        self._links.want_all()

    def _withdraw(self, manifest_id: ManifestId) -> None:
        self._news.forget(manifest_id)
        self._relays.withdraw(manifest_id)
        for link in self._links:
            link.feed(Withdrawn(manifest_id=manifest_id))
            link.withdraw_in_flight(lambda sending: sending == manifest_id)

    def reevaluate(self) -> None:
        """Asks the authority again about all that is open; call it after each final block."""
        for link in self._links:
            peer = link.peer
            for manifest_id in link.upload.open_manifests:
                if not self._authority.may_serve(peer, manifest_id):
                    link.feed(Withdrawn(manifest_id=manifest_id))
            link.withdraw_in_flight(partial(self._may_not_serve, peer))
            for fetch in self._fetches:
                may_ask = self._authority.may_ask(peer, fetch.authorised.manifest_id)
                if may_ask:
                    self._join(fetch, link)
                elif fetch.machine.has_peer(peer):
                    self._fetches.excuse(peer, self.now())
                    fetch.feed(PeerLeft(peer=peer))
        self._relays.reevaluate()
        self._links.want_all()

    def statistics(self) -> ExchangeStatistics:
        """Counts what was done and describes what is under way."""
        fetches = tuple(self._fetches)
        links = tuple(self._links)
        received = {link.peer: 0 for link in links}
        for fetch in fetches:
            for progress in fetch.machine.statistics().peers:
                if progress.peer in received:
                    received[progress.peer] += progress.received_bytes
        packing = self._packing.statistics()
        return ExchangeStatistics(
            fetched_bytes=self._fetched_bytes + sum(fetch.fetched_bytes for fetch in fetches),
            reused_bytes=self._reused_bytes + sum(fetch.reused_bytes for fetch in fetches),
            patched_bytes=self._patched_bytes + sum(fetch.patched_bytes for fetch in fetches),
            sent_bytes=self._sent_bytes
            + sum(link.upload.sent_bytes for link in links)
            + self._relays.pushed_bytes,
            packed_chunks=packing.packed + packing.reused,
            blames=dict(self._blames),
            stalls=self._stalls,
            fetches=tuple(fetch.progress() for fetch in fetches),
            peers=tuple(
                PeerExchange(
                    peer=link.peer,
                    sent_bytes=link.upload.sent_bytes,
                    received_bytes=received[link.peer],
                    unsent_bytes=link.upload.unsent_bytes,
                )
                for link in links
            ),
        )

    def relay_statistics(self) -> tuple[tuple[ManifestId, RelayStatistics], ...]:
        """Describes the relays that this node takes part in."""
        return self._relays.statistics()

    # Links ---------------------------------------------------------------------------------------

    async def serve_stream(self, stream: StreamLike) -> None:
        """Serves a stream that a peer opened, until it ends."""
        await self._links.run(stream, is_ours=False)

    def is_useful(self, peer: PeerId) -> bool:
        """Whether a fetch or a watch would ask this peer if there were a link."""
        if self._copies.is_useful(peer):
            return True
        return self._relays.is_useful(peer) or any(
            not fetch.machine.is_banned(peer)
            and self._authority.may_ask(peer, fetch.authorised.manifest_id)
            for fetch in self._fetches
        )

    def make_link(self, stream: StreamLike, *, is_ours: bool) -> PeerLink:
        """Wraps a stream, with an upload that asks the authority about its peer."""
        peer = stream.peer
        upload = Upload(
            peer=peer,
            library=self._library,
            may_serve=lambda manifest_id: self._authority.may_serve(peer, manifest_id),
            turns=self._relays.turns,
        )
        return PeerLink(stream, is_ours=is_ours, upload=upload, owner=self)

    def link_begins(self, link: PeerLink) -> None:
        """Has every fetch and every watch ask a new peer."""
        self._copies.link_begins(link)
        for fetch in self._fetches:
            self._join(fetch, link)
        self._relays.link_begins(link)

    def link_left(self, link: PeerLink) -> None:
        """Has nobody wait for a peer whose link was taken out."""
        self._sent_bytes += link.upload.sent_bytes
        link.upload.end()
        for fetch in self._fetches.with_answers_due():
            fetch.feed(PeerLeft(peer=link.peer))
        self._fetches.drop_drained()
        self._relays.link_left(link)

    def link_ended(self, link: PeerLink) -> None:
        """Blames a peer whose link ended by its fault."""
        if link.offence is not None:
            self._blame(link.peer, link.offence.offence, str(link.offence))

    def _join(self, fetch: Fetch, link: PeerLink) -> None:
        machine, peer = fetch.machine, link.peer
        if machine.has_peer(peer) or machine.is_banned(peer) or link.is_closed:
            return
        if self._authority.may_ask(peer, fetch.authorised.manifest_id):
            fetch.feed(PeerJoined(peer=peer))

    def _blame(self, peer: PeerId, offence: Offence, detail: str) -> None:
        self._blames[offence] = self._blames.get(offence, 0) + 1
        logger.warning("peer %s: %s: %s", peer[:4].hex(), offence.value, detail[:200])
        self._score.blame(peer, offence, detail)

    # Owner of links ------------------------------------------------------------------------------

    def held_back_s(self, peer: PeerId, size_bytes: int) -> float:
        """How long this node's own rates may hold a frame back, seconds."""
        if self._traffic is None:
            return 0.0
        return self._traffic.frame_s(peer, size_bytes, links=len(tuple(self._links)))

    def now(self) -> float:
        """Seconds, monotonic."""
        return trio.current_time()

    def may_serve(self, peer: PeerId, manifest_id: ManifestId) -> bool:
        """Whether the manifest is open here and the peer may be served it now."""
        return self._library.find(manifest_id) is not None and self._authority.may_serve(
            peer, manifest_id
        )

    def _may_not_serve(self, peer: PeerId, manifest_id: ManifestId) -> bool:
        return not self.may_serve(peer, manifest_id)

    def may_relay(self, peer: PeerId, manifest_id: ManifestId) -> bool:
        """Whether a peer may take part in a manifest's relay: be told of it, served, and asked."""
        return self.may_serve(peer, manifest_id) and self._authority.may_ask(peer, manifest_id)

    def take_relayed(self, peer: PeerId, message: RelayMessage) -> None:
        """Routes a relay message; who says that it takes part holds the recipe."""
        self._relays.take(peer, message)
        if isinstance(message, Ready) and message.roles:
            fetch = self._fetches.get(message.manifest_id)
            if fetch is not None:
                held = tuple(number for number, _ in message.roles)
                fetch.feed(RecipeHeld(peer=peer, components=held))

    def serve_turns(self) -> None:
        """Has the peers served for whose turn has come."""
        self._relays.serve_turns()

    def note_request(self, peer: PeerId, message: Request) -> None:
        """Lets a relay know what need not be pushed."""
        self._relays.requested(peer, message)

    def blame_relay(self, peer: PeerId, offence: Offence, detail: str) -> None:
        """Scores a peer for what it did in a relay, and ends its link."""
        for fetch in self._fetches:
            fetch.feed(PeerBanned(peer=peer))
        self._blame(peer, offence, detail)
        link = self._links.get(peer)
        if link is not None:
            link.close()

    def found_rot(self, authorised: AuthorisedManifest, number: int, indices: Runs) -> None:
        """Has chunks fetched again that a relay found rotten."""
        self._on_rot(authorised, number, tuple(indices))

    def take_answer(self, peer: PeerId, message: ExchangeMessage) -> None:
        """Routes an answer or possession news to the relay or the download it concerns."""
        self._copies.note(peer, message)
        if isinstance(message, Have | BitfieldMessage) and self._relays.take_possession(
            peer, message
        ):
            return
        self._fetches.take_answer(peer, message, self.now())

    async def read_chunks(self, effect: ReadChunks, meter: SendMeter) -> ChunksRead:
        """Reads chunks for an upload; rot is reported and fetched again."""
        authorised = self._library.authorised(effect.manifest_id)
        if authorised is None:
            return ChunksRead.of(effect.request_id, [(index, None) for index in effect.indices])
        image = authorised.manifest.objects[effect.component].digest
        packer = self._packing.packer_for(meter)
        outcome = await self._run_blocking(
            partial(self._library.read_chunks, effect, image, packer)
        )
        if outcome.rotten:
            self._on_rot(authorised, effect.component, tuple(outcome.rotten))
        return outcome.answer

    async def read_page(self, effect: ReadPage) -> PageRead:
        """Reads a recipe page for an upload."""
        authorised = self._library.authorised(effect.manifest_id)
        page = None
        if authorised is not None:
            component = authorised.manifest.objects[effect.component]
            page = await self._run_blocking(partial(self._library.read_page, effect, component))
        return PageRead(request_id=effect.request_id, page=page)

    def _on_rot(
        self, authorised: AuthorisedManifest, component: int, indices: Sequence[int]
    ) -> None:
        """Stops claiming rotten chunks and has them fetched again."""
        logger.warning(
            "manifest %s: %d chunks rotted", authorised.manifest_id.hex()[:8], len(indices)
        )
        self._library.lost(authorised.manifest_id, component, indices)
        self._relays.lost(authorised.manifest_id, component, indices)
        fetch = self._fetches.get(authorised.manifest_id)
        if fetch is not None:
            fetch.lost_chunks(component, indices)
        elif self._nursery is not None:
            self._nursery.start_soon(self._repair, authorised)

    def lost_chunks(self, image: Digest, indices: Sequence[int]) -> ManifestId | None:
        """Has chunks fetched again that were found rotten by somebody else than a reader.

        Returns:
            A manifest that is open and names the image; None if nobody serves or fetches it.
        """
        concerned: ManifestId | None = None
        for authorised in self._library.opened():
            for number, one in enumerate(authorised.manifest.objects):
                if one.digest == image:
                    concerned = authorised.manifest_id
                    self._on_rot(authorised, number, indices)
        return concerned

    async def _repair(self, authorised: AuthorisedManifest) -> None:
        """Fetches what rotted; one repair of a manifest at a time, none after `stop`."""
        manifest_id = authorised.manifest_id
        is_open = self._library.authorised(manifest_id) is not None
        if not is_open or manifest_id in self._fetches or manifest_id in self._repairs:
            return
        over = self._repairs[manifest_id] = trio.Event()
        try:
            await self._fetch(authorised)
        except FetchStoppedError:
            return
        except (StorageError, VerificationError) as error:
            logger.warning("manifest %s: repair: %s", manifest_id.hex()[:8], error)
        finally:
            del self._repairs[manifest_id]
            over.set()

    # Owner of fetches ----------------------------------------------------------------------------

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Runs blocking work where it blocks nobody."""
        return await self._run_blocking(call)

    async def in_sync_thread(self, call: Callable[[], T]) -> T:
        """Runs work that waits for the disk without keeping others from theirs."""
        return await self._run_syncing(call)

    def fetch_effect(self, fetch: Fetch, effect: Send | Blame | Stalled) -> None:
        """Executes an effect of a download that concerns peers."""
        match effect:
            case Send():
                link = self._links.get(effect.peer)
                if link is not None:
                    link.send(effect)
            case Blame():
                self._relays.banned(fetch.authorised.manifest_id, effect.peer)
                self._blame(
                    effect.peer,
                    effect.offence,
                    f"manifest {fetch.authorised.manifest_id.hex()[:8]} component "
                    f"{effect.component} position {effect.position}: {effect.detail}",
                )
            case Stalled():
                self._stalls += 1
                self._score.stalled(effect.peer)

    def fetch_gained(self, fetch: Fetch, component: int, indices: Runs) -> None:
        """Makes chunks servable and tells interested peers soon."""
        manifest_id = fetch.authorised.manifest_id
        self._library.gained(manifest_id, component, indices)
        self._news.note(manifest_id, component, indices)
        self._relays.gained(manifest_id, component, indices)

    def fetch_lost(self, fetch: Fetch, component: int, indices: Sequence[int]) -> None:
        """Takes back rotten chunks."""
        self._library.lost(fetch.authorised.manifest_id, component, indices)
        self._relays.lost(fetch.authorised.manifest_id, component, indices)

    def fetch_lacks(self, fetch: Fetch, component: int, indices: Runs) -> bool:
        """Whether any of these chunks cannot be served from here."""
        served = self._library.find(fetch.authorised.manifest_id)
        return served is None or bool(indices.bits & ~served.possession[component].bits)

    def fetch_prepared(self, fetch: Fetch, event: ComponentPrepared, recipe: Recipe) -> None:
        """Welcomes pushes of an object, unless every byte is to be asked for: a rate says so, or
        much comes in.
        """
        is_complete = event.held.bits.bit_count() == len(recipe.lengths)
        is_welcome = fetch.takes_pushes and (self._traffic is None or self._traffic.takes_pushes)
        if is_complete or is_welcome:
            self._relays.prepared(fetch, event.component, recipe, event.held)

    def fetch_dropped(self, fetch: Fetch, component: int) -> None:
        """Welcomes no more pushes of an object."""
        self._relays.dropped(fetch, component)

    def fetch_is_fast(self, fetch: Fetch) -> None:
        """Welcomes no more pushes: asking costs less where links are fast."""
        self._relays.unwelcome(fetch)

    def fetch_pushed(self, fetch: Fetch, outcome: PushOutcome) -> None:
        """Keeps what was pushed, for whom it is passed on to, or blames who pushed it."""
        self._relays.pushed(fetch, outcome)
