"""Composes a download's requests: whom to ask for what, now."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final

from protocol.digest import ManifestId
from protocol.download_board import ChunkBoard
from protocol.download_pages import PageBoard
from protocol.exchange_events import Send
from protocol.exchange_flow import OpenRequest, PeerFlow
from protocol.exchange_layout import Layout, PageKey
from protocol.exchange_messages import Cancel, RecipeRequest, Request
from protocol.limits import REQUEST_INDICES_MAX
from protocol.picker import Picker

LANE_BITS: Final = 31
"""Request ids are `lane << 31 | counter`: the host finds the download by the lane."""


class RequestComposer:
    """Turns windows, room and the picking rule into requests, and books them."""

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
        self.is_starved = False
        """Whether something was not asked for only because other downloads use the budget."""

    def fill(self, flow: PeerFlow, now: float) -> list[Send]:
        """Asks a peer for as much as its window and the room allow: recipe pages first."""
        sends: list[Send] = []
        while budget := flow.budget(now):
            key = self._pages.next_for(flow)
            if key is not None:
                sends.append(self._ask_page(flow, key, now))
                continue
            candidates = self._chunks.free & flow.possession
            if candidates and flow.requests:
                candidates &= ~flow.unanswered()
            budget = min(budget, self._chunks.room_bytes)
            if candidates and budget <= 0:
                self.is_starved = True
            if not candidates or budget <= 0:
                break
            sends.append(self._ask_chunks(flow, self._select(candidates, budget), now))
        return sends

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
            budget = min(flow.budget(now), self._chunks.room_bytes)
            if candidates and budget > 0:
                sends.append(self._ask_chunks(flow, self._select(candidates, budget), now))
        return sends

    def _select(self, candidates: int, budget_bytes: int) -> list[int]:
        """Takes the best candidates up to the budget, at least one, ascending.

        One request is about one component, so it ends where the order enters another.
        """
        taken: list[int] = []
        left = budget_bytes
        for number in islice(self._picker.order(candidates), REQUEST_INDICES_MAX):
            component = self._layout.component_of(number)
            left -= self._layout.length(component, number - self._layout.offset(component))
            if taken and (left < 0 or component != self._layout.component_of(taken[0])):
                break
            taken.append(number)
        return sorted(taken)

    def _ask_chunks(self, flow: PeerFlow, numbers: list[int], now: float) -> Send:
        component = self._layout.component_of(numbers[0])
        offset = self._layout.offset(component)
        pending = {n: self._layout.length(component, n - offset) for n in numbers}
        request = self._open(flow, component, pending, now)
        self._chunks.opened(request)
        message = Request(
            request_id=request.request_id,
            manifest_id=self._manifest_id,
            component=component,
            indices=tuple(number - offset for number in numbers),
        )
        return Send(peer=flow.peer, message=message)

    def _ask_page(self, flow: PeerFlow, key: PageKey, now: float) -> Send:
        component, page = key
        request = self._open(flow, component, {}, now)
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
        self, flow: PeerFlow, component: int, pending: dict[int, int], now: float
    ) -> OpenRequest:
        request = OpenRequest(
            request_id=self._next_id,
            peer=flow.peer,
            component=component,
            offset=self._layout.offset(component),
            sent_at=now,
            deadline_at=now + flow.deadline_s(sum(pending.values())),
            pending=pending,
        )
        self._next_id += 1
        flow.opened(request, now)
        return request


def cancel(request: OpenRequest, numbers: Iterable[int]) -> Send:
    """Withdraws chunks of a request; the peer still answers each."""
    indices = tuple(sorted(number - request.offset for number in numbers))
    return Send(peer=request.peer, message=Cancel(request_id=request.request_id, indices=indices))
