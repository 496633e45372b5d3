"""The consensus service: takes a validator through the epochs of the chain.

In each epoch in which this node holds a seat's key it runs one `ConsensusEpoch`; otherwise the node
only follows. When the chain moves to another epoch, or past the engine because the follower brought
blocks, the engine is replaced by one that starts from the chain's head and this epoch's journal.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import trio

from ledger.chain_blocks import CommitResult
from ledger.consensus_messages import decode_message, decode_opening
from ledger.errors import UnsupportedVersionError
from ledger.journal import JournalDamagedError, SqliteJournal
from ledger.simplex.engine import Simplex
from ledger.simplex.interface import Parameters
from ledger.vote import Ed25519Verifier, Evidence
from protocol.digest import DidId
from protocol.errors import RemoteProtocolError, StorageError, VerificationError
from protocol.keys import PrivateKey
from swarmd.net.address import PeerKey
from swarmd.net.network import Stream
from swarmd.peers import Offence
from swarmd.services.consensus_epoch import ConsensusEpoch, Surroundings
from swarmd.services.vote_keys import VoteKeys

logger = logging.getLogger(__name__)

ENGINE_PATIENCE_S: Final = 5.0
"""How long a voting node leaves catching up to its engine before it follows like others, seconds:
the engine asks within its epoch only."""
NUDGE_S: Final = 1.0
"""Least time between two hints to a validator that still is in an earlier epoch, seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsensusStatus:
    """What an operator sees of a validator."""

    view: int
    """Current view."""
    may_vote: bool
    """Whether the start-up question is answered and the key not halted."""
    halted: str | None
    """Why this key never votes again; None also while it has no seat."""
    convicted: tuple[int, ...]
    """Seats of this epoch whose holders contradicted themselves."""
    epoch: int
    """The chain's current epoch."""
    seat: int | None
    """This node's index in it; None: no seat, or no key for it."""
    version_fault: str | None
    """Why this program can follow no further; None: it can."""


