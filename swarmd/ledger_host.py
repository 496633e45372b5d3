"""The chain, driven from trio: one worker thread executes, everybody reads the final snapshot.

`Chain` is synchronous and writes to disk. All calls that execute, write or read the store go
through `run`, one at a time, in a worker thread; the event loop never waits for a disk. State and
head are immutable and may be read at any time. What became final is told to listeners in the event
loop, in order, before `run_commit` returns to its caller. An alarm is raised at most once in the
life of a process: what the validators certified against the rules is not believed, and neither is
anything after it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import trio

from ledger.chain import Chain
from ledger.chain_blocks import CommitResult
from ledger.errors import LedgerError
from ledger.header import Header, decode_header
from ledger.light import EpochForkError
from ledger.records.group import GroupRecord
from ledger.transition.envelope import read_transaction
from ledger.transition.kind import Lane
from ledger.transition.shares import lane_of
from protocol.digest import BlockId, ChainId, Digest, ManifestId, TransactionId, sha256
from protocol.errors import PolicyError, SwarmError, VerificationError
from protocol.governance import Checkpoint
from protocol.group import Policy
from protocol.transaction import SignedTransaction
from swarmd.judgement_line import JudgementLine, Outcome, Round, Submitted
from swarmd.manifest_library import ManifestLibrary
from swarmd.net.address import PeerKey

logger = logging.getLogger(__name__)
T = TypeVar("T")
Listener = Callable[[CommitResult], None]
"""Called in the event loop for each final block; must not block."""
SubmissionListener = Callable[[SignedTransaction, bool], None]
"""Called for each transaction that was submitted and judged: what it is, and whether it was taken,
and so found well signed; one that was refused may be anybody's."""
RECENT_MAX: Final = 1024
"""Ids of recent final blocks kept for checking what others claim."""


