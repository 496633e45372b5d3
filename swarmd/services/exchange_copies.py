"""Who holds a manifest's images: possession that peers tell a node which fetches nothing.

A watch asks every peer that may be asked (X22) for its possession, as a download does, and keeps
what it says. Peers answer only members of the manifest's groups (G8), so a watch elsewhere learns
nothing. What is counted is a claim: nobody can be made to prove that it keeps what it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

from protocol.authorised import AuthorisedManifest
from protocol.digest import ManifestId
from protocol.exchange_answers import read_have, read_possession
from protocol.exchange_events import PeerId, Send
from protocol.exchange_layout import Layout
from protocol.exchange_messages import (
    BitfieldMessage,
    ExchangeMessage,
    Have,
    Interest,
    NotInterested,
    Unknown,
)
from swarmd.services.exchange_link import PeerLink

RENEW_S: Final = 30.0
"""Interest is said again this often, seconds: a peer that did not know the manifest yet may by now,
and what it forgot while nobody was interested is told anew."""


class CopyWatch:
    """What peers hold of one manifest."""

    def __init__(self, authorised: AuthorisedManifest) -> None:
        """Starts with nothing known."""
        content = authorised.manifest
        self.manifest_id: Final = authorised.manifest_id
        """Which manifest."""
        self.objects: Final = tuple(range(len(content.objects)))
        """What is asked for: everything, so that a download's own interest is never narrowed."""
        self._layout = Layout([one.chunk_count for one in content.objects])
        self._wanted = sum(self._layout.mask(number) for number in range(len(content.components)))
        self._held: dict[PeerId, int] = {}
        self.changed = trio.Event()
        """Set, and replaced, when more or fewer peers hold everything."""

    @property
    def holders(self) -> tuple[PeerId, ...]:
        """Peers that say they hold every component, and were not heard to say otherwise since."""
        return tuple(peer for peer, bits in self._held.items() if not self._wanted & ~bits)

    def note(self, peer: PeerId, message: BitfieldMessage | Have | Unknown) -> None:
        """Takes what a peer says.

        Raises:
            ExchangeOffenceError: it claims what the manifest has not.
        """
        before = self._held.get(peer, 0)
        match message:
            case BitfieldMessage():
                claimed = read_possession(message, self._layout)
                after = before & ~self._layout.mask(message.component) | claimed
            case Have():
                after = before | read_have(message, self._layout)
            case Unknown():
                after = 0
        self._held[peer] = after
        if (not self._wanted & ~before) != (not self._wanted & ~after):
            self.changed.set()
            self.changed = trio.Event()


class CopyWatches:
    """The watches under way."""

    def __init__(
        self,
        links: Iterable[PeerLink],
        may_ask: Callable[[PeerId, ManifestId], bool],
        is_fetching: Callable[[ManifestId], bool],
    ) -> None:
        """Starts with none.

        Args:
            links: gives the links of the moment.
            may_ask: whether a peer may learn that this node is interested.
            is_fetching: whether a download has an interest of its own.
        """
        self._links = links
        self._may_ask = may_ask
        self._is_fetching = is_fetching
        self._watches: dict[ManifestId, list[CopyWatch]] = {}
        self._asked: dict[ManifestId, dict[PeerId, None]] = {}

    @contextmanager
    def watching(self, authorised: AuthorisedManifest) -> Iterator[CopyWatch]:
        """Watches a manifest within the block; call `renew` now and then."""
        watch = CopyWatch(authorised)
        self._watches.setdefault(watch.manifest_id, []).append(watch)
        try:
            self.renew(watch)
            yield watch
        finally:
            others = self._watches[watch.manifest_id]
            others.remove(watch)
            if not others:
                del self._watches[watch.manifest_id]
                self._lose_interest(watch.manifest_id)

    def renew(self, watch: CopyWatch) -> None:
        """Says the interest again to every peer that may be asked."""
        for link in self._links:
            self._ask(link, watch)

    def link_begins(self, link: PeerLink) -> None:
        """Asks a new peer."""
        for watches in tuple(self._watches.values()):
            self._ask(link, watches[0])

    def is_useful(self, peer: PeerId) -> bool:
        """Whether a watch would ask this peer if there were a link."""
        return any(self._may_ask(peer, manifest) for manifest in self._watches)

    def note(self, peer: PeerId, message: ExchangeMessage) -> None:
        """Takes possession news; anything else is none of a watch's business.

        Raises:
            ExchangeOffenceError: it claims what the manifest has not.
        """
        if isinstance(message, BitfieldMessage | Have | Unknown):
            for watch in self._watches.get(message.manifest_id, ()):
                watch.note(peer, message)

    def _ask(self, link: PeerLink, watch: CopyWatch) -> None:
        if self._may_ask(link.peer, watch.manifest_id):
            interest = Interest(manifest_id=watch.manifest_id, components=watch.objects)
            self._asked.setdefault(watch.manifest_id, {})[link.peer] = None
            link.send(Send(peer=link.peer, message=interest))

    def _lose_interest(self, manifest: ManifestId) -> None:
        asked = self._asked.pop(manifest, {})
        if self._is_fetching(manifest):
            return
        for link in self._links:
            if link.peer in asked:  # nobody else may hear of the manifest from here
                link.send(Send(peer=link.peer, message=NotInterested(manifest_id=manifest)))
