"""Composes a download's requests: whom to ask for what, now."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from protocol.digest import ManifestId
from protocol.download_board import ChunkBoard
from protocol.download_pages import PageBoard
from protocol.download_rate import IntakeRate
from protocol.exchange_events import Send
from protocol.exchange_flow import OpenRequest, PeerFlow
from protocol.exchange_layout import Layout, PageKey
from protocol.exchange_messages import Cancel, RecipeRequest, Request
from protocol.limits import REQUEST_INDICES_MAX
from protocol.picker import Picker
from protocol.runs import Pair, Runs

LANE_BITS: Final = 31
"""Request ids are `lane << 31 | counter`: the host finds the download by the lane."""


class RequestComposer:
    """Turns windows, room and the picking rule into requests, and books them."""

    __slots__ = (
        "_chunks",
        "_layout",
        "_manifest_id",
        "_next_id",
        "_pages",
        "_picker",
        "is_starved",
        "rate",
    )

    def __init__(
        self,
        *,
        manifest_id: ManifestId,
        layout: Layout,
        chunks: ChunkBoard,
        pages: PageBoard,
        picker: Picker,
        lane: int,
    ) -> None:
        """Shares the download's boards; `lane` numbers it among those on the same streams."""
        self._manifest_id = manifest_id
        self._layout = layout
        self._chunks = chunks
        self._pages = pages
        self._picker = picker
        self._next_id = lane << LANE_BITS
        self.rate = IntakeRate()
        """How fast chunks come; the owner notes them."""
        self.is_starved = False
        """Whether something was not asked for only because other downloads use the budget, or
        because a rate is used up."""

    def fill(self, flow: PeerFlow, now: float, *, is_alone: bool) -> list[Send]:
        """Asks a peer for as much as its window and the room allow: recipe pages first.

        `is_alone` tells that no other peer is there to take from.
        """
        sends: list[Send] = []
        while budget := self._budget_of(flow, now):
            key = self._pages.next_for(flow, now) if self._layout.has_pages_missing else None
            if key is not None:
                sends.append(self._ask_page(flow, key, now))
                continue
            candidates = self._chunks.free & flow.possession
            if not candidates:
                break
            if self._chunks.has_overdue:
                candidates &= ~flow.unanswered()
                if not candidates:
                    break
            budget = self._chunks.room_for(flow.peer, budget, now)
            if budget <= 0:
                self.is_starved = True
                break
            choice = self._select(candidates, budget, is_alone=is_alone)
            sends.append(self._ask_chunks(flow, choice, now))
            if self._chunks.is_full and not self._layout.has_pages_missing:
                self.is_starved = True
                break
        return sends

    def ask_pages(self, flows: Iterable[PeerFlow], now: float) -> list[Send]:
        """Asks for recipe pages, each of who comes first for this node."""
        sends: list[Send] = []
        while (flow := self._pages.source(flows, now)) is not None:
            key = self._pages.next_for(flow, now)
            assert key is not None, "a source has a page"
            sends.append(self._ask_page(flow, key, now))
        return sends

    def _budget_of(self, flow: PeerFlow, now: float) -> int:
        return flow.budget(now, self.rate.request_bytes_min(flow.rate))

    def endgame(self, flows: Iterable[PeerFlow], now: float) -> list[Send]:
        """Asks idle peers for what others still owe, once nothing else is left for them."""
        idle = [
            flow
            for flow in flows
            if not flow.requests and flow.budget(now) and not self._chunks.free & flow.possession
        ]
        sends: list[Send] = []
        for flow in idle:
            candidates = self._chunks.duplicable(now) & flow.possession
            budget = self._chunks.room_for(flow.peer, flow.budget(now), now)
            if candidates and budget > 0:
                choice = self._select(candidates, budget, is_alone=False)
                sends.append(self._ask_chunks(flow, choice, now))
        return sends

    def _select(self, candidates: int, budget_bytes: int, *, is_alone: bool) -> tuple[int, Runs]:
        """Takes the best candidates up to the budget, at least one: (component, indices).

        One request is about one component, so it ends where the order enters another.
        """
        layout = self._layout
        taken: list[Pair] = []
        component, offset = -1, 0
        left_bytes, left_count = budget_bytes, REQUEST_INDICES_MAX
        for number, length in self._picker.order(candidates, is_alone=is_alone):
            if not taken:
                component = layout.component_of(number)
                offset = layout.offset(component)
            first = number - offset
            room = layout.chunk_count_of(component) - first
            if first < 0 or room <= 0:
                break
            count = min(length, room, left_count)
            fitting = layout.prefix_count(component, first, count, max(left_bytes, 0))
            count = min(count, fitting if taken else max(fitting, 1))
            if not count:
                break
            taken.append((first, count))
            left_bytes -= layout.run_bytes(component, first, count)
            if left_bytes <= 0:
                break
            left_count -= count
            if count < length or not left_count:
                break
        if len(taken) == 1:
            return component, Runs.run(*taken[0])
        return component, Runs.merged(taken)

    def _ask_chunks(self, flow: PeerFlow, choice: tuple[int, Runs], now: float) -> Send:
        component, indices = choice
        numbers = indices.bits << self._layout.offset(component)
        size_bytes = self._layout.bytes_of(component, indices)
        request = self._open(flow, component, numbers, size_bytes, now)
        self._chunks.opened(request)
        message = Request(
            request_id=request.request_id,
            manifest_id=self._manifest_id,
            component=component,
            indices=indices,
        )
        return Send(peer=flow.peer, message=message)

    def _ask_page(self, flow: PeerFlow, key: PageKey, now: float) -> Send:
        component, page = key
        request = self._open(flow, component, 0, 0, now)
        request.page = key
        self._pages.opened(key, request)
        message = RecipeRequest(
            request_id=request.request_id,
            manifest_id=self._manifest_id,
            component=component,
            page=page,
        )
        return Send(peer=flow.peer, message=message)

    def _open(
        self, flow: PeerFlow, component: int, numbers: int, size_bytes: int, now: float
    ) -> OpenRequest:
        request = OpenRequest(
            request_id=self._next_id,
            peer=flow.peer,
            component=component,
            offset=self._layout.offset(component),
            sent_at=now,
            deadline_at=now + flow.deadline_s(size_bytes),
            pending=numbers,
            pending_bytes=size_bytes,
        )
        self._next_id += 1
        flow.opened(request, now)
        return request


def cancel(request: OpenRequest, numbers: int) -> Send:
    """Withdraws chunks of a request; the peer still answers each."""
    indices = Runs.of_bits(numbers >> request.offset)
    return Send(peer=request.peer, message=Cancel(request_id=request.request_id, indices=indices))