class LedgerHost:
    """Serialises access to the chain and tells what became final."""

    def __init__(self, chain: Chain, time_ms: Callable[[], int]) -> None:
        """Wraps an open chain; `time_ms` estimates the next header time, milliseconds."""
        self.chain: Final = chain
        self._time_ms = time_ms
        self._limiter = trio.CapacityLimiter(1)
        self._committing = trio.Lock()
        self._serving = trio.Lock()
        self._lanes: dict[PeerKey, trio.Lock] = {}
        self._line = JudgementLine(
            judge=self._judge, run=self._run_round, is_wanted=lambda: self._asked > self._begun
        )
        # Each is written by one thread only: calls made here, calls begun in the worker.
        self._asked = 0
        self._begun = 0
        self._round_ms = 0
        self._listeners: list[Listener] = []
        self._alarm_listeners: list[Callable[[str], None]] = []
        self._submission_listeners: list[SubmissionListener] = []
        self._advanced = trio.Event()
        self.manifests: Final = ManifestLibrary(chain.known_manifests)
        """Every manifest that this copy knows, by id, in the order in which it came to know."""
        self.trust: Final = chain.trust()
        """How far this node follows old keys on their word."""
        self._recent: dict[int, BlockId] = {chain.head.height: chain.head.block_id}
        self.alarm: str | None = None
        """Why this node stopped believing the validators; None: it believes them."""

    def manifests_of(self, digest: Digest) -> Sequence[ManifestId]:
        """The manifests that name an image, in the order in which this copy came to know them."""
        return self.manifests.naming(digest)

    # -- what may be read at any time ----------------------------------------------------------

    @property
    def chain_id(self) -> ChainId:
        """The chain id."""
        return self.chain.rules.chain

    def block_id_at(self, height: int) -> BlockId | None:
        """The final block of a recent height, or None."""
        return self._recent.get(height)

    def policies(self) -> tuple[Policy, ...]:
        """The policies in force, one for each group."""
        state, time_ms = self.chain.state, self.chain.head.time_ms
        records = (GroupRecord.decode(value) for _, value in state.scan(b"g/"))
        return tuple(state.policy(record.policy_at(time_ms)) for record in records)

    @property
    def has_pending(self) -> bool:
        """Whether transactions wait for a block."""
        return len(self.chain.mempool) > 0

    # -- what runs in the worker thread --------------------------------------------------------

    def listen(self, listener: Listener) -> None:
        """Adds a listener for final blocks."""
        self._listeners.append(listener)

    async def run(self, call: Callable[[], T]) -> T:
        """Executes a call on the chain in the ledger's worker thread.

        It is never abandoned half-way: cancellation waits for the call to end.
        """
        is_begun = False

        def begin() -> T:
            nonlocal is_begun
            is_begun = True
            self._begun += 1
            return call()

        self._asked += 1
        try:
            return await trio.to_thread.run_sync(begin, limiter=self._limiter)
        finally:
            if not is_begun:  # cancelled in the queue
                self._asked -= 1

    async def serve(self, peer: PeerKey, call: Callable[[], T]) -> T:
        """Executes what a peer asked for.

        One question of all is in the worker's line at a time, so that a flood of them cannot stand
        before consensus; and one of each peer waits to be that one, so that all have their turn.
        """
        lane = self._lanes.setdefault(peer, trio.Lock())
        try:
            async with lane, self._serving:
                return await self.run(call)
        finally:
            if not lane.statistics().locked:
                self._lanes.pop(peer, None)

    async def submit(self, raw: bytes, *, is_own: bool) -> TransactionId:
        """Takes a transaction into the mempool; an own one is kept durably until it is final.

        Raises:
            PolicyError: refused; `NotYetError` when waiting may help.
            StorageError: the store failed.
        """
        (outcome,) = await self.submit_all((raw,), is_own=is_own)
        if isinstance(outcome, SwarmError):
            raise outcome
        return outcome

    async def submit_all(self, raws: Sequence[bytes], *, is_own: bool) -> list[Outcome]:
        """Takes transactions into the mempool, each for itself.

        Returns:
            What became of each, in their order: its id, or what `submit` would raise.
        """
        read = [self._read(raw, is_own=is_own) for raw in raws]
        items = [item for item in read if isinstance(item, Submitted)]
        judged = iter(await self._line.judge(items) if items else ())
        outcomes: list[Outcome] = []
        for item in read:
            if isinstance(item, PolicyError):
                outcomes.append(item)
                continue
            outcome = next(judged)
            outcomes.append(outcome)
            for listener in self._submission_listeners:
                listener(item.signed, not isinstance(outcome, SwarmError))
        return outcomes

    def _read(self, raw: bytes, *, is_own: bool) -> Submitted | PolicyError:
        if not is_own and TransactionId(sha256(raw)) in self.chain.mempool:
            return LedgerError("mempool.known", "this transaction waits already")
        try:
            signed = read_transaction(raw)
        except LedgerError as error:
            return error
        lane = lane_of(signed.transaction.kind)
        return Submitted(signed=signed, is_protecting=lane is Lane.PROTECTING, is_own=is_own)

    def _judge(self, item: Submitted) -> TransactionId:
        return self.chain.submit_read(item.signed, now_ms=self._round_ms, is_own=item.is_own)

    async def _run_round(self, judge: Round) -> list[Outcome]:
        self._round_ms = self._time_ms()
        return await trio.to_thread.run_sync(judge, limiter=self._limiter)

    def listen_submissions(self, listener: SubmissionListener) -> None:
        """Adds a listener for transactions as they come; it must not block."""
        self._submission_listeners.append(listener)

    async def run_commit(
        self, call: Callable[[], tuple[CommitResult, ...]]
    ) -> tuple[CommitResult, ...]:
        """Executes a call that makes blocks final, and tells the listeners."""
        with trio.CancelScope(shield=True):
            async with self._committing:
                results = await self.run(call)
                self._tell(results)
                await self._renew_trust(results)
        return results

    async def _renew_trust(self, results: tuple[CommitResult, ...]) -> None:
        """Notes epochs that ended and checkpoints that were recorded."""
        kept = self.trust.base
        try:
            for result in results:
                if any(kind == "gov.checkpoint" for _, kind in result.transactions):
                    self.learn_checkpoint(self.chain.checkpoint())
                if result.following is not None:
                    epoch_ms = self.chain.rules.parameters.epoch_ms
                    self.trust.closed(result.header, trio.current_time(), epoch_ms)
        except EpochForkError as error:
            self.raise_alarm(error)
        if self.trust.base > kept:
            await self.run(lambda: self.chain.keep_trusted_epoch(self.trust.base))

    def learn_checkpoint(self, checkpoint: Checkpoint | None) -> None:
        """Takes a checkpoint that a peer showed or the ledger recorded.

        One of another era, in which that peer may honestly be, counts as not shown (G27).

        Raises:
            EpochForkError: the governance root vouched for another history than one this node
                followed, or than one it vouched for before.
            VerificationError: it did not vouch for this one.
        """
        if checkpoint is None:
            return
        header = decode_header(checkpoint.header)
        if header.era == self.chain.rules.era and self.trust.learn(checkpoint):
            logger.info("checkpoint of epoch %d, height %d", header.epoch, header.height)
            self._compare_walked(header)

    def _compare_walked(self, vouched: Header) -> None:
        """Compares how an epoch ended in the own ledger with what governance vouches for (G13).

        Epochs that end later are compared when they do; this is for those passed before.
        """
        for step in self.chain.epoch_steps(vouched.epoch, 1):
            walked = decode_header(step.header)
            if walked.epoch == vouched.epoch and walked.block_id != vouched.block_id:
                raise EpochForkError(vouched.epoch, walked.block_id, vouched.block_id)

    def _tell(self, results: tuple[CommitResult, ...]) -> None:
        for result in results:
            self._recent[result.header.height] = result.header.block_id
            while len(self._recent) > RECENT_MAX:
                self._recent.pop(next(iter(self._recent)))
            for listener in self._listeners:
                listener(result)
        if results:
            self._advanced.set()
            self._advanced = trio.Event()

    async def wait_advanced(self) -> None:
        """Waits until at least one more block became final."""
        await self._advanced.wait()

    def expect(self, height: int, block_id: BlockId) -> None:
        """Names a header that somebody this node believes vouched for: no other of its height.

        Raises the alarm if the own copy holds another one already.
        """
        held = self.chain.header_at(height)
        if held is not None and held.block_id != block_id:
            self.raise_alarm(
                VerificationError(
                    f"my ledger has another block {height} than {block_id.hex()[:8]}, which was "
                    "vouched for [chain.checkpoint]"
                )
            )
        self.chain.expected = (height, block_id)

    def listen_alarm(self, listener: Callable[[str], None]) -> None:
        """Adds a listener for the alarm; called in the event loop, must not block."""
        self._alarm_listeners.append(listener)

    def raise_alarm(self, error: SwarmError) -> None:
        """Stops believing the validators: they certified what the rules forbid."""
        if self.alarm is None:
            self.alarm = str(error)
            logger.error("ALARM: %s; nothing is accepted until an operator looks", error)
            for listener in self._alarm_listeners:
                listener(self.alarm)
