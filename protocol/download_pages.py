"""Which recipe pages are asked for, of whom, and which are being verified.

Everybody needs the recipe before anything else, at the same time, and at first one node has it. So
whoever has a verified recipe passes it on, and a node asked by many serves a few and says BUSY to
the others (`upload_pages`): those ask whoever has it by then (docs/spec/exchange.md, X54 to X56).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Final

from protocol.download_components import ComponentBoard, ComponentPhase
from protocol.exchange_events import PeerId
from protocol.exchange_flow import OpenRequest, PeerFlow
from protocol.exchange_layout import Layout, PageKey

PAGES_OPEN_MAX: Final = 16
"""Pages asked for or being verified at once: below 1 MiB of memory."""
PAGE_PATIENCE_S: Final = 1.0
"""After so many seconds without a page somebody else is asked for it, too: who cannot begin soon
says BUSY (`upload_pages`), and what a member has under way takes a quarter of that at 5 Mbit/s."""
SOURCE_PATIENCE_S: Final = 2.0
"""The same where who was asked holds the whole object: it has four times as much under way."""


class PageBoard:
    """The recipe pages of one download."""

    def __init__(self, layout: Layout, components: ComponentBoard, entropy: int = 0) -> None:
        """Starts with every page of `layout` unknown; those of unwanted objects are not asked.

        `entropy` decides in which order peers are asked: nodes differ, so each is asked by few.
        """
        self._layout = layout
        self._components = components
        self._entropy = (entropy % 2**64).to_bytes(8, "big")
        self._asked: dict[PageKey, OpenRequest] = {}
        self._verifying: dict[PageKey, PeerId] = {}
        self._was_let_down = False
        self.has_busy = False
        """Whether a peer said BUSY, so that there may be a time to ask it again."""

    def _wanted(self) -> list[PageKey]:
        """Pages that are unknown and asked of nobody, as far as there is room."""
        if not self._layout.has_pages_missing:
            return []
        if len(self._asked) + len(self._verifying) >= PAGES_OPEN_MAX:
            return []
        return [
            key
            for key in self._layout.pages_missing()
            if key not in self._asked
            and key not in self._verifying
            and self._components.phase(key[0]) is ComponentPhase.RECIPE
        ]

    def next_for(self, flow: PeerFlow, now: float) -> PageKey | None:
        """A page to ask this peer for: unknown, not asked for, of a recipe that it holds."""
        return self._first_of(self._wanted(), flow, now)

    def source(self, flows: Iterable[PeerFlow], now: float) -> PeerFlow | None:
        """Whom to ask for a page now; None: nobody, or for nothing.

        In an order of this node's own: those who hold the whole object come last, since all need
        their uplinks, and first once somebody else kept this node waiting.
        """
        wanted = self._wanted()
        if not wanted:
            return None
        able = [
            flow for flow in flows if self._first_of(wanted, flow, now) and flow.budget(now) > 0
        ]
        return min(able, key=self._rank, default=None)

    def retry_at(self, flows: Iterable[PeerFlow], now: float) -> float | None:
        """When a peer that said BUSY may be asked again; None: nothing waits for that."""
        if not self.has_busy or not self._wanted():
            return None
        times = [flow.pages_busy_until for flow in flows if flow.pages_busy_until > now]
        self.has_busy = bool(times)
        return min(times, default=None)

    def _first_of(self, wanted: Iterable[PageKey], flow: PeerFlow, now: float) -> PageKey | None:
        if now < flow.pages_busy_until:
            return None
        own = {request.page for request in flow.requests.values()} - {None}
        if own and flow.is_page_probed:
            return None
        for key in wanted:
            if key in own or key in flow.pages_refused:
                continue
            if key[0] in flow.recipes or flow.possession & self._layout.mask(key[0]):
                return key
        return None

    def _rank(self, flow: PeerFlow) -> tuple[bool, bytes]:
        is_last = self._holds_whole(flow) != self._was_let_down
        return is_last, sha256(self._entropy + flow.peer).digest()

    def _holds_whole(self, flow: PeerFlow) -> bool:
        masks = map(self._layout.mask, self._components.at(ComponentPhase.RECIPE))
        return all(flow.possession & mask == mask for mask in masks)

    def opened(self, key: PageKey, request: OpenRequest) -> None:
        """Notes that a page is being asked for."""
        self._asked[key] = request

    def closed(self, key: PageKey, request: OpenRequest) -> None:
        """Notes that a request for a page is overdue, rejected or void: others may be asked."""
        if self._asked.get(key) is request:
            del self._asked[key]

    def look(self, flows: Mapping[PeerId, PeerFlow], now: float) -> None:
        """Gives up waiting for pages that did not come within a peer's patience."""
        for key, request in tuple(self._asked.items()):
            flow = flows.get(request.peer)
            is_source = flow is not None and self._holds_whole(flow)
            if now >= request.sent_at + (SOURCE_PATIENCE_S if is_source else PAGE_PATIENCE_S):
                self._was_let_down = True
                del self._asked[key]

    def arrived(self, key: PageKey, request: OpenRequest) -> bool:
        """Notes that a page came.

        Returns:
            Whether it is to be verified: not known and not being verified already.
        """
        self.closed(key, request)
        component, page = key
        if key in self._verifying or self._layout.is_page_known(component, page):
            return False
        self._verifying[key] = request.peer
        return True

    def judged(self, key: PageKey) -> PeerId | None:
        """Ends the verification of a page; returns who sent it, None if none was under way."""
        return self._verifying.pop(key, None)
