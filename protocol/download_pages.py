"""Which recipe pages are asked for, and which are being verified."""

from __future__ import annotations

from typing import Final

from protocol.download_components import ComponentBoard, ComponentPhase
from protocol.exchange_events import PeerId
from protocol.exchange_flow import OpenRequest, PeerFlow
from protocol.exchange_layout import Layout, PageKey

PAGES_OPEN_MAX: Final = 16
"""Pages asked for or being verified at once: below 1 MiB of memory."""


class PageBoard:
    """The recipe pages of one download."""

    def __init__(self, layout: Layout, components: ComponentBoard) -> None:
        """Starts with every page of `layout` unknown; those of unwanted objects are not asked."""
        self._layout = layout
        self._components = components
        self._asked: dict[PageKey, OpenRequest] = {}
        self._verifying: dict[PageKey, PeerId] = {}

    def next_for(self, flow: PeerFlow) -> PageKey | None:
        """A page to ask this peer for: unknown, not asked for, of a component it holds some of."""
        if not self._layout.has_pages_missing:
            return None
        if len(self._asked) + len(self._verifying) >= PAGES_OPEN_MAX:
            return None
        own = {request.page for request in flow.requests.values()}
        for key in self._layout.pages_missing():
            if self._components.phase(key[0]) is not ComponentPhase.RECIPE:
                continue
            if key in self._asked or key in self._verifying or key in own:
                continue
            if key not in flow.pages_refused and flow.possession & self._layout.mask(key[0]):
                return key
        return None

    def opened(self, key: PageKey, request: OpenRequest) -> None:
        """Notes that a page is being asked for."""
        self._asked[key] = request

    def closed(self, key: PageKey, request: OpenRequest) -> None:
        """Notes that a request for a page is overdue, rejected or void: others may be asked."""
        if self._asked.get(key) is request:
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
