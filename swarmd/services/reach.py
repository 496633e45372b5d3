"""Reaching peers: keeps connections to the configured addresses, with backoff and jitter.

An address is configured with the key that its node had then. Keys rotate: the ledger says which key
follows, and that one is dialed. A node that was away may meet a key its copy does not know yet.
While its copy is not known to be current, it says hello to whoever answers, and the membership
proof decides; once it is current, a key that the ledger does not know is a stranger's, and is not
told who we are.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import trio

from protocol.digest import DidId
from protocol.errors import RemoteProtocolError, TransportError
from swarmd.entropy import Entropy
from swarmd.net.address import PeerAddress, PeerKey
from swarmd.net.network import Network, OtherPeerError
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
        owner_of: Callable[[PeerKey], DidId | None],
        current_key: Callable[[PeerKey], PeerKey],
        is_current: Callable[[], bool],
    ) -> None:
        """Wires the service; several addresses of one peer are tried as alternatives.

        Args:
            network: dials.
            registry: classes and bans of peers.
            entropy: jitter of the pauses.
            addresses: whom to reach, with the keys they had when this was configured.
            greet: says hello to a connected peer and tells what it is.
            owner_of: who holds or once held a key, by my copy of the ledger.
            current_key: the key that follows one that was rotated, by my copy of the ledger.
            is_current: whether my copy of the ledger is known to be current.
        """
        self._network = network
        self._registry = registry
        self._entropy = entropy
        self._greet = greet
        self._owner_of = owner_of
        self._current_key = current_key
        self._is_current = is_current
        grouped: dict[PeerKey, list[PeerAddress]] = {}
        for address in addresses:
            if address.peer != network.peer:
                grouped.setdefault(address.peer, []).append(address)
        self._addresses: Mapping[PeerKey, list[PeerAddress]] = grouped
        self._reached: dict[PeerKey, PeerKey] = {key: key for key in grouped}
        self._lost: dict[PeerKey, trio.Event] = {key: trio.Event() for key in grouped}

    def peer_disconnected(self, peer: PeerKey) -> None:
        """A connection ended; a configured peer is dialed again at once."""
        for configured, proven in self._reached.items():
            if proven == peer:
                self._lost[configured].set()

    async def run(self) -> None:
        """Keeps dialing until cancelled."""
        async with trio.open_nursery() as nursery:
            for peer in self._addresses:
                nursery.start_soon(self._keep, peer)

    async def _keep(self, configured: PeerKey) -> None:
        pause_s = RETRY_S_MIN
        while True:
            self._lost[configured] = trio.Event()
            if await self._is_reached(configured):
                pause_s = RETRY_S_MIN
                with trio.move_on_after(CHECK_S):
                    await self._lost[configured].wait()
                continue
            jitter = self._entropy.uint(1000) / 1000
            await trio.sleep(pause_s * (0.5 + jitter))
            pause_s = min(RETRY_S_MAX, pause_s * 2)

    def _is_known(self, peer: PeerKey) -> bool:
        is_member = self._registry.peer_class(peer) > PeerClass.STRANGER
        return is_member and self._network.is_connected(peer)

    async def _is_reached(self, configured: PeerKey) -> bool:
        """Whether the peer is connected and knows us; makes it so if it can."""
        if self._is_known(self._reached[configured]):
            return True
        peer = self._current_key(configured)
        if peer == self._network.peer:
            return True
        addresses = self._addresses[configured]
        try:
            return await self._meet(
                configured, [dataclasses.replace(item, peer=peer) for item in addresses]
            )
        except OtherPeerError as error:
            logger.debug("peer %s: %s", configured[:4].hex(), error)
            if self._is_current() and error.proven.peer != self._current_key(configured):
                return False
            return await self._meet_other(configured, error.proven)
        except (TransportError, RemoteProtocolError) as error:
            logger.debug("peer %s not reached: %s", configured[:4].hex(), error)
            return False

    async def _meet_other(self, configured: PeerKey, address: PeerAddress) -> bool:
        """Says hello to somebody whose key my copy of the ledger does not know."""
        try:
            return await self._meet(configured, [address])
        except (TransportError, RemoteProtocolError) as error:
            logger.debug("peer %s not reached: %s", address.peer[:4].hex(), error)
            return False

    async def _meet(self, configured: PeerKey, addresses: Sequence[PeerAddress]) -> bool:
        peer = addresses[0].peer
        if not self._is_known(peer):
            if self._registry.is_banned(peer):
                return False
            await self._network.connect(addresses)
            if await self._greet(peer) <= PeerClass.STRANGER:
                return False
        known, owner = self._registry.get(peer), self._owner_of(configured)
        if known is None or owner not in (None, known.did):
            return False  # another member; welcome, but the one we look for is still to be found
        self._reached[configured] = peer
        return True
