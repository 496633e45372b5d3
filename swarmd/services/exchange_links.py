"""The links to all peers: opened when a fetch needs them, one a peer, opened again when they end.

Two streams to one peer: the one opened by the smaller key stays; of two opened by the same side the
newer stays, because the older is what a restart left behind.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final, Protocol

import trio

from protocol.errors import TransportError
from protocol.exchange_events import PeerId
from swarmd.services.exchange_link import PeerLink
from swarmd.services.exchange_ports import StreamLike, StreamOpener

logger = logging.getLogger(__name__)

REOPEN_S_START: Final = 0.5
"""First pause before a link that ended is opened again, seconds; doubles each time."""
REOPEN_S_MAX: Final = 30.0
"""Longest pause before a link is opened again, seconds."""


class LinkHost(Protocol):
    """The service, as the table sees it."""

    def is_useful(self, peer: PeerId) -> bool:
        """Whether a fetch would ask this peer if there were a link."""
        ...

    def make_link(self, stream: StreamLike, *, is_ours: bool) -> PeerLink:
        """Wraps a stream."""
        ...

    def link_begins(self, link: PeerLink) -> None:
        """Notes that a link is in the table."""
        ...

    def link_left(self, link: PeerLink) -> None:
        """Notes that a link is no longer in the table."""
        ...

    def link_ended(self, link: PeerLink) -> None:
        """Notes that a link's stream is gone, and why, if `link.offence` says so."""
        ...


class LinkTable:
    """See the module's docstring. Iterating gives the links as they are at the start."""

    def __init__(self, own_key: PeerId, open_stream: StreamOpener, host: LinkHost) -> None:
        """Starts empty; links open once `nursery` is set.

        Args:
            own_key: this node's transport key; breaks ties between streams.
            open_stream: opens an exchange stream to a connected peer.
            host: told of links.
        """
        self.nursery: trio.Nursery | None = None
        """Where links of this node's own run."""
        self._own_key = own_key
        self._open_stream = open_stream
        self._host = host
        self._connected: dict[PeerId, None] = {}
        self._opening: dict[PeerId, None] = {}
        self._links: dict[PeerId, PeerLink] = {}
        self._is_paused = False

    def __iter__(self) -> Iterator[PeerLink]:
        return iter(tuple(self._links.values()))

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._links

    def get(self, peer: PeerId) -> PeerLink | None:
        """The link to a peer."""
        return self._links.get(peer)

    def connected(self, peer: PeerId) -> None:
        """Notes that streams to a peer can be opened."""
        self._connected[peer] = None
        self.want(peer)

    def disconnected(self, peer: PeerId) -> None:
        """Notes that a peer is gone or suspended: its link ends now."""
        self._connected.pop(peer, None)
        link = self._links.get(peer)
        if link is not None:
            link.close()

    def pause(self) -> None:
        """Ends every link and opens and takes none until `resume`."""
        self._is_paused = True
        for link in self:
            link.close()

    def resume(self) -> None:
        """Opens again what could be used."""
        self._is_paused = False
        self.want_all()

    def want_all(self) -> None:
        """Opens what could be used."""
        for peer in self._connected:
            self.want(peer)

    def want(self, peer: PeerId) -> None:
        """Opens a link to a connected peer if a fetch could use it and there is none."""
        if self.nursery is not None and peer not in self._opening and self._is_wanted(peer):
            self._opening[peer] = None
            self.nursery.start_soon(self._open, peer)

    async def _open(self, peer: PeerId) -> None:
        pause_s = REOPEN_S_START
        try:
            while self._is_wanted(peer):
                try:
                    stream = await self._open_stream(peer)
                except TransportError as error:
                    logger.debug("no exchange stream to %s: %s", peer[:4].hex(), error)
                else:
                    started_at = trio.current_time()
                    await self._contained(stream)
                    if trio.current_time() - started_at > REOPEN_S_MAX:
                        pause_s = REOPEN_S_START
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, REOPEN_S_MAX)
        finally:
            self._opening.pop(peer, None)

    async def _contained(self, stream: StreamLike) -> None:
        """Runs a link of this node's own; a defect of ours costs the link, not the daemon.

        Streams that peers open are contained by whoever accepts them.
        """
        try:
            await self.run(stream, is_ours=True)
        except Exception:
            logger.exception("an exchange link failed and was contained")

    def _is_wanted(self, peer: PeerId) -> bool:
        if self._is_paused or peer in self._links:
            return False
        return peer in self._connected and self._host.is_useful(peer)

    async def run(self, stream: StreamLike, *, is_ours: bool) -> None:
        """Runs a link over a stream until it ends; resets the stream if another link stays."""
        peer = stream.peer
        if self._is_paused:
            await stream.reset()
            return
        present = self._links.get(peer)
        if present is not None:
            keeps_present = present.is_ours != is_ours and present.is_ours == (self._own_key < peer)
            if keeps_present:
                await stream.reset()
                return
            self._take_out(present)
            present.close()
        link = self._links[peer] = self._host.make_link(stream, is_ours=is_ours)
        self._host.link_begins(link)
        try:
            await link.run()
        finally:
            self._take_out(link)
            self._host.link_ended(link)
            self.want(peer)

    def _take_out(self, link: PeerLink) -> None:
        """Takes a link out of everything; may be called twice."""
        if self._links.get(link.peer) is link:
            del self._links[link.peer]
            self._host.link_left(link)
