"""`Download`: fetches one manifest, all its components, from many peers at once.

Participants: this node, which wants the manifest; peers of its target group, any number of which
may lie, stall or leave; the host, which verifies, stores, and keeps the clock.

Goals: completes whenever the connected honest peers together hold every chunk, whatever the others
do; asks no peer again that sent one bad chunk; blames nobody else; holds a bounded number of bytes.
Non-goals: who may be asked (the host joins only permitted peers), what is authorised, durability.

Order within a component: recipe pages, each verified by the host; preparation of space; chunks;
verification of the whole. Every index of a request is answered exactly once (chunk or reject), so
whatever matches no open request is an offence, and what a late or cancelled request may still
deliver is known exactly.

States: RUNNING, PAUSED (no storage: nothing is asked, arrivals are dropped without blame),
FINISHED, STOPPED. In the last two only answers to open requests are taken, so that offences stay
provable until the last answer came.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, assert_never

from protocol.bitfield import bits_of
from protocol.digest import ManifestId
from protocol.download_board import ByteBudget, ChunkBoard
from protocol.download_components import ComponentBoard, ComponentPhase
from protocol.download_pages import PageBoard
from protocol.download_requests import RequestComposer, cancel
from protocol.download_state import DownloadState, DownloadStatistics, PeerProgress
from protocol.errors import LocalProtocolError
from protocol.exchange_answers import (
    match_chunks,
    match_page,
    match_reject,
    read_have,
    read_possession,
)
from protocol.exchange_events import (
    Blame,
    ChunkRefused,
    ChunksLost,
    ChunksStored,
    ComponentComplete,
    ComponentPrepared,
    ComponentVerified,
    DownloadEffect,
    DownloadInput,
    Finished,
    Offence,
    PageRefused,
    PageVerified,
    PeerBanned,
    PeerId,
    PeerJoined,
    PeerLeft,
    PeerMessage,
    PrepareComponent,
    RecipeKnown,
    Send,
    Stalled,
    Stop,
    StorageFull,
    StorageInput,
    StorageReady,
    TimerFired,
    VerifyPage,
    WriteChunk,
)
from protocol.exchange_flow import OpenRequest, PeerFlow
from protocol.exchange_layout import Layout
from protocol.exchange_messages import (
    BitfieldMessage,
    Chunks,
    ExchangeMessage,
    Have,
    Interest,
    NotInterested,
    RecipePageMessage,
    Reject,
    RejectReason,
    Unknown,
)
from protocol.limits import RECIPE_PAGE_LEAVES
from protocol.picker import Picker

CHECK_INTERVAL_S: Final = 0.25
"""How often deadlines and the endgame are looked at while requests are open, seconds."""


class Download:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        manifest_id: ManifestId,
        chunk_counts: Sequence[int],
        picker: Picker,
        lane: int,
        budget: ByteBudget | None = None,
    ) -> None:
        """Starts without peers.

        Args:
            manifest_id: what to fetch.
            chunk_counts: chunks of each component, from the manifest.
            picker: the rule that orders chunks; it must be new.
            lane: distinguishes this download's request ids from others on the same streams,
                0 to 2^32 - 1.
            budget: bytes in flight, shared with other downloads; by default one of its own.
        """
        self._manifest_id = manifest_id
        self._layout = Layout(chunk_counts)
        self._picker = picker
        self._budget = ByteBudget() if budget is None else budget
        self._chunks = ChunkBoard(self._layout, self._budget)
        self._pages = PageBoard(self._layout)
        self._components = ComponentBoard(len(chunk_counts))
        self._flows: dict[PeerId, PeerFlow] = {}
        self._banned: dict[PeerId, None] = {}
        self._state = DownloadState.RUNNING
        self._next_check: float | None = None
        self._wasted_bytes = 0
        self._effects: list[DownloadEffect] = []
        self._requests = RequestComposer(
            manifest_id=manifest_id,
            layout=self._layout,
            chunks=self._chunks,
            pages=self._pages,
            picker=picker,
            lane=lane,
        )

    @property
    def manifest_id(self) -> ManifestId:
        """What is being fetched."""
        return self._manifest_id

    @property
    def state(self) -> DownloadState:
        """The phase."""
        return self._state

    def has_peer(self, peer: PeerId) -> bool:
        """Whether messages of this peer belong here: it joined, and neither left nor was banned."""
        return peer in self._flows

    @property
    def in_flight_bytes(self) -> int:
        """Bytes asked for and not overdue, plus bytes buffered, of all that share the budget."""
        return self._budget.used_bytes

    @property
    def is_drained(self) -> bool:
        """Whether no request is open: no further answer can concern this download."""
        return not any(flow.requests for flow in self._flows.values())

    @property
    def deadline(self) -> float | None:
        """When the host must feed `TimerFired`, seconds; None: not needed."""
        if self._state in (DownloadState.FINISHED, DownloadState.STOPPED):
            return None
        retries = (flow.retry_at for flow in self._flows.values())
        times = [time for time in (self._next_check, *retries) if time is not None]
        return min(times, default=None)

    def is_banned(self, peer: PeerId) -> bool:
        """Whether this peer will never be asked again."""
        return peer in self._banned

    def statistics(self) -> DownloadStatistics:
        """Tells the progress."""
        unprepared = sum(
            self._layout.chunk_count_of(component)
            for component in self._components.at(ComponentPhase.RECIPE, ComponentPhase.PREPARING)
        )
        return DownloadStatistics(
            state=self._state,
            chunks_total=self._layout.chunk_count,
            chunks_missing=unprepared + self._chunks.missing.bit_count(),
            wasted_bytes=self._wasted_bytes,
            peers=tuple(
                PeerProgress(
                    peer=flow.peer,
                    received_bytes=flow.received_bytes,
                    open_requests=len(flow.requests),
                    rate=flow.rate,
                )
                for flow in self._flows.values()
            ),
        )

    def handle(self, event: DownloadInput, now: float) -> list[DownloadEffect]:
        """Takes one input.

        Args:
            event: what happened.
            now: seconds, monotonic.

        Returns:
            Effects, to be executed in order.

        Raises:
            ExchangeOffenceError: the peer's message breaks the protocol; nothing has changed.
            LocalProtocolError: the host's input makes no sense; nothing has changed.
        """
        self._effects = []
        if isinstance(event, PeerMessage):
            self._on_message(event.peer, event.message, now)
        elif self._is_ended:
            self._on_ended_event(event)
        elif isinstance(event, StorageInput):
            self._on_storage_event(event, now)
        else:
            self._on_event(event, now)
        if self._next_check is None and (
            self._requests.is_starved
            or any(flow.requests or flow.busy_until > now for flow in self._flows.values())
        ):
            self._next_check = now + CHECK_INTERVAL_S
        return self._effects

    # Inputs from the host ------------------------------------------------------------------------

    @property
    def _is_ended(self) -> bool:
        return self._state in (DownloadState.FINISHED, DownloadState.STOPPED)

    def _on_event(
        self, event: PeerJoined | PeerLeft | PeerBanned | Stop | TimerFired, now: float
    ) -> None:
        match event:
            case PeerJoined():
                self._on_joined(event.peer)
            case PeerLeft():
                self._drop(event.peer, now)
            case PeerBanned():
                self._ban(event.peer, now)
            case Stop():
                self._end(DownloadState.STOPPED)
            case TimerFired():
                self._on_timer(now)
            case _:
                assert_never(event)

    def _on_storage_event(self, event: StorageInput, now: float) -> None:
        match event:
            case ChunksStored():
                self._on_stored(event)
            case ChunkRefused():
                self._on_chunk_refused(event, now)
            case PageVerified():
                self._pages.judged((event.component, event.page))
                self._learn(event.component, event.page, event.lengths)
            case PageRefused():
                self._on_page_refused(event, now)
            case RecipeKnown():
                self._on_recipe_known(event)
            case ComponentPrepared():
                self._on_prepared(event)
            case ComponentVerified():
                self._on_component_verified(event.component)
            case ChunksLost():
                self._on_lost(event)
            case StorageFull():
                self._on_storage_full(event)
            case StorageReady():
                self._on_storage_ready()
            case _:
                assert_never(event)
        self._fill_all(now)

    def _on_ended_event(self, event: DownloadInput) -> None:
        """After the end only guilt and departures matter."""
        match event:
            case ChunkRefused():
                sender = self._chunks.unbuffer(self._layout.offset(event.component) + event.index)
                if sender is not None:
                    self._blame_chunk(sender, event)
                    self._banned[sender] = None
                    self._flows.pop(sender, None)
            case PeerLeft():
                self._flows.pop(event.peer, None)
            case PeerBanned():
                self._flows.pop(event.peer, None)
                self._banned[event.peer] = None
            case _:
                pass

    def _on_joined(self, peer: PeerId) -> None:
        if peer in self._flows:
            raise LocalProtocolError("a peer joined twice")
        if peer not in self._banned:
            flow = self._flows[peer] = PeerFlow(peer)
            self._send(flow, self._interest())

    def _interest(self) -> Interest:
        return Interest(manifest_id=self._manifest_id, components=self._components.unfinished)

    def _on_recipe_known(self, event: RecipeKnown) -> None:
        self._components.expect(event.component, ComponentPhase.RECIPE)
        for page in range(self._layout.page_count(event.component)):
            start = page * RECIPE_PAGE_LEAVES
            lengths = event.lengths[start : start + RECIPE_PAGE_LEAVES]
            self._learn(event.component, page, lengths)

    def _on_prepared(self, event: ComponentPrepared) -> None:
        self._components.expect(event.component, ComponentPhase.PREPARING)
        if event.held.size != self._layout.chunk_count_of(event.component):
            raise LocalProtocolError(f"bitfield of {event.held.size} for {event.component}")
        self._components.enter(event.component, ComponentPhase.FETCHING)
        self._chunks.prepare(event.component, event.held.bits)
        self._complete(event.component)

    def _on_stored(self, event: ChunksStored) -> None:
        written = self._numbers(event.component, event.indices)
        gained = self._numbers(event.component, event.gained)
        for request, numbers in self._chunks.stored(written, gained).items():
            if request.peer in self._flows:
                self._effects.append(cancel(request, numbers))
        self._complete(event.component)

    def _numbers(self, component: int, indices: Sequence[int]) -> list[int]:
        self._components.expect(component, ComponentPhase.FETCHING)
        count = self._layout.chunk_count_of(component)
        if indices and not 0 <= min(indices) <= max(indices) < count:
            raise LocalProtocolError(f"chunks outside the {count} of component {component}")
        offset = self._layout.offset(component)
        return [offset + index for index in indices]

    def _complete(self, component: int) -> None:
        if self._chunks.is_component_stored(component):
            self._components.enter(component, ComponentPhase.VERIFYING)
            self._effects.append(ComponentComplete(component=component))

    def _on_component_verified(self, component: int) -> None:
        self._components.expect(component, ComponentPhase.VERIFYING)
        self._components.enter(component, ComponentPhase.DONE)
        if not self._components.unfinished:
            self._end(DownloadState.FINISHED)
            self._effects.append(Finished())

    def _on_lost(self, event: ChunksLost) -> None:
        match self._components.phase(event.component):
            case ComponentPhase.RECIPE | ComponentPhase.PREPARING:
                return  # preparation will tell what is held
            case ComponentPhase.DONE:
                self._begin(event.component)
                return
            case ComponentPhase.VERIFYING:
                self._components.enter(event.component, ComponentPhase.FETCHING)
            case ComponentPhase.FETCHING:
                pass
        numbers = self._numbers(event.component, event.indices)
        self._chunks.lost(bits_of(numbers))
        self._complete(event.component)

    def _on_chunk_refused(self, event: ChunkRefused, now: float) -> None:
        (number,) = self._numbers(event.component, (event.index,))
        sender = self._chunks.unbuffer(number)
        if sender is None:
            raise LocalProtocolError(f"chunk {event.index} refused that was not to be written")
        self._blame_chunk(sender, event)
        self._ban(sender, now)
        self._complete(event.component)

    def _blame_chunk(self, sender: PeerId, event: ChunkRefused) -> None:
        self._blame(sender, Offence.CORRUPT_CHUNK, event.component, event.index, event.detail)

    def _on_page_refused(self, event: PageRefused, now: float) -> None:
        sender = self._pages.judged((event.component, event.page))
        if sender is None:
            raise LocalProtocolError(f"page {event.page} refused that was not to be verified")
        self._blame(sender, Offence.CORRUPT_PAGE, event.component, event.page, event.detail)
        self._ban(sender, now)

    def _blame(
        self, peer: PeerId, offence: Offence, component: int, position: int, detail: str
    ) -> None:
        # What a banned peer sent before its ban is one offence, not many.
        if peer not in self._banned:
            self._effects.append(
                Blame(
                    peer=peer,
                    offence=offence,
                    manifest_id=self._manifest_id,
                    component=component,
                    position=position,
                    detail=detail,
                )
            )

    def _learn(self, component: int, page: int, lengths: Sequence[int]) -> None:
        if self._layout.is_page_known(component, page):
            return
        self._layout.learn_page(component, page, lengths)
        if self._layout.is_recipe_complete(component):
            self._begin(component)

    def _begin(self, component: int) -> None:
        self._components.enter(component, ComponentPhase.PREPARING)
        if self._state is DownloadState.RUNNING:
            self._effects.append(PrepareComponent(component=component))

    def _on_storage_full(self, event: StorageFull) -> None:
        for index in event.indices:
            self._chunks.unbuffer(self._layout.offset(event.component) + index)
        self._state = DownloadState.PAUSED

    def _on_storage_ready(self) -> None:
        if self._state is DownloadState.PAUSED:
            self._state = DownloadState.RUNNING
            for component in self._components.at(ComponentPhase.PREPARING):
                self._effects.append(PrepareComponent(component=component))

    def _end(self, state: DownloadState) -> None:
        self._state = state
        self._chunks.clear()
        for flow in self._flows.values():
            for request in flow.requests.values():
                if request.pending:
                    self._effects.append(cancel(request, request.pending))
            self._send(flow, NotInterested(manifest_id=self._manifest_id))

    def _drop(self, peer: PeerId, now: float) -> None:
        flow = self._flows.pop(peer, None)
        if flow is None:
            return
        self._picker.lost(flow.possession)
        for request in flow.requests.values():
            self._chunks.abandoned(request)
            if request.page is not None:
                self._pages.closed(request.page, request)
        self._fill_all(now)

    def _ban(self, peer: PeerId, now: float) -> None:
        self._banned[peer] = None
        self._drop(peer, now)

    def _on_timer(self, now: float) -> None:
        self._next_check = None
        self._requests.is_starved = False
        for flow in self._flows.values():
            self._check_overdue(flow, now)
            if flow.retry_at is not None and now >= flow.retry_at:
                flow.retry_at = None
                self._send(flow, self._interest())
        self._fill_all(now)
        if self._state is DownloadState.RUNNING:
            self._effects += self._requests.endgame(self._flows.values(), now)

    def _check_overdue(self, flow: PeerFlow, now: float) -> None:
        late = [r for r in flow.requests.values() if not r.is_overdue and now >= r.deadline_at]
        for request in late:
            self._chunks.overdue(request)
            if request.page is not None:
                self._pages.closed(request.page, request)
        if late:
            flow.overdue()
        if late and all(request.is_overdue for request in flow.requests.values()):
            flow.is_stalled = True
            if not flow.is_stall_told:
                flow.is_stall_told = True
                self._effects.append(Stalled(peer=flow.peer))

    # Messages from peers -------------------------------------------------------------------------

    def _on_message(self, peer: PeerId, message: ExchangeMessage, now: float) -> None:
        flow = self._flows.get(peer)
        if flow is None:
            if peer in self._banned or self._is_ended:
                return
            raise LocalProtocolError("a message of a peer that did not join")
        match message:
            case Chunks():
                self._on_chunks(flow, message, now)
            case Have():
                self._gain(flow, read_have(message, self._layout))
            case BitfieldMessage():
                self._on_bitfield(flow, message)
            case RecipePageMessage():
                self._on_page(flow, message, now)
            case Reject():
                self._on_reject(flow, message, now)
            case Unknown():
                self._forget(flow, now)
            case _:
                raise LocalProtocolError(f"a download does not take {type(message).__name__}")
        self._fill(flow, now)

    def _on_chunks(self, flow: PeerFlow, message: Chunks, now: float) -> None:
        request, numbered = match_chunks(message, flow, self._layout)
        is_running = self._state is DownloadState.RUNNING
        useful_bytes = 0
        for number, data in numbered:
            useful_bytes += len(data)
            if is_running and self._chunks.buffer(number, request, len(data)):
                self._effects.append(
                    WriteChunk(
                        component=request.component, index=number - request.offset, data=data
                    )
                )
            else:
                self._wasted_bytes += len(data)
        self._close(flow, request, [number for number, _ in numbered])
        flow.answered(request, now, payload_bytes=useful_bytes)

    def _close(self, flow: PeerFlow, request: OpenRequest, numbers: Sequence[int]) -> None:
        flow.outstanding_bytes -= sum(request.pending[number] for number in numbers)
        self._chunks.answered(request, numbers)

    def _on_bitfield(self, flow: PeerFlow, message: BitfieldMessage) -> None:
        claimed = read_possession(message, self._layout)
        before = flow.possession & self._layout.mask(message.component)
        flow.possession &= ~(before & ~claimed)
        self._picker.lost(before & ~claimed)
        self._gain(flow, claimed)
        flow.said_possession()

    def _gain(self, flow: PeerFlow, claimed: int) -> None:
        fresh = claimed & ~flow.possession
        flow.possession |= fresh
        self._picker.gained(fresh)

    def _on_page(self, flow: PeerFlow, message: RecipePageMessage, now: float) -> None:
        request = match_page(message, flow)
        key = request.page
        assert key is not None, "match_page returns page requests only"
        if self._pages.arrived(key, request) and not self._is_ended:
            self._effects.append(VerifyPage(component=key[0], page=key[1], body=message.page))
        flow.answered(request, now, payload_bytes=0)

    def _on_reject(self, flow: PeerFlow, message: Reject, now: float) -> None:
        request, numbers = match_reject(message, flow)
        self._close(flow, request, numbers)
        flow.answered(request, now, payload_bytes=0)
        if request.page is not None:
            self._pages.closed(request.page, request)
        match message.reason:
            case RejectReason.NOT_AVAILABLE:
                self._refused(flow, request, numbers, now)
            case RejectReason.BUSY:
                flow.said_busy(now)
            case RejectReason.UNKNOWN:
                self._forget(flow, now)
            case RejectReason.CANCELLED:
                pass
            case _:
                assert_never(message.reason)
        self._fill_all(now)

    def _refused(
        self, flow: PeerFlow, request: OpenRequest, numbers: Sequence[int], now: float
    ) -> None:
        """The peer does not hold what it claimed: rot is honest, so it costs trust, not blame."""
        gone = bits_of(numbers) & flow.possession
        flow.possession &= ~gone
        self._picker.lost(gone)
        if request.page is not None:
            flow.pages_refused[request.page] = None
        flow.said_busy(now)

    def _forget(self, flow: PeerFlow, now: float) -> None:
        self._picker.lost(flow.possession)
        flow.possession = 0
        if flow.retry_at is None:
            flow.said_unknown(now)

    # Asking --------------------------------------------------------------------------------------

    def _fill_all(self, now: float) -> None:
        for flow in self._flows.values():
            self._fill(flow, now)

    def _fill(self, flow: PeerFlow, now: float) -> None:
        if self._state is DownloadState.RUNNING:
            self._effects += self._requests.fill(flow, now)

    def _send(self, flow: PeerFlow, message: ExchangeMessage) -> None:
        self._effects.append(Send(peer=flow.peer, message=message))
