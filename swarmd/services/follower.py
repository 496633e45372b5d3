"""The follower: keeps a node at the head of the chain, unless a validator's engine does.

It hears of heights from hello, gossip and validators' statements, follows the peer that told, and
looks around by itself when nothing was heard for longer than the chain's heartbeat. A metered node
hears no gossip: it asks all its peers that often whatever it hears, so that one that feeds it old
blocks keeps it from no other's. A peer that tells of heights and does not deliver goes behind all
others, so that nobody holds this node up by promises.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from protocol.errors import (
    PolicyError,
    RemoteProtocolError,
    StorageError,
    TransportError,
    VerificationError,
)
from protocol.limits import STATE_SNAPSHOT_INTERVAL
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.peers import PeerClass, PeerRegistry
from swarmd.services.ledger_service import LARGE_RULE, PRUNED_RULE, LedgerService

logger = logging.getLogger(__name__)

SILENCE_FACTOR: Final = 1.5
"""Heartbeats of silence after which the follower asks by itself."""
NEWCOMER_BLOCKS: Final = 2 * STATE_SNAPSHOT_INTERVAL
"""A newcomer further behind than this fetches the state instead of executing every block."""
FAILURES_MAX: Final = 1024
"""Peers remembered for what they promised and did not deliver."""
RETRY_S: Final = 1.0
"""Pause after every peer that was asked failed, seconds."""


class FollowerService:
    """Catches up with whoever knows more."""

    def __init__(
        self,
        *,
        ledger: LedgerHost,
        registry: PeerRegistry,
        service: LedgerService,
        fetch_state: Callable[[], Awaitable[bool]],
        patience_s: Callable[[], float] = lambda: 0.0,
        has_engine: bool = False,
        is_metered: bool = False,
    ) -> None:
        """Wires the service.

        Args:
            ledger: own copy of the chain.
            registry: classes of peers.
            service: asks for blocks.
            fetch_state: fetches the state as a whole; tells whether the head moved.
            patience_s: how long something else, such as a validator's engine, may take to reach a
                height that was heard of, before this service fetches it; seconds.
            has_engine: whether blocks become final by a validator's engine: they were heard of.
            is_metered: whether peers are asked at fixed times, whatever is heard between.
        """
        self._is_metered = is_metered
        self._quiet_since = 0.0
        self._ledger = ledger
        self._registry = registry
        self._service = service
        self._patience_s = patience_s
        self._heard: dict[PeerKey, int] = {}
        self._failures: dict[PeerKey, int] = {}
        self._useless: dict[PeerKey, None] = {}  # asked since the head moved, for nothing
        self._fetch_state = fetch_state
        self._wake = trio.Event()
        if has_engine:
            ledger.listen(lambda _result: self._note_sound())

    def hear(self, peer: PeerKey, height: int) -> None:
        """Notes that a peer knows of a height; wakes the follower if it is beyond mine."""
        if height > self._ledger.chain.head.height:
            self._heard[peer] = max(height, self._heard.get(peer, 0))
            self._wake.set()

    def look(self) -> None:
        """Has every member asked now, whatever it told."""
        self._note_sound()
        for peer in self._registry.at_least(PeerClass.MEMBER):
            self._heard.setdefault(peer.key, 0)
        self._wake.set()

    async def run(self) -> None:
        """Follows until cancelled."""
        self._quiet_since = trio.current_time()
        while True:
            self._wake = trio.Event()
            await self._until_something()
            if not await self._follow_best() and self._heard:
                await trio.sleep(RETRY_S)

    def _note_sound(self) -> None:
        """Something was heard: silence begins anew."""
        self._quiet_since = trio.current_time()

    async def _until_something(self) -> None:
        """Waits until a height was heard of; after a silence every member is to be asked."""
        if not self._is_metered:
            self._note_sound()
        heartbeat_s = self._ledger.chain.rules.parameters.heartbeat_ms / 1000
        while True:
            ask_at = self._quiet_since + heartbeat_s * SILENCE_FACTOR
            if trio.current_time() >= ask_at:
                self.look()
                return
            if self._heard:
                return
            with trio.move_on_at(ask_at):
                await self._wake.wait()

    async def _follow_best(self) -> bool:
        """Follows the peer that told the greatest height; returns whether the head moved."""
        if not self._heard:
            return True
        peer = max(self._heard, key=lambda key: (-self._failures.get(key, 0), self._heard[key]))
        told = self._heard.pop(peer)
        before = self._ledger.chain.head.height
        if self._registry.peer_class(peer) is PeerClass.STRANGER or 0 < told <= before:
            return True
        if await self._is_reached(told):
            return True
        try:
            if not (self._is_newcomer(told) and await self._fetch_state()):
                await self._service.catch_up(peer, told)
        except PolicyError as error:
            logger.info("following %s: %s", peer[:4].hex(), error)
            if error.rule in (PRUNED_RULE, LARGE_RULE):
                await self._without_blocks(peer)
        except (TransportError, VerificationError, RemoteProtocolError) as error:
            logger.info("following %s: %s", peer[:4].hex(), error)
        except StorageError as error:
            logger.error(  # noqa: TRY400 - no defect
                "blocks cannot be stored: %s", error
            )
        height = self._ledger.chain.head.height
        if height > before:
            self._useless.clear()
        else:
            self._useless[peer] = None
        while len(self._useless) > FAILURES_MAX:
            self._useless.pop(next(iter(self._useless)))
        if before < height < told:
            self._heard.setdefault(peer, told)  # what a fetched state lacks comes by blocks
        self._note_outcome(peer, told)
        return height > before

    async def _is_reached(self, height: int) -> bool:
        """Waits a while for this node to reach a height without being helped."""
        with trio.move_on_after(self._patience_s()):
            while self._ledger.chain.head.height < height:
                await self._ledger.wait_advanced()
        return 0 < height <= self._ledger.chain.head.height

    def _is_newcomer(self, told: int) -> bool:
        """Whether executing every block since genesis would take longer than fetching the state."""
        return self._ledger.chain.head.height == 0 and told > NEWCOMER_BLOCKS

    async def _without_blocks(self, peer: PeerKey) -> None:
        """Fetches the state if nobody at hand has the blocks that follow here.

        Every other peer is asked first, for what it told of its height may be old; one that
        promises and does not deliver holds nothing up.
        """
        self._useless[peer] = None
        unasked = [
            other.key
            for other in self._registry.at_least(PeerClass.MEMBER)
            if other.key not in self._useless
        ]
        for key in unasked:
            self._heard.setdefault(key, 0)
        if not unasked:
            await self._fetch_if_possible()

    async def _fetch_if_possible(self) -> None:
        try:
            await self._fetch_state()
        except StorageError as error:
            logger.error(  # noqa: TRY400 - no defect
                "the state cannot be stored: %s", error
            )

    def _note_outcome(self, peer: PeerKey, told: int) -> None:
        """Counts a promise that was not kept; forgets the oldest ones beyond a bound."""
        failures = self._failures.pop(peer, 0)
        if told > self._ledger.chain.head.height:
            self._failures[peer] = failures + 1
        while len(self._failures) > FAILURES_MAX:
            self._failures.pop(next(iter(self._failures)))
