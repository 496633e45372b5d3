"""What the parts of a download share: its boards, its peers, and the effects under way.

`Download` decides which part takes an input; `download_storage` takes what the host tells of its
storage, `download_intake` what peers say. Nothing here judges anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Final

from protocol.digest import ManifestId
from protocol.download_board import ByteBudget, ChunkBoard
from protocol.download_components import ComponentBoard
from protocol.download_pages import PageBoard
from protocol.download_requests import RequestComposer, cancel
from protocol.download_state import DownloadState
from protocol.exchange_events import (
    Blame,
    ChunkRefused,
    DownloadEffect,
    Offence,
    PeerId,
    Send,
)
from protocol.exchange_flow import PeerFlow
from protocol.exchange_layout import Layout
from protocol.exchange_messages import ExchangeMessage, Interest, NotInterested
from protocol.picker import Picker

EARLIER_PEERS: Final = 4
"""Peers asked what was passed on before this node had the recipe. Half a second without it cost 16
nodes at 20 Mbit/s an eighth of the makespan; twice as many, or asking later, is no better."""


class DownloadCore:
    """See the module's docstring."""

    __slots__ = (
        "_turn",
        "banned",
        "chunks",
        "components",
        "effects",
        "flows",
        "layout",
        "manifest_id",
        "pages",
        "picker",
        "requests",
        "retrying",
        "state",
        "wasted_bytes",
    )

    def __init__(
        self,
        *,
        manifest_id: ManifestId,
        chunk_counts: Sequence[int],
        picker: Picker,
        lane: int,
        budget: ByteBudget,
        needed: int | None = None,
        entropy: int = 0,
    ) -> None:
        """Starts without peers; the arguments are those of `Download`."""
        self.manifest_id = manifest_id
        """What is being fetched."""
        self.layout = Layout(chunk_counts)
        """Numbers and lengths of its chunks."""
        self.picker = picker
        """The rule that orders chunks."""
        self.chunks = ChunkBoard(self.layout, budget)
        """Where each chunk stands."""
        self.components = ComponentBoard(len(chunk_counts), needed)
        """How far each object is."""
        self.pages = PageBoard(self.layout, self.components, entropy)
        """Recipe pages under way."""
        self.flows: dict[PeerId, PeerFlow] = {}
        """Peers that joined and may be asked."""
        self.retrying: dict[PeerId, PeerFlow] = {}
        """Those of them that said UNKNOWN at some time: only they may have a retry to wait for."""
        self.banned: dict[PeerId, None] = {}
        """Peers that will never be asked again."""
        self.state = DownloadState.RUNNING
        """The phase."""
        self.wasted_bytes = 0
        """Chunk bytes that came and were dropped."""
        self._turn = 0
        self.effects: list[DownloadEffect] = []
        """What the input being handled asks of the host, in order."""
        self.requests = RequestComposer(
            manifest_id=manifest_id,
            layout=self.layout,
            chunks=self.chunks,
            pages=self.pages,
            picker=picker,
            lane=lane,
        )
        """Composes requests."""

    @property
    def is_ended(self) -> bool:
        """Whether nothing is wanted any more."""
        return self.state in (DownloadState.FINISHED, DownloadState.STOPPED)

    def interest(self) -> Interest:
        """Asks for news of what is not done."""
        return Interest(manifest_id=self.manifest_id, components=self.components.wanted)

    def blame(
        self, peer: PeerId, offence: Offence, component: int, position: int, detail: str
    ) -> None:
        """Tells the host of a proven offence, once for each peer."""
        # What a banned peer sent before its ban is one offence, not many.
        if peer not in self.banned:
            self.effects.append(
                Blame(
                    peer=peer,
                    offence=offence,
                    manifest_id=self.manifest_id,
                    component=component,
                    position=position,
                    detail=detail,
                )
            )

    def blame_chunk(self, sender: PeerId, event: ChunkRefused) -> None:
        """Blames the sender of a chunk that did not match."""
        self.blame(sender, Offence.CORRUPT_CHUNK, event.component, event.index, event.detail)

    def drop(self, peer: PeerId, now: float) -> None:
        """Ends what is asked of a peer that left, and asks others for it."""
        flow = self.forget_peer(peer)
        if flow is None:
            return
        self.picker.lost(flow.possession)
        for request in flow.requests.values():
            self.chunks.abandoned(request)
            if request.page is not None:
                self.pages.closed(request.page, request)
        self.fill_all(now)

    def forget_peer(self, peer: PeerId) -> PeerFlow | None:
        """Takes a peer out of the books, and returns its flow; nothing else follows."""
        self.retrying.pop(peer, None)
        return self.flows.pop(peer, None)

    def ban(self, peer: PeerId, now: float) -> None:
        """Never asks a peer again."""
        self.banned[peer] = None
        self.drop(peer, now)

    def end(self, state: DownloadState) -> None:
        """Stops asking; open requests are withdrawn."""
        self.state = state
        self.chunks.clear()
        for flow in self.flows.values():
            for request in flow.requests.values():
                if request.pending:
                    self.effects.append(cancel(request, request.pending))
            self.send(flow, NotInterested(manifest_id=self.manifest_id))

    def fill(self, flow: PeerFlow, now: float) -> None:
        """Asks one peer for as much as it may be asked for now."""
        if self.state is not DownloadState.RUNNING:
            return
        # Most inputs leave nothing to ask this peer for, and every input comes by here.
        if not self.layout.has_pages_missing:
            if self.chunks.is_full:
                if not self.requests.is_starved and self.chunks.free & flow.possession:
                    self.requests.is_starved = True
                return
            if not self.chunks.free & flow.possession:
                return
        self.effects += self.requests.fill(flow, now, is_alone=len(self.flows) == 1)

    def fill_all(self, now: float) -> None:
        """Asks every peer likewise."""
        chunks, requests = self.chunks, self.requests
        was_starved = requests.is_starved
        chunks.has_freed = requests.is_starved = False
        if self.state is not DownloadState.RUNNING:
            return
        has_pages_missing = self.layout.has_pages_missing
        flows = list(self.flows.values())
        if has_pages_missing:
            self.effects += requests.ask_pages(flows, now)
        is_alone = len(flows) == 1
        first = self._turn % len(flows) if flows and was_starved else 0
        free = chunks.free
        for position in chain(range(first, len(flows)), range(first)):
            flow = flows[position]
            if not has_pages_missing and not free & flow.possession:
                continue
            sends = requests.fill(flow, now, is_alone=is_alone)
            if sends:
                self.effects += sends
                free = chunks.free
                # The room that each answer makes is for all peers in turn, not for those who
                # joined first.
                self._turn = position + 1
            if not has_pages_missing:
                if not free:
                    return
                if chunks.is_full:
                    requests.is_starved = True
                    return

    def ask_earlier(self, component: int) -> None:
        """Asks peers that had a recipe before this node what they got meanwhile, by no news."""
        earlier = [flow for flow in self.flows.values() if component in flow.recipes]
        for flow in earlier[:EARLIER_PEERS]:
            self.send(flow, self.interest())

    def fill_freed(self, now: float) -> None:
        """Asks every peer, if there is something that others than the last one could be asked."""
        if self.chunks.has_freed or self.requests.is_starved:
            self.fill_all(now)

    def send(self, flow: PeerFlow, message: ExchangeMessage) -> None:
        """Has a message sent."""
        self.effects.append(Send(peer=flow.peer, message=message))
