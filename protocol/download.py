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

from protocol.digest import ManifestId
from protocol.download_board import ByteBudget
from protocol.download_components import ComponentPhase
from protocol.download_core import DownloadCore
from protocol.download_intake import DownloadIntake
from protocol.download_state import DownloadState, DownloadStatistics, PeerProgress
from protocol.download_storage import DownloadStorage
from protocol.errors import LocalProtocolError
from protocol.exchange_events import (
    ChunkRefused,
    ChunksStored,
    ComponentPrepared,
    DownloadEffect,
    DownloadInput,
    PeerBanned,
    PeerId,
    PeerJoined,
    PeerLeft,
    PeerMessage,
    RecipeHeld,
    Stalled,
    Stop,
    StorageInput,
    TimerFired,
)
from protocol.exchange_flow import PeerFlow
from protocol.exchange_messages import Interest, Reject
from protocol.picker import Picker
from protocol.relay_chunks import ChunkSet
from protocol.relay_events import PullFreed, PullGated, PullOpened

_GATE_INPUTS: Final = (PullGated, PullOpened, PullFreed)
CHECK_INTERVAL_S: Final = 0.25
"""How often deadlines and the endgame are looked at while requests are open, seconds."""
STARVED_INTERVAL_S: Final = 0.1
"""How often it is tried again to ask when the budget or a rate was used up, seconds; less than what
of a rate may be saved up, so that none of it is lost."""
REPEAT_S_START: Final = 1.0
"""First pause before peers are asked again what they hold, seconds, while there is something to ask
for and nobody known who has it; doubles each time."""
REPEAT_S_MAX: Final = 16.0
"""Longest such pause, seconds."""
REPEAT_PEERS: Final = 8
"""Peers asked at once, in turn."""


