"""The exchange service: fetches authorised manifests from many peers at once, and serves them.

One link (stream) per peer carries both directions; one `Fetch` per manifest being fetched. This
module routes between them, opens links when a fetch needs them, tells interested peers what became
servable, and ends at once what the authority no longer permits.

Two streams to one peer: the one opened by the smaller key stays; of two opened by the same side the
newer stays, because the older is what a restart left behind.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import trio

from chunks.store import ChunkStore
from protocol.authorised import AuthorisedManifest
from protocol.digest import ManifestId
from protocol.download import Download
from protocol.download_board import ByteBudget
from protocol.download_requests import LANE_BITS
from protocol.errors import LocalProtocolError, StorageError, TransportError, VerificationError
from protocol.exchange_events import (
    Acquired,
    Blame,
    ChunksRead,
    ExchangeOffenceError,
    Offence,
    Opened,
    PageRead,
    PeerBanned,
    PeerId,
    PeerJoined,
    PeerLeft,
    PeerMessage,
    ReadChunks,
    ReadPage,
    Send,
    Stalled,
    Withdrawn,
)
from protocol.exchange_messages import (
    BitfieldMessage,
    Chunks,
    ExchangeMessage,
    Have,
    RecipePageMessage,
    Reject,
    Unknown,
)
from protocol.picker import Picker, RarestFirst
from protocol.upload import Upload
from swarmd.entropy import Entropy
from swarmd.services.exchange_fetch import Fetch, FetchStoppedError
from swarmd.services.exchange_library import ServedLibrary
from swarmd.services.exchange_link import PeerLink
from swarmd.services.exchange_ports import (
    BlockingRunner,
    ExchangeAuthority,
    ExchangeStatistics,
    PeerExchange,
    PeerScore,
    StartedStatus,
    StreamLike,
    StreamOpener,
)

logger = logging.getLogger(__name__)

HAVE_DELAY_S: Final = 0.05
"""How long news of verified chunks is gathered before it is told, seconds."""
REOPEN_S_START: Final = 0.5
"""First pause before a link that ended is opened again, seconds; doubles each time."""
REOPEN_S_MAX: Final = 30.0
"""Longest pause before a link is opened again, seconds."""
EXCUSED_S: Final = 30.0
"""How long a peer that may not be taken from any more may still send what it was asked, seconds."""
_ENTROPY_BOUND: Final = 2**64

T = TypeVar("T")

PickerFactory = Callable[[int, int], Picker]
"""Makes a picking rule for (chunk count, entropy)."""


def rarest_first(size: int, entropy: int) -> Picker:
    """The default picking rule."""
    return RarestFirst(size=size, entropy=entropy)


class _WorkerThreads:
    """Runs calls in worker threads, as many at once as there are processors."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(os.cpu_count() or 1)

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
        """
        self._own_key = own_key
        self._store = store
        self._authority = authority
        self._score = score
        self._open_stream = open_stream
        self._entropy = entropy
        self._make_picker = make_picker
        self._library = ServedLibrary(store)
        self._run_blocking = run_blocking or _WorkerThreads()
        self._budget = ByteBudget()
        self._connected: dict[PeerId, None] = {}
        self._opening: dict[PeerId, None] = {}
        self._links: dict[PeerId, PeerLink] = {}
        self._excused: dict[PeerId, float] = {}
        self._fetches: dict[ManifestId, Fetch] = {}
        self._lanes: dict[int, Fetch] = {}
        self._repairs: dict[ManifestId, trio.Event] = {}
        self._offering: dict[ManifestId, object] = {}
        self._next_lane = 1
        self._news: dict[tuple[ManifestId, int], dict[int, None]] = {}
        self._news_added = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._blames: dict[Offence, int] = {}
        self._stalls = 0
        self._fetched_bytes = self._reused_bytes = self._sent_bytes = 0

    # Life cycle ----------------------------------------------------------------------------------

    async def run(self, *, task_status: StartedStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Works until cancelled; ready once `task_status` was told."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._tell_news)
            task_status.started()

    def peer_connected(self, peer: PeerId) -> None:
        """Notes that streams to a member can be opened."""
        self._connected[peer] = None
        self._want_link(peer)

    def peer_disconnected(self, peer: PeerId) -> None:
        """Notes that a peer is gone or suspended: its link ends now."""
        self._connected.pop(peer, None)
        self._excused.pop(peer, None)
        link = self._links.get(peer)
        if link is not None:
            link.close()

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
        for link in tuple(self._links.values()):
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
        manifest_id = authorised.manifest_id
        if manifest_id in self._fetches:
            raise LocalProtocolError(f"manifest {manifest_id.hex()[:8]} is being fetched already")
        fetch = self._make_fetch(authorised)
        try:
            await self.offer(authorised)
            for peer in self._connected:
                self._want_link(peer)
            for link in tuple(self._links.values()):
                self._join(fetch, link)
            await fetch.run()
        finally:
            self._fetches.pop(manifest_id, None)
            fetch.stop()
            self._fetched_bytes += fetch.fetched_bytes
            self._reused_bytes += fetch.reused_bytes
            self._drop_drained_lanes()

    def _make_fetch(self, authorised: AuthorisedManifest) -> Fetch:
        lane, self._next_lane = self._next_lane, self._next_lane + 1
        counts = [component.chunk_count for component in authorised.manifest.components]
        machine = Download(
            manifest_id=authorised.manifest_id,
            chunk_counts=counts,
            picker=self._make_picker(sum(counts), self._entropy.uint(_ENTROPY_BOUND)),
            lane=lane,
            budget=self._budget,
        )
        fetch = Fetch(authorised, machine=machine, store=self._store, owner=self)
        self._fetches[authorised.manifest_id] = fetch
        self._lanes[lane] = fetch
        return fetch

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

    def _withdraw(self, manifest_id: ManifestId) -> None:
        self._news = {key: news for key, news in self._news.items() if key[0] != manifest_id}
        for link in tuple(self._links.values()):
            link.feed(Withdrawn(manifest_id=manifest_id))
            link.withdraw_in_flight(lambda sending: sending == manifest_id)

    def reevaluate(self) -> None:
        """Asks the authority again about all that is open; call it after each final block."""
        for link in tuple(self._links.values()):
            peer = link.peer
            for manifest_id in link.upload.open_manifests:
                if not self._authority.may_serve(peer, manifest_id):
                    link.feed(Withdrawn(manifest_id=manifest_id))
            link.withdraw_in_flight(partial(self._may_not_serve, peer))
            for fetch in tuple(self._fetches.values()):
                may_ask = self._authority.may_ask(peer, fetch.authorised.manifest_id)
                if may_ask:
                    self._join(fetch, link)
                elif fetch.machine.has_peer(peer):
                    self._excused[peer] = self.now() + EXCUSED_S
                    fetch.feed(PeerLeft(peer=peer))
        for peer in self._connected:
            self._want_link(peer)

    def statistics(self) -> ExchangeStatistics:
        """Counts what was done and describes what is under way."""
        fetches = tuple(self._fetches.values())
        links = tuple(self._links.values())
        received = dict.fromkeys(self._links, 0)
        for fetch in fetches:
            for progress in fetch.machine.statistics().peers:
                if progress.peer in received:
                    received[progress.peer] += progress.received_bytes
        return ExchangeStatistics(
            fetched_bytes=self._fetched_bytes + sum(fetch.fetched_bytes for fetch in fetches),
            reused_bytes=self._reused_bytes + sum(fetch.reused_bytes for fetch in fetches),
            sent_bytes=self._sent_bytes + sum(link.upload.sent_bytes for link in links),
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

    # Links ---------------------------------------------------------------------------------------

    async def serve_stream(self, stream: StreamLike) -> None:
        """Serves a stream that a peer opened, until it ends."""
        await self._run_link(stream, is_ours=False)

    def _want_link(self, peer: PeerId) -> None:
        """Opens a link to a connected peer if a fetch could use it and there is none."""
        if self._nursery is None or peer in self._links or peer in self._opening:
            return
        if peer in self._connected and self._is_useful(peer):
            self._opening[peer] = None
            self._nursery.start_soon(self._open_link, peer)

    def _is_useful(self, peer: PeerId) -> bool:
        return any(
            not fetch.machine.is_banned(peer) and self._authority.may_ask(peer, manifest_id)
            for manifest_id, fetch in self._fetches.items()
        )

    async def _open_link(self, peer: PeerId) -> None:
        pause_s = REOPEN_S_START
        try:
            while peer in self._connected and peer not in self._links and self._is_useful(peer):
                try:
                    stream = await self._open_stream(peer)
                except TransportError as error:
                    logger.debug("no exchange stream to %s: %s", peer[:4].hex(), error)
                else:
                    started_at = trio.current_time()
                    await self._run_link(stream, is_ours=True)
                    if trio.current_time() - started_at > REOPEN_S_MAX:
                        pause_s = REOPEN_S_START
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, REOPEN_S_MAX)
        finally:
            self._opening.pop(peer, None)

    async def _run_link(self, stream: StreamLike, *, is_ours: bool) -> None:
        peer = stream.peer
        present = self._links.get(peer)
        if present is not None:
            keeps_present = present.is_ours != is_ours and present.is_ours == (self._own_key < peer)
            if keeps_present:
                await stream.reset()
                return
            self._detach(present)
            present.close()
        upload = Upload(
            peer=peer,
            library=self._library,
            may_serve=lambda manifest_id: self._authority.may_serve(peer, manifest_id),
        )
        link = PeerLink(stream, is_ours=is_ours, upload=upload, owner=self)
        self._links[peer] = link
        for fetch in tuple(self._fetches.values()):
            self._join(fetch, link)
        try:
            await link.run()
        finally:
            self._detach(link)
            if link.offence is not None:
                self._blame(peer, link.offence.offence, str(link.offence))
            self._want_link(peer)

    def _detach(self, link: PeerLink) -> None:
        """Takes a link out of everything; may be called twice."""
        if self._links.get(link.peer) is not link:
            return
        del self._links[link.peer]
        self._sent_bytes += link.upload.sent_bytes
        for fetch in tuple(self._lanes.values()):
            fetch.feed(PeerLeft(peer=link.peer))
        self._drop_drained_lanes()

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

    def take_answer(self, peer: PeerId, message: ExchangeMessage) -> None:
        """Routes an answer or possession news to the download it concerns."""
        match message:
            case Chunks() | RecipePageMessage() | Reject():
                fetch = self._lanes.get(message.request_id >> LANE_BITS)
                if fetch is None:
                    raise ExchangeOffenceError(
                        Offence.UNSOLICITED, f"no request {message.request_id} is open"
                    )
            case Have() | BitfieldMessage() | Unknown():
                fetch = self._fetches.get(message.manifest_id)
                if fetch is None or not fetch.machine.has_peer(peer):
                    # Sent before the peer saw that this node is not interested any more.
                    return
            case _:
                raise LocalProtocolError(f"{type(message).__name__} is no answer")
        machine = fetch.machine
        if not machine.has_peer(peer):
            if machine.is_banned(peer) or self.now() < self._excused.get(peer, 0.0):
                return  # it could not know: what is on its way is no offence, and thrown away
            raise ExchangeOffenceError(Offence.UNSOLICITED, "the peer was asked nothing of this")
        try:
            fetch.feed(PeerMessage(peer=peer, message=message))
        except ExchangeOffenceError:
            fetch.feed(PeerBanned(peer=peer))
            raise
        if machine.is_drained:
            self._drop_drained_lanes()

    def _drop_drained_lanes(self) -> None:
        """Forgets ended downloads that no answer can concern any more."""
        live = tuple(self._fetches.values())
        self._lanes = {
            lane: fetch
            for lane, fetch in self._lanes.items()
            if fetch in live or not fetch.machine.is_drained
        }

    async def read_chunks(self, effect: ReadChunks) -> ChunksRead:
        """Reads chunks for an upload; rot is reported and fetched again."""
        authorised = self._library.authorised(effect.manifest_id)
        if authorised is None:
            gone = tuple((index, None) for index in effect.indices)
            return ChunksRead(request_id=effect.request_id, chunks=gone)
        image = authorised.manifest.components[effect.component].digest
        outcome = await self._run_blocking(partial(self._library.read_chunks, effect, image))
        if outcome.rotten:
            self._on_rot(authorised, effect.component, outcome.rotten)
        return ChunksRead(request_id=effect.request_id, chunks=outcome.chunks)

    async def read_page(self, effect: ReadPage) -> PageRead:
        """Reads a recipe page for an upload."""
        authorised = self._library.authorised(effect.manifest_id)
        page = None
        if authorised is not None:
            component = authorised.manifest.components[effect.component]
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
        fetch = self._fetches.get(authorised.manifest_id)
        if fetch is not None:
            fetch.lost_chunks(component, indices)
        elif self._nursery is not None:
            self._nursery.start_soon(self._repair, authorised)

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

    async def in_thread(self, call: Callable[[], object]) -> None:
        """Runs blocking work where it blocks nobody."""
        await self._run_blocking(call)

    def fetch_effect(self, fetch: Fetch, effect: Send | Blame | Stalled) -> None:
        """Executes an effect of a download that concerns peers."""
        match effect:
            case Send():
                link = self._links.get(effect.peer)
                if link is not None:
                    link.send(effect)
            case Blame():
                self._blame(
                    effect.peer,
                    effect.offence,
                    f"manifest {fetch.authorised.manifest_id.hex()[:8]} component "
                    f"{effect.component} position {effect.position}: {effect.detail}",
                )
            case Stalled():
                self._stalls += 1
                self._score.stalled(effect.peer)

    def fetch_gained(self, fetch: Fetch, component: int, indices: Sequence[int]) -> None:
        """Makes chunks servable and tells interested peers soon."""
        manifest_id = fetch.authorised.manifest_id
        self._library.gained(manifest_id, component, indices)
        self._note_news(manifest_id, component, indices)

    def fetch_lost(self, fetch: Fetch, component: int, indices: Sequence[int]) -> None:
        """Takes back rotten chunks."""
        self._library.lost(fetch.authorised.manifest_id, component, indices)

    # News ----------------------------------------------------------------------------------------

    def _note_news(self, manifest_id: ManifestId, component: int, indices: Sequence[int]) -> None:
        if indices:
            news = self._news.setdefault((manifest_id, component), {})
            news.update(dict.fromkeys(indices))
            self._news_added.set()

    async def _tell_news(self) -> None:
        while True:
            await self._news_added.wait()
            await trio.sleep(HAVE_DELAY_S)
            self._news_added = trio.Event()
            news, self._news = self._news, {}
            for (manifest_id, component), indices in news.items():
                event = Acquired(
                    manifest_id=manifest_id, component=component, indices=sorted(indices)
                )
                for link in tuple(self._links.values()):
                    link.feed(event)