class ConsensusService:
    """Runs one validator, epoch after epoch."""

    def __init__(
        self,
        around: Surroundings,
        *,
        own_did: DidId,
        vote_keys: VoteKeys,
        delta_s: float,
        on_ahead: Callable[[PeerKey], None],
    ) -> None:
        """Wires the service.

        Args:
            around: network, ledger, registry, clock and entropy.
            own_did: who this validator is.
            vote_keys: its vote keys and journals; certified while this service runs.
            delta_s: assumed bound of a message delay, seconds.
            on_ahead: told of a peer that is in a later epoch: follow it.
        """
        self._around = around
        self._ledger = around.ledger
        self._registry = around.registry
        self._own_did = own_did
        self._vote_keys = vote_keys
        self._delta_s = delta_s
        self._on_ahead = on_ahead
        self._current: ConsensusEpoch | None = None
        self._scope: trio.CancelScope | None = None
        self._evidence: tuple[Evidence, ...] = ()
        self._convicted: dict[tuple[int, int], None] = {}
        self._is_ahead_known = False
        self._heeded: dict[PeerKey, int] = {}
        self._nudged_at: dict[PeerKey, float] = {}
        around.ledger.listen(self._on_commit)

    # -- what others ask -----------------------------------------------------------------------

    @property
    def status(self) -> ConsensusStatus:
        """What an operator sees."""
        current, chain = self._current, self._ledger.chain
        epoch, fault = chain.validators.epoch, chain.version_fault
        return ConsensusStatus(
            view=0 if current is None else current.view,
            may_vote=current is not None and current.may_vote,
            halted=None if current is None else current.halted,
            convicted=tuple(seat for at, seat in self._convicted if at == epoch),
            epoch=epoch,
            seat=None if current is None else current.index,
            version_fault=None if fault is None else str(fault),
        )

    @property
    def seat(self) -> tuple[PrivateKey, int] | None:
        """This epoch's vote key and index, if this node holds a seat."""
        validators = self._ledger.chain.validators
        index = validators.seat_of(self._own_did)
        if index is None:
            return None
        key = self._vote_keys.keys.key_of(validators.key_of(index))
        return None if key is None else (key, index)

    @property
    def may_vouch(self) -> bool:
        """Whether this validator, if it sits, has learnt where the others stand."""
        return self._current is not None and self._current.may_vote

    def patience_s(self) -> float:
        """How long the follower leaves catching up to the engine, seconds."""
        return 0.0 if self._current is None or self._is_ahead_known else ENGINE_PATIENCE_S

    def transactions_changed(self) -> None:
        """Tells the engine whether transactions wait; call when the mempool changed."""
        if self._current is not None:
            self._current.transactions_changed()

    # -- epochs --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Runs epoch after epoch until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._vote_keys.run)
            while True:
                await self._run_epoch()

    async def _run_epoch(self) -> None:
        """Runs an engine until it is outdated, or waits outside the set for the next block."""
        chain, seat = self._ledger.chain, self.seat
        with trio.CancelScope() as self._scope:
            if not self._can_vote(chain.version_fault) or seat is None:
                await self._ledger.wait_advanced()
                return
            key, index = seat
            epoch = chain.validators.epoch
            try:
                journal, fault = await trio.to_thread.run_sync(self._open_journal, epoch)
            except StorageError:
                if chain.validators.epoch == epoch:
                    raise
                return  # over while it was opened, and deleted as such
            with self._closing(journal):
                if chain.validators.epoch != epoch:
                    return  # the follower was faster
                self._current = self._make_epoch(key, index, journal, fault)
                try:
                    await self._current.run()
                finally:
                    left, self._current = self._current, None
                    self._evidence = left.evidence
                    with trio.CancelScope(shield=True):  # a fork there must convict somebody
                        await self._ledger.run(lambda: chain.keep_certificates(left.certificates))

    @contextlib.contextmanager
    def _closing(self, journal: SqliteJournal | None) -> Iterator[None]:
        try:
            yield
        finally:
            if journal is not None:
                journal.close()
            self._vote_keys.keys.release_journal()

    def _can_vote(self, fault: UnsupportedVersionError | None) -> bool:
        if fault is not None:
            logger.error("this validator votes no more: %s", fault)
        return fault is None

    def _open_journal(self, epoch: int) -> tuple[SqliteJournal | None, str | None]:
        directory = self._vote_keys.keys.journal_directory(epoch)
        try:
            return SqliteJournal(directory, self._ledger.chain_id), None
        except JournalDamagedError as error:
            return None, str(error)

    def _make_epoch(
        self, key: PrivateKey, index: int, journal: SqliteJournal | None, fault: str | None
    ) -> ConsensusEpoch:
        rules, state = self._ledger.chain.tip.rules, self._ledger.chain.state
        validators = rules.validators
        engine = Simplex(
            chain=rules.chain,
            era=rules.era,
            validators=validators,
            index=index,
            signer=key,
            verifier=Ed25519Verifier(),
            parameters=Parameters(
                delta_s=self._delta_s, heartbeat_s=rules.parameters.heartbeat_ms / 1000
            ),
            previous=state.validators(validators.epoch - 1),
        )
        self._is_ahead_known = False
        logger.info("seat %d of epoch %d", index, validators.epoch)
        return ConsensusEpoch(
            self._around,
            validators=validators,
            index=index,
            engine=engine,
            journal=journal,
            journal_fault=fault,
            evidence=tuple(
                item
                for item in self._evidence
                if item.epoch >= validators.epoch - 1
                and state.conviction(item.epoch, item.signer) is None
            ),
            on_blame=lambda item: self._convicted.setdefault((item.epoch, item.signer), None),
        )

    def _on_commit(self, result: CommitResult) -> None:
        """Replaces an engine whose epoch is over, or that the follower overtook."""
        current, epoch = self._current, self._ledger.chain.validators.epoch
        for name in result.convictions:
            self._convicted[name] = None
        self._convicted = {name: None for name in self._convicted if name[0] >= epoch - 1}
        if current is None or self._scope is None:
            return
        if current.epoch != epoch or current.final_height < result.header.height:
            self._scope.cancel()

    # -- streams -------------------------------------------------------------------------------

    def _index_of(self, peer: PeerKey) -> int | None:
        known = self._registry.get(peer)
        if known is None or known.did is None:
            return None
        return self._ledger.chain.validators.seat_of(known.did)

    def peer_connected(self, peer: PeerKey) -> None:
        """A validator's standing was established: it is told where we stand."""
        index = self._index_of(peer)
        if self._current is not None and index is not None:
            self._current.peer_connected(index)

    async def answer(self, stream: Stream) -> None:
        """Handles an inbound consensus stream: reads messages until it ends."""
        try:
            opening = await stream.receive_frame()
            if opening is None:
                return
            epoch = decode_opening(opening)
            while (frame := await stream.receive_frame()) is not None:
                if not self._receive(stream.peer, epoch, frame):
                    await stream.reset()
                    return
        except (RemoteProtocolError, VerificationError) as error:
            self._registry.blame(stream.peer, Offence.MALFORMED, f"consensus: {error}")
            await stream.reset()

    def _receive(self, peer: PeerKey, epoch: int, frame: bytes) -> bool:
        """Takes one frame; returns whether the stream is of any use."""
        own = self._ledger.chain.validators.epoch
        if epoch > own:
            self._heed_ahead(peer, own)
            return True
        index = self._index_of(peer)
        if epoch < own:
            return index is not None and self._nudge(peer, index)
        if index is None:
            return False
        if self._current is not None:
            self._current.receive(index, decode_message(frame))
        return True

    def _heed_ahead(self, peer: PeerKey, own: int) -> None:
        """Follows one who says that it is in a later epoch; believes each once in an epoch (E19).

        While it is believed, the follower is not held back and may overtake the engine, which then
        starts anew: one that lies must not bring that about again and again.
        """
        if self._heeded.get(peer) != own:
            self._heeded = {other: at for other, at in self._heeded.items() if at == own}
            self._heeded[peer] = own
            self._is_ahead_known = True
        self._on_ahead(peer)

    def _nudge(self, peer: PeerKey, index: int) -> bool:
        """Shows one who is an epoch behind that there is a later one, by any message of it."""
        now = trio.current_time()
        if self._current is not None and now >= self._nudged_at.get(peer, -NUDGE_S) + NUDGE_S:
            self._nudged_at[peer] = now
            self._current.peer_connected(index)
        return True
