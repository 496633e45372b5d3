"""Reaching peers: keeps connections to the configured addresses, with backoff and jitter."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import trio

from protocol.errors import RemoteProtocolError, TransportError
from swarmd.entropy import Entropy
from swarmd.net.address import PeerAddress, PeerKey
from swarmd.net.network import Network
from swarmd.peers import PeerClass, PeerRegistry

logger = logging.getLogger(__name__)

RETRY_S_MIN: Final = 0.5
"""First pause after a failed dial, seconds."""
RETRY_S_MAX: Final = 60.0
"""Longest pause, seconds."""
CHECK_S: Final = 5.0
"""How often a standing connection is looked at, seconds."""


class ReachService:
    """Dials configured peers and says hello."""

    def __init__(
        self,
        *,
        network: Network,
        registry: PeerRegistry,
        entropy: Entropy,
        addresses: Sequence[PeerAddress],
        greet: Callable[[PeerKey], Awaitable[PeerClass]],
    ) -> None:
        """Wires the service; several addresses of one peer are tried as alternatives."""
        self._network = network
        self._registry = registry
        self._entropy = entropy
        self._greet = greet
        grouped: dict[PeerKey, list[PeerAddress]] = {}
        for address in addresses:
            if address.peer != network.peer:
                grouped.setdefault(address.peer, []).append(address)
        self._addresses: Mapping[PeerKey, list[PeerAddress]] = grouped
        self._lost: dict[PeerKey, trio.Event] = {key: trio.Event() for key in grouped}

    def peer_disconnected(self, peer: PeerKey) -> None:
        """A connection ended; a configured peer is dialed again at once."""
        if (event := self._lost.get(peer)) is not None:
            event.set()

    async def run(self) -> None:
        """Keeps dialing until cancelled."""
        async with trio.open_nursery() as nursery:
            for peer in self._addresses:
                nursery.start_soon(self._keep, peer)

    async def _keep(self, peer: PeerKey) -> None:
        pause_s = RETRY_S_MIN
        while True:
            self._lost[peer] = trio.Event()
            if await self._is_reached(peer):
                pause_s = RETRY_S_MIN
                with trio.move_on_after(CHECK_S):
                    await self._lost[peer].wait()
                continue
            jitter = self._entropy.uint(1000) / 1000
            await trio.sleep(pause_s * (0.5 + jitter))
            pause_s = min(RETRY_S_MAX, pause_s * 2)

    async def _is_reached(self, peer: PeerKey) -> bool:
        """Whether the peer is connected and knows us; makes it so if it can."""
        if self._registry.peer_class(peer) > PeerClass.STRANGER and self._network.is_connected(
            peer
        ):
            return True
        if self._registry.is_banned(peer):
            return False
        try:
            await self._network.connect(self._addresses[peer])
            return await self._greet(peer) > PeerClass.STRANGER
        except (TransportError, RemoteProtocolError) as error:
            logger.debug("peer %s not reached: %s", peer[:4].hex(), error)
            return False
