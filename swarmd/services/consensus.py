"""The consensus service: a validator's Simplex engine, its journal, its streams and its ledger.

The engine is pure; this host executes its effects. Three queues keep its promises: votes leave
only after the journal made them durable; the ledger executes jobs in the order asked; each other
validator has one bounded queue of messages, of which the oldest is dropped when the link is too
slow (the engine repeats what matters). Each validator opens its own stream to each other one and
only writes to it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final, assert_never

import trio

from ledger.block import Block, decode_block
from ledger.certificate import Certificate
from ledger.consensus_messages import (
    MESSAGE_BYTES_MAX,
    Blocks,
    decode_message,
    encode_message,
)
from ledger.errors import BlockNotReadyError, ForkAlarmError, InvalidBlockError
from ledger.journal import VoteJournal
from ledger.simplex.engine import Simplex
from ledger.simplex.interface import (
    ALL,
    Blame,
    Build,
    Built,
    Commit,
    Durable,
    Effect,
    Halt,
    Input,
    MessageReceived,
    PeerConnected,
    Persist,
    Send,
    Serve,
    Start,
    TimerFired,
    TransactionsPending,
    Verdict,
    Verify,
)
from protocol.errors import (
    LocalProtocolError,
    RemoteProtocolError,
    TransportError,
    VerificationError,
)
from protocol.version import ProtocolName, protocol_id
from swarmd.clock import Clock
from swarmd.entropy import Entropy
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.net.network import Network, Stream
from swarmd.peers import Offence, PeerRegistry

logger = logging.getLogger(__name__)

OUTBOX_MAX: Final = 256
"""Messages that wait for one validator; a proposal is at most 256 KiB."""
JOBS_MAX: Final = 1024
"""Jobs that wait for journal or ledger; the engine has a handful under way at most."""
REOPEN_S: Final = 0.5
"""Pause before a failed stream to a connected validator is opened again, seconds."""
PRUNE_VIEWS: Final = 64
"""Views between two prunings of the journal."""
STREAM_BYTES_MAX: Final = MESSAGE_BYTES_MAX
"""Frame bound to register the protocol with."""
LedgerJob = Build | Verify | Commit | Serve


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsensusStatus:
    """What an operator sees of a validator."""

    view: int
    """Current view."""
    may_vote: bool
    """Whether the start-up question is answered and the key not halted."""
    halted: str | None
    """Why this key never votes again."""
    convicted: tuple[int, ...]
    """Validators that contradicted themselves."""


class ConsensusService:
    """Runs one validator's engine."""

    def __init__(
        self,
        *,
        network: Network,
        ledger: LedgerHost,
        registry: PeerRegistry,
        clock: Clock,
        entropy: Entropy,
        engine: Simplex,
        journal: VoteJournal | None,
        journal_fault: str | None,
        index: int,
    ) -> None:
        """Wires the service.

        Args:
            network: streams to the other validators.
            ledger: the chain to build and execute on.
            registry: where misbehaviour is scored.
            clock: the wall clock, for header times.
            entropy: nonce of the start-up question.
            engine: not yet started.
            journal: durable votes; None when it is damaged.
            journal_fault: why the key must not vote, when the journal is damaged.
            index: this validator's place in the set.
        """
        self._network = network
        self._ledger = ledger
        self._registry = registry
        self._clock = clock
        self._entropy = entropy
        self._engine = engine
        self._journal = journal
        self._journal_fault = journal_fault
        self._index = index
        self._protocol = protocol_id(ledger.chain_id, ProtocolName.CONSENSUS)
        self._rearm = trio.Event()
        self._convicted: dict[int, None] = {}
        self._outboxes: dict[
            int, tuple[trio.MemorySendChannel[bytes], trio.MemoryReceiveChannel[bytes]]
        ] = {}
        self._persist_send, self._persist_receive = trio.open_memory_channel[Persist](JOBS_MAX)
        self._job_send, self._job_receive = trio.open_memory_channel[LedgerJob](JOBS_MAX)
        self._started = False
        self._pruned_view = 0

    @property
    def status(self) -> ConsensusStatus:
        """What an operator sees."""
        return ConsensusStatus(
            view=self._engine.view if self._started else 0,
            may_vote=self._started and self._engine.may_vote,
            halted=self._engine.halted if self._started else self._journal_fault,
            convicted=tuple(self._convicted),
        )

    async def run(self) -> None:
        """Starts the engine and keeps it running until cancelled."""
        journal = self._journal
        records = () if journal is None else await trio.to_thread.run_sync(journal.load)
        chain = self._ledger.chain
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for index in range(len(chain.validators.members)):
                if index != self._index:
                    self._outboxes[index] = trio.open_memory_channel[bytes](OUTBOX_MAX)
                    nursery.start_soon(self._keep_sending, index)
            nursery.start_soon(self._keep_persisting)
            nursery.start_soon(self._keep_working)
            self._started = True
            self._feed(
                Start(
                    records=tuple(records),
                    final=chain.head,
                    certificate=chain.certificate,
                    nonce=self._entropy.token(32),
                    halted=self._journal_fault,
                )
            )
            nursery.start_soon(self._keep_time)

    def transactions_changed(self) -> None:
        """Tells the engine whether transactions wait; call when the mempool changed."""
        if self._started:
            self._feed(TransactionsPending(self._has_reason()))

    def _has_reason(self) -> bool:
        """Whether a block is worth making: transactions wait, or the head is older than a beat."""
        behind_ms = self._clock.wall_ms() - self._ledger.chain.head.time_ms
        return (
            self._ledger.has_pending
            or behind_ms > self._ledger.chain.genesis.parameters.heartbeat_ms
        )

    # -- the engine ----------------------------------------------------------------------------

    def _feed(self, event: Input) -> None:
        """Gives the engine an input and starts the effects; never waits."""
        for effect in self._engine.handle(event, trio.current_time()):
            self._start_effect(effect)
        self._rearm.set()

    def _start_effect(self, effect: Effect) -> None:
        match effect:
            case Persist():
                self._put(self._persist_send, effect)
            case Send(to, message, _):
                data = encode_message(message)
                for index in self._outboxes if to == ALL else (to,):
                    self._post(index, data)
            case Build() | Verify() | Commit() | Serve():
                self._put(self._job_send, effect)
            case Blame(evidence):
                self._convicted[evidence.first.signer] = None
                logger.error(
                    "validator %d contradicted itself: evidence kept", evidence.first.signer
                )
            case Halt(reason):
                logger.error("this validator's key votes no more: %s", reason)
            case _:
                assert_never(effect)

    @staticmethod
    def _put(
        channel: trio.MemorySendChannel[Persist] | trio.MemorySendChannel[LedgerJob],
        job: Persist | LedgerJob,
    ) -> None:
        try:
            channel.send_nowait(job)  # type: ignore[arg-type]
        except trio.WouldBlock:
            raise LocalProtocolError(f"{JOBS_MAX} jobs wait: the engine runs away") from None

    def _post(self, index: int, data: bytes) -> None:
        send, receive = self._outboxes[index]
        try:
            send.send_nowait(data)
        except trio.WouldBlock:
            receive.receive_nowait()  # the oldest; the engine repeats what still matters
            send.send_nowait(data)

    async def _keep_time(self) -> None:
        while True:
            self._rearm = trio.Event()
            deadline = self._engine.deadline
            with trio.CancelScope() as scope:
                if deadline is not None:
                    scope.deadline = deadline
                await self._rearm.wait()
            if scope.cancelled_caught:
                self._feed(TimerFired())

    # -- journal and ledger --------------------------------------------------------------------

    async def _keep_persisting(self) -> None:
        async for first in self._persist_receive:
            batch = [first]
            while True:
                try:
                    batch.append(self._persist_receive.receive_nowait())
                except trio.WouldBlock:
                    break
            records = [record for job in batch for record in job.records]
            assert self._journal is not None, "a key without journal never votes"
            journal = self._journal
            await trio.to_thread.run_sync(lambda: journal.append(records))  # noqa: B023
            self._feed(Durable(batch[-1].sequence))

    async def _keep_working(self) -> None:
        async for job in self._job_receive:
            match job:
                case Build():
                    await self._build(job)
                case Verify():
                    await self._verify(job)
                case Commit():
                    await self._commit(job)
                case Serve():
                    await self._serve(job)

    async def _build(self, job: Build) -> None:
        chain = self._ledger.chain
        now_ms = self._clock.wall_ms()

        def build() -> Block:
            return chain.build(
                job.parent_id,
                view=job.view,
                proposer=self._index,
                now_ms=now_ms,
                skips=job.skips,
                evidence=job.evidence,
                ancestors=job.ancestors,
            )

        block: Block | None = None
        try:
            block = await self._ledger.run(build)
        except (BlockNotReadyError, InvalidBlockError) as error:
            logger.warning("no proposal for view %d: %s", job.view, error)
        self._feed(Built(job.view, block))

    async def _verify(self, job: Verify) -> None:
        chain = self._ledger.chain
        now_ms = self._clock.wall_ms()

        def check() -> bool | None:
            try:
                chain.check(job.block, now_ms, ancestors=job.ancestors)
            except InvalidBlockError as error:
                logger.warning("proposal of view %d refused: %s", job.block.header.view, error)
                return False
            except BlockNotReadyError as error:  # missing is not invalid: no verdict
                logger.warning("proposal of view %d not judged: %s", job.block.header.view, error)
                return None
            return True

        verdict = await self._ledger.run(check)
        if verdict is not None:
            self._feed(Verdict(job.block.block_id, verdict))

    async def _commit(self, job: Commit) -> None:
        chain = self._ledger.chain
        certificate: Certificate = job.certificate
        try:
            await self._ledger.run_commit(
                lambda: chain.commit(
                    job.blocks[-1].block_id,
                    certificate,
                    ancestors=job.blocks,
                    skips=job.skips,
                    notarized=job.notarized,
                )
            )
        except ForkAlarmError as error:
            self._ledger.raise_alarm(error)
        await self._prune_journal(certificate)
        self.transactions_changed()

    async def _prune_journal(self, certificate: Certificate) -> None:
        """Drops journal records that finality made superfluous, now and then."""
        if self._journal is not None and certificate.view >= self._pruned_view + PRUNE_VIEWS:
            self._pruned_view = certificate.view
            journal = self._journal
            await trio.to_thread.run_sync(journal.prune, certificate.epoch, certificate.view)

    async def _serve(self, job: Serve) -> None:
        chain = self._ledger.chain

        def read() -> Blocks:
            if job.after is None:
                held = [chain.block(block_id) for block_id in job.block_ids]
                return Blocks(blocks=_within([b for b in held if b], job.bytes_max))
            raws, certificate = chain.blocks(job.after + 1, job.bytes_max)
            return Blocks(blocks=tuple(decode_block(raw) for raw in raws), certificate=certificate)

        answer = await self._ledger.run(read)
        if answer.blocks:
            self._post(job.to, encode_message(answer))

    # -- streams -------------------------------------------------------------------------------

    def _key_of(self, index: int) -> PeerKey | None:
        """The transport key under which a validator is connected.

        Not what my copy of the ledger says: the key may have been rotated in a block I do not have.
        """
        peer = self._registry.by_did(self._ledger.chain.validators.members[index].did)
        return None if peer is None else peer.key

    def _index_of(self, peer: PeerKey) -> int | None:
        known = self._registry.get(peer)
        members = self._ledger.chain.validators.members
        if known is None or known.did is None:
            return None
        return next((i for i, member in enumerate(members) if member.did == known.did), None)

    def peer_connected(self, peer: PeerKey) -> None:
        """A validator's standing was established: it is told where we stand."""
        index = self._index_of(peer)
        if self._started and index is not None and index != self._index:
            self._feed(PeerConnected(index))

    async def answer(self, stream: Stream) -> None:
        """Handles an inbound consensus stream: reads messages until it ends."""
        index = self._index_of(stream.peer)
        if index is None or index == self._index:
            await stream.reset()
            return
        try:
            while (frame := await stream.receive_frame()) is not None:
                message = decode_message(frame)
                if self._started:
                    self._feed(MessageReceived(index, message))
        except (RemoteProtocolError, VerificationError) as error:
            self._registry.blame(stream.peer, Offence.MALFORMED, f"consensus: {error}")
            await stream.reset()

    async def _keep_sending(self, index: int) -> None:
        _, outbox = self._outboxes[index]
        while True:
            key = self._key_of(index)
            if key is not None:
                try:
                    await self._send_through(key, outbox)
                except (TransportError, RemoteProtocolError) as error:
                    logger.debug("stream to validator %d: %s", index, error)
            await trio.sleep(REOPEN_S)

    async def _send_through(self, key: PeerKey, outbox: trio.MemoryReceiveChannel[bytes]) -> None:
        if not self._registry.may_open(key, self._protocol):
            return
        stream = await self._network.open_stream(
            key, self._protocol, frame_bytes_max=STREAM_BYTES_MAX
        )
        try:
            async for data in outbox:
                await stream.send_frame(data)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await stream.reset()


def _within(blocks: list[Block], bytes_max: int) -> tuple[Block, ...]:
    """The first blocks that fit a budget; one always does."""
    taken: list[Block] = []
    for block in blocks:
        bytes_max -= len(block.encoded)
        if taken and bytes_max < 0:
            break
        taken.append(block)
    return tuple(taken)
