"""Fetches the state as a whole where following by blocks would take too long or cannot work.

It asks every peer at hand which version it keeps, believes the newest one that is certified, pulls
pages from several peers side by side and checks each before it is stored. A peer that lies is
blamed and asked no more; one that stalls or has nothing is passed over; what was stored stays, in
this process and the next. Manifests and the block of the version come last; then the chain goes on
from there. Rules: docs/spec/state-sync.md.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeVar

import trio

from ledger.block import Block, decode_block
from ledger.certificate import decode_certificate
from ledger.chain_blocks import CommitResult
from ledger.errors import ForkAlarmError
from ledger.header import Header, decode_header
from ledger.light import EpochForkError, TrustAnchor, decode_epoch_step
from ledger.state_sync import (
    BRIDGE_ROUNDS_MAX,
    SyncTarget,
    bridge_epochs,
    check_checkpoint,
    verify_page,
    verify_state_head,
)
from ledger.sync_store import SyncStore
from protocol.catchup import BlocksAnswer, BlocksRequest, LedgerMessage
from protocol.digest import BlockId, Digest
from protocol.errors import (
    LocalProtocolError,
    PolicyError,
    RemoteProtocolError,
    TransportError,
    VerificationError,
)
from protocol.state_messages import (
    MANIFESTS_MAX,
    HeaderAnswer,
    HeaderRequest,
    ManifestsAnswer,
    ManifestsRequest,
    StateHeadAnswer,
    StateHeadRequest,
    StatePageAnswer,
    StatePageRequest,
)
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.peers import Offence, PeerClass, PeerRegistry
from swarmd.services.ledger_service import LedgerService

logger = logging.getLogger(__name__)
T = TypeVar("T")

HEADS_ASKED_MAX: Final = 16
"""Peers asked for the version they keep; more would tell the same."""
PAGE_PEERS_MAX: Final = 6
"""Peers that deliver pages at a time."""


@dataclass(frozen=True, slots=True)
class _Offer:
    """A version that a peer showed to be final."""

    peer: PeerKey
    target: SyncTarget


class StateSyncService:
    """One fetch at a time, for as long as `fetch` runs."""

    def __init__(
        self,
        *,
        ledger: LedgerHost,
        registry: PeerRegistry,
        service: LedgerService,
        store: SyncStore,
        anchor: Callable[[], TrustAnchor],
    ) -> None:
        """Wires the service.

        Args:
            ledger: own copy of the chain.
            registry: classes and scores of peers.
            service: asks on the ledger protocol.
            store: keeps what was fetched.
            anchor: whom this node believes now.
        """
        self._ledger = ledger
        self._registry = registry
        self._service = service
        self._store = store
        self._anchor = anchor
        self._changed = trio.Event()
        self._failed: dict[PeerKey, None] = {}

    async def fetch(self) -> bool:
        """Fetches the newest version that peers keep; returns whether the chain goes on from it.

        Raises:
            StorageError: what came could not be stored.
        """
        self._failed.clear()
        offers = await self._ask_heads()
        height = self._ledger.chain.head.height
        offers = [offer for offer in offers if offer.target.header.height > height]
        if not offers:
            return False
        newest = max(offers, key=lambda offer: offer.target.header.height).target
        target = self._resumable(newest) or newest
        if not await self._is_expected(offers, target):
            return False
        await self._ledger.run(lambda: self._store.begin(target))
        logger.info("fetching the state of block %d", target.header.height)
        await self._pull_pages([offer.peer for offer in offers][:PAGE_PEERS_MAX])
        if not self._store.plan.is_complete:
            missing = self._store.plan.missing_ppm
            logger.info("the state is not complete, %d ppm are missing", missing)
            return False
        for offer in offers:
            if offer.peer not in self._failed and await self._pull_rest(offer.peer, target):
                return True
        return False

    def _resumable(self, newest: SyncTarget) -> SyncTarget | None:
        """The fetch an earlier try or process left, if peers still keep its version."""
        known, interval = self._store.target, self._ledger.chain.snapshot_interval
        if known is None or known.header.height + interval < newest.header.height:
            return None
        return known

    # Which version.

    async def _ask_heads(self) -> list[_Offer]:
        """Versions that peers show to be final, one a peer."""
        offers: list[_Offer] = []

        async def ask(peer: PeerKey) -> None:
            target = await self._checked(peer, partial(self._head_of, peer))
            if target is not None:
                offers.append(_Offer(peer, target))

        async with trio.open_nursery() as nursery:
            for peer in self._registry.at_least(PeerClass.MEMBER)[:HEADS_ASKED_MAX]:
                nursery.start_soon(ask, peer.key)
        return offers

    async def _head_of(self, peer: PeerKey) -> SyncTarget | None:
        """One peer's version, verified.

        Raises:
            VerificationError: it does not follow from what this node believes.
        """
        anchor = self._anchor()
        steps: list[bytes] = []
        verifier = self._ledger.chain.rules.verifier
        for _ in range(BRIDGE_ROUNDS_MAX):
            answer = await self._service.ask(peer, StateHeadRequest(epoch=anchor.validators.epoch))
            if not isinstance(answer, StateHeadAnswer):
                raise _unexpected(answer)
            if not answer.steps and not answer.headers:
                return None
            anchor = await trio.to_thread.run_sync(bridge_epochs, anchor, answer.steps, verifier)
            for raw in answer.steps:
                self._ledger.trust.compare(decode_header(decode_epoch_step(raw).header))
            self._ledger.trust.require(anchor.validators.epoch)
            steps += answer.steps
            if answer.headers:
                target = await trio.to_thread.run_sync(verify_state_head, answer, anchor, verifier)
                return replace(target, steps=tuple(steps))
        return None

    async def _is_expected(self, offers: Sequence[_Offer], target: SyncTarget) -> bool:
        """Whether a version goes on from the header that this node was told to expect, if any."""
        expected = self._ledger.chain.expected
        if expected is None or not self._ledger.chain.head.height < expected[0] <= (
            target.header.height
        ):
            return True
        for offer in offers:
            header = await self._checked(offer.peer, partial(self._pull_header, offer, expected))
            if header is None:
                continue
            try:
                check_checkpoint(header, target, self._anchor())
            except ForkAlarmError as error:
                self._ledger.raise_alarm(error)
                return False
            return True
        logger.warning("no peer has block %d, which the token names, any more", expected[0])
        return False

    async def _pull_header(self, offer: _Offer, expected: tuple[int, BlockId]) -> Header | None:
        answer = await self._service.ask(offer.peer, HeaderRequest(height=expected[0]))
        if not isinstance(answer, HeaderAnswer):
            raise _unexpected(answer)
        if not answer.header:
            return None
        header = decode_header(answer.header)
        if (header.height, header.block_id) != expected:
            logger.warning("peer %s has another block %d", offer.peer[:4].hex(), expected[0])
            return None
        return header

    # Pages.

    async def _pull_pages(self, peers: Sequence[PeerKey]) -> None:
        """Pulls pages from several peers until all are here or nobody is left."""
        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(self._pull_from, peer)

    async def _pull_from(self, peer: PeerKey) -> None:
        """Pulls pages from one peer for as long as it delivers."""
        plan = self._store.plan
        while not plan.is_complete:
            changed = self._changed
            start = plan.take()
            if start is None:
                await changed.wait()  # others work on all that is missing, and may fail
                continue
            is_stored = False
            try:
                is_stored = bool(await self._checked(peer, partial(self._pull_page, peer, start)))
            finally:
                if not is_stored:
                    plan.give_back(start)
                self._changed.set()
                self._changed = trio.Event()
            if not is_stored:
                return

    async def _pull_page(self, peer: PeerKey, start: Digest) -> bool:
        target = self._store.target
        assert target is not None, "a fetch is under way"
        request = StatePageRequest(height=target.header.height, start=start)
        answer = await self._service.ask(peer, request)
        if not isinstance(answer, StatePageAnswer):
            raise _unexpected(answer)
        page = await trio.to_thread.run_sync(verify_page, answer.page, target, start)
        await self._ledger.run(lambda: self._store.add_page(start, page))
        return True

    # What else belongs to it.

    async def _pull_rest(self, peer: PeerKey, target: SyncTarget) -> bool:
        """Takes manifests and the block from one peer; returns whether the chain goes on."""
        try:
            if not await self._checked(peer, partial(self._pull_manifests, peer)):
                return False
            block = await self._checked(peer, partial(self._pull_block, peer, target))
            if block is None:
                return False
            await self._ledger.run_commit(partial(self._finish, block, target))
        except LocalProtocolError as error:
            logger.info("the state is not complete: %s", error)
            return False
        return True

    def _finish(self, block: Block, target: SyncTarget) -> tuple[CommitResult, ...]:
        self._store.finish(block)
        return self._ledger.chain.adopt_fetched(decode_certificate(target.certificate))

    async def _pull_manifests(self, peer: PeerKey) -> bool:
        """Takes every manifest that is missing; returns whether the peer had them all."""
        while True:
            wanted = await self._ledger.run(lambda: self._store.missing_manifests(MANIFESTS_MAX))
            if not wanted:
                return True
            answer = await self._service.ask(peer, ManifestsRequest(manifests=tuple(wanted)))
            if not isinstance(answer, ManifestsAnswer) or len(answer.manifests) != len(wanted):
                raise _unexpected(answer)
            pairs = zip(wanted, answer.manifests, strict=True)
            found = [(name, raw) for name, raw in pairs if raw]
            await self._ledger.run(partial(self._store.add_manifests, found))
            if len(found) < len(wanted):
                return False

    async def _pull_block(self, peer: PeerKey, target: SyncTarget) -> Block | None:
        answer = await self._service.ask(peer, BlocksRequest(from_height=target.header.height))
        if not isinstance(answer, BlocksAnswer):
            raise _unexpected(answer)
        if not answer.blocks:
            return None
        block = await trio.to_thread.run_sync(decode_block, answer.blocks[0])
        if block.header != target.header:
            raise VerificationError(f"another block at height {target.header.height}")
        return block

    async def _checked(self, peer: PeerKey, call: Callable[[], Awaitable[T]]) -> T | None:
        """Runs a question to a peer; after a fault None comes back, and it is asked no more."""
        try:
            return await call()
        except EpochForkError as error:
            self._ledger.raise_alarm(error)
        except VerificationError as error:
            self._registry.blame(peer, Offence.FORGED, f"state: {error}")
        except RemoteProtocolError as error:
            self._registry.blame(peer, Offence.MALFORMED, f"state: {error}")
        except TransportError as error:
            self._registry.blame(peer, Offence.STALLED, f"state: {error}")
        except PolicyError as error:
            logger.info("state from %s: %s", peer[:4].hex(), error)
        self._failed[peer] = None
        return None


def _unexpected(answer: LedgerMessage) -> RemoteProtocolError:
    return RemoteProtocolError(f"{type(answer).__name__} is no answer to this")