class Download:
    """See the module's docstring."""

    __slots__ = (
        "_budget",
        "_core",
        "_intake",
        "_next_check",
        "_pages_at",
        "_repeat_at",
        "_repeat_s",
        "_repeat_turn",
        "_storage",
    )

    def __init__(
        self,
        *,
        manifest_id: ManifestId,
        chunk_counts: Sequence[int],
        picker: Picker,
        lane: int,
        budget: ByteBudget | None = None,
        needed: int | None = None,
        entropy: int = 0,
    ) -> None:
        """Starts without peers.

        Args:
            manifest_id: what to fetch.
            chunk_counts: chunks of each object, from the manifest.
            picker: the rule that orders chunks; it must be new.
            lane: distinguishes this download's request ids from others on the same streams,
                0 to 2^32 - 1.
            budget: bytes in flight, shared with other downloads; by default one of its own.
            needed: the first objects, without which it is not finished: the components. Others
                are fetched once `ObjectWanted` comes. By default all.
            entropy: decides whom it asks for recipes first.
        """
        self._budget = ByteBudget() if budget is None else budget
        self._core = DownloadCore(
            manifest_id=manifest_id,
            chunk_counts=chunk_counts,
            picker=picker,
            lane=lane,
            budget=self._budget,
            needed=needed,
            entropy=entropy,
        )
        self._storage = DownloadStorage(self._core)
        self._intake = DownloadIntake(self._core)
        self._next_check: float | None = None
        self._pages_at: float | None = None
        self._repeat_at: float | None = None
        self._repeat_s = REPEAT_S_START
        self._repeat_turn = 0

    @property
    def manifest_id(self) -> ManifestId:
        """What is being fetched."""
        return self._core.manifest_id

    @property
    def state(self) -> DownloadState:
        """The phase."""
        return self._core.state

    @property
    def interest(self) -> Interest:
        """What asks a peer for possession news of all that is wanted."""
        return self._core.interest()

    def has_peer(self, peer: PeerId) -> bool:
        """Whether messages of this peer belong here: it joined, and neither left nor was banned."""
        return peer in self._core.flows

    @property
    def in_flight_bytes(self) -> int:
        """Bytes asked for and not overdue, plus bytes buffered, of all that share the budget."""
        return self._budget.used_bytes

    @property
    def is_drained(self) -> bool:
        """Whether no request is open: no further answer can concern this download."""
        return not any(flow.requests for flow in self._core.flows.values())

    @property
    def deadline(self) -> float | None:
        """When the host must feed `TimerFired`, seconds; None: not needed."""
        if self._core.state in (DownloadState.FINISHED, DownloadState.STOPPED):
            return None
        retries = (flow.retry_at for flow in self._core.retrying.values())
        times = (self._next_check, self._pages_at, self._repeat_at, *retries)
        return min((time for time in times if time is not None), default=None)

    def is_banned(self, peer: PeerId) -> bool:
        """Whether this peer will never be asked again."""
        return peer in self._core.banned

    def statistics(self) -> DownloadStatistics:
        """Tells the progress."""
        unprepared = sum(
            self._core.layout.chunk_count_of(component)
            for component in self._core.components.at(
                ComponentPhase.RECIPE, ComponentPhase.PREPARING
            )
        )
        unwanted = sum(
            self._core.layout.chunk_count_of(number)
            for number in self._core.components.at(ComponentPhase.UNWANTED)
        )
        return DownloadStatistics(
            state=self._core.state,
            chunks_total=self._core.layout.chunk_count - unwanted,
            chunks_missing=unprepared + self._core.chunks.missing.bit_count(),
            wasted_bytes=self._core.wasted_bytes,
            peers=tuple(
                PeerProgress(
                    peer=flow.peer,
                    received_bytes=flow.received_bytes,
                    open_requests=len(flow.requests),
                    rate=flow.rate,
                )
                for flow in self._core.flows.values()
            ),
        )

    def handle(
        self, event: DownloadInput | PullGated | PullOpened | PullFreed, now: float
    ) -> list[DownloadEffect]:
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
        core = self._core
        core.effects = []
        if isinstance(event, PeerMessage):
            self._intake.handle(event.peer, event.message, now)
        elif isinstance(event, _GATE_INPUTS):
            self._on_gate(event, now)
        elif core.is_ended:
            self._on_ended_event(event)
        elif isinstance(event, ChunksStored) or isinstance(event, StorageInput):  # noqa: SIM101
            # Unions are slow to ask, and this is what comes for every chunk.
            self._storage.handle(event, now)
        else:
            self._on_event(event, now)
        if core.requests.is_starved:
            soon = now + STARVED_INTERVAL_S
            if self._next_check is None or soon < self._next_check:
                self._next_check = soon
        if core.pages.has_busy:
            self._pages_at = core.pages.retry_at(core.flows.values(), now)
        if self._next_check is None and self._may_wait(event):
            if self._is_waiting(now):
                self._next_check = now + CHECK_INTERVAL_S
            elif self._repeat_at is None and self._is_starving:
                self._repeat_at = now + self._repeat_s
        return core.effects

    def _may_wait(self, event: object) -> bool:
        """Whether a wait can have begun: a request was sent, a peer said BUSY, a check is over.

        Every input comes by here, so peers are looked at only where something changed.
        """
        if self._core.effects or isinstance(event, (TimerFired, ComponentPrepared)):
            return True
        return isinstance(event, PeerMessage) and isinstance(event.message, Reject)

    def _is_waiting(self, now: float) -> bool:
        flows = self._core.flows.values()
        return any(flow.requests or flow.busy_until > now for flow in flows)

    @property
    def _is_starving(self) -> bool:
        """Whether something may be asked for, and nothing is."""
        core = self._core
        if core.state is not DownloadState.RUNNING or not core.chunks.free:
            return False
        return not any(flow.requests for flow in core.flows.values())

    def _repeat_interest(self, now: float) -> None:
        """Asks peers again what they hold: a seeder may have told a part of it only (X50)."""
        if not self._is_starving:
            self._repeat_at, self._repeat_s = None, REPEAT_S_START
            return
        flows = list(self._core.flows.values())
        for step in range(min(REPEAT_PEERS, len(flows))):
            flow = flows[(self._repeat_turn + step) % len(flows)]
            self._core.send(flow, self._core.interest())
        self._repeat_turn += REPEAT_PEERS
        self._repeat_at = now + self._repeat_s
        self._repeat_s = min(2 * self._repeat_s, REPEAT_S_MAX)

    def _on_event(
        self,
        event: PeerJoined | PeerLeft | PeerBanned | RecipeHeld | Stop | TimerFired,
        now: float,
    ) -> None:
        match event:
            case PeerJoined():
                self._on_joined(event.peer)
            case PeerLeft():
                self._core.drop(event.peer, now)
            case PeerBanned():
                self._core.ban(event.peer, now)
            case RecipeHeld():
                self._on_recipe_held(event, now)
            case Stop():
                self._core.end(DownloadState.STOPPED)
            case TimerFired():
                self._on_timer(now)
            case _:
                assert_never(event)

    def _on_recipe_held(self, event: RecipeHeld, now: float) -> None:
        flow = self._core.flows.get(event.peer)
        if flow is None:
            return  # it may not be asked
        flow.recipes.update(dict.fromkeys(event.components))
        if self._core.layout.has_pages_missing:
            self._core.fill_all(now)

    def _on_gate(self, event: PullGated | PullOpened | PullFreed, now: float) -> None:
        """Takes the relay's word on what is expected without asking (docs/spec/relay.md)."""
        chunks, layout = self._core.chunks, self._core.layout
        match event:
            case PullGated():
                chunks.gate(layout.mask(event.object_number))
                return
            case PullOpened():
                opened = ChunkSet()  # whoever alternates bits makes a hundred thousand runs
                for run in event.runs:
                    opened.add(*run)
                chunks.permit(opened.window(0, layout.chunk_count))
            case PullFreed():
                chunks.permit(layout.mask(event.object_number))
        self._core.fill_all(now)

    def _on_ended_event(self, event: DownloadInput) -> None:
        """After the end only guilt and departures matter."""
        match event:
            case ChunkRefused():
                number = self._core.layout.offset(event.component) + event.index
                sender = self._core.chunks.unbuffer(1 << number)
                if sender is not None:
                    self._core.blame_chunk(sender, event)
                    self._core.banned[sender] = None
                    self._core.forget_peer(sender)
            case PeerLeft():
                self._core.forget_peer(event.peer)
            case PeerBanned():
                self._core.forget_peer(event.peer)
                self._core.banned[event.peer] = None
            case _:
                pass

    def _on_joined(self, peer: PeerId) -> None:
        if peer in self._core.flows:
            raise LocalProtocolError("a peer joined twice")
        if peer not in self._core.banned:
            flow = self._core.flows[peer] = PeerFlow(peer)
            self._core.send(flow, self._core.interest())

    def _on_timer(self, now: float) -> None:
        self._next_check = None
        self._core.pages.look(self._core.flows, now)
        for flow in self._core.flows.values():
            self._check_overdue(flow, now)
            if flow.retry_at is not None and now >= flow.retry_at:
                flow.retry_at = None
                self._core.send(flow, self._core.interest())
        self._core.fill_all(now)
        if self._repeat_at is not None and now >= self._repeat_at:
            self._repeat_interest(now)
        if self._core.state is DownloadState.RUNNING:
            self._core.effects += self._core.requests.endgame(self._core.flows.values(), now)

    def _check_overdue(self, flow: PeerFlow, now: float) -> None:
        late = [r for r in flow.requests.values() if not r.is_overdue and now >= r.deadline_at]
        for request in late:
            self._core.chunks.overdue(request)
            if request.page is not None:
                self._core.pages.closed(request.page, request)
        if late:
            flow.overdue()
        if late and all(request.is_overdue for request in flow.requests.values()):
            flow.is_stalled = True
            if not flow.is_stall_told:
                flow.is_stall_told = True
                self._core.effects.append(Stalled(peer=flow.peer))
