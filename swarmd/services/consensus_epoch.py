"""One epoch of a validator: its Simplex engine, its journal, its streams and its ledger jobs.

The engine is pure; this host executes its effects. Three queues keep its promises: votes leave
only after the journal made them durable; the ledger executes jobs in the order asked; each other
validator has one bounded queue of messages, of which the oldest is dropped when the link is too
slow (the engine repeats what matters). Each validator opens its own stream to each other one and
only writes to it; its first frame names the epoch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar, assert_never

import trio

from ledger.block import Block, decode_block
from ledger.certificate import Certificate
from ledger.consensus_messages import (
    BLOCKS_COUNT_MAX,
    MESSAGE_BYTES_MAX,
    Blocks,
    Message,
    encode_message,
    encode_opening,
)
from ledger.errors import (
    BlockNotReadyError,
    ForkAlarmError,
    InvalidBlockError,
    UnsupportedVersionError,
)
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
    EpochEnded,
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
from ledger.validators import ValidatorSet
from ledger.vote import Evidence
from protocol.errors import LocalProtocolError, RemoteProtocolError, TransportError
from protocol.version import ProtocolName, protocol_id
from swarmd.clock import Clock
from swarmd.entropy import Entropy
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.net.network import Network
from swarmd.peers import PeerRegistry

_Job = TypeVar("_Job")

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
class Surroundings:
    """What every epoch of a validator lives in."""

    network: Network
    """Streams to the other validators."""
    ledger: LedgerHost
    """The chain to build and execute on."""
    registry: PeerRegistry
    """Under which keys validators are connected."""
    clock: Clock
    """The wall clock, for header times."""
    entropy: Entropy
    """Nonces of start-up questions."""


class ConsensusEpoch:
    """Runs one validator's engine in one epoch."""

    def __init__(
        self,
        around: Surroundings,
        *,
        validators: ValidatorSet,
        index: int,
        engine: Simplex,
        journal: VoteJournal | None,
        journal_fault: str | None,
        evidence: tuple[Evidence, ...],
        on_blame: Callable[[Evidence], None],
    ) -> None:
        """Wires the epoch; `run` starts it.

        Args:
            around: what outlives the epoch.
            validators: the epoch's set.
            index: this validator's place in it.
            engine: not yet started.
            journal: durable votes of this epoch's key; None when it is damaged.
            journal_fault: why the key must not vote, when the journal is damaged.
            evidence: proofs left over from the epoch before.
            on_blame: told when a validator contradicted itself.
        """
        self._network = around.network
        self._ledger = around.ledger
        self._registry = around.registry
        self._clock = around.clock
        self._entropy = around.entropy
        self._validators = validators
        self._engine = engine
        self._journal = journal
        self._journal_fault = journal_fault
        self._index = index
        self._evidence = evidence
        self._on_blame = on_blame
        self._protocol = protocol_id(around.ledger.chain_id, ProtocolName.CONSENSUS)
        self._rearm = trio.Event()
        self._outboxes: dict[
            int, tuple[trio.MemorySendChannel[bytes], trio.MemoryReceiveChannel[bytes]]
        ] = {}
        self._persist_send, self._persist_receive = trio.open_memory_channel[Persist](JOBS_MAX)
        self._job_send, self._job_receive = trio.open_memory_channel[LedgerJob](JOBS_MAX)
        self._started = False
        self._pruned_view = 0

    @property
    def index(self) -> int:
        """This validator's place in the set."""
        return self._index

    @property
    def epoch(self) -> int:
        """Number of the epoch."""
        return self._validators.epoch

    @property
    def view(self) -> int:
        """Current view; 0 before the start."""
        return self._engine.view if self._started else 0

    @property
    def final_height(self) -> int:
        """Height of the engine's last final block; -1 before the start."""
        return self._engine.final.height if self._started else -1

    @property
    def may_vote(self) -> bool:
        """Whether the start-up question is answered and the key not halted."""
        return self._started and self._engine.may_vote

    @property
    def halted(self) -> str | None:
        """Why this epoch's key never votes again."""
        return self._engine.halted if self._started else self._journal_fault

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """Proofs that no final block holds yet."""
        return self._engine.evidence if self._started else self._evidence

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        """What the engine holds for views that it did not see the end of."""
        return self._engine.certificates if self._started else ()

    async def run(self) -> None:
        """Starts the engine and keeps it running until cancelled.

        Returns at once if the epoch is over before the journal is read: others went on meanwhile.
        """
        journal = self._journal
        records = () if journal is None else await trio.to_thread.run_sync(journal.load)
        if self._ledger.chain.validators.epoch != self._validators.epoch:
            return
        tip = self._ledger.chain.tip
        async with trio.open_nursery() as nursery:
            for index, member in enumerate(self._validators.members):
                if index != self._index and member.key is not None:
                    self._outboxes[index] = trio.open_memory_channel[bytes](OUTBOX_MAX)
                    nursery.start_soon(self._keep_sending, index)
            nursery.start_soon(self._keep_persisting)
            nursery.start_soon(self._keep_working)
            self._feed(
                Start(
                    records=tuple(records),
                    final=tip.header,
                    certificate=tip.certificate,
                    nonce=self._entropy.token(32),
                    halted=self._journal_fault,
                    evidence=self._evidence,
                )
            )
            self._started = True
            self.transactions_changed()
            nursery.start_soon(self._keep_time)

    def transactions_changed(self) -> None:
        """Tells the engine whether there is a reason for a block."""
        if self._started:
            self._feed(TransactionsPending(self._has_reason()))

    def _has_reason(self) -> bool:
        """Whether transactions wait, the epoch may end, or the head is older than a beat."""
        chain, now_ms = self._ledger.chain, self._clock.wall_ms()
        behind_ms = now_ms - chain.head.time_ms
        return (
            self._ledger.has_pending
            or behind_ms > chain.rules.parameters.heartbeat_ms
            or chain.is_epoch_due(now_ms)
        )

    def peer_connected(self, index: int) -> None:
        """A validator can be reached: it is told where we stand."""
        if self._started and index != self._index:
            self._feed(PeerConnected(index))

    def receive(self, index: int, message: Message) -> None:
        """Feeds a message of this epoch.

        Raises:
            RemoteProtocolError: the peer broke the protocol.
        """
        if self._started and index != self._index:
            self._feed(MessageReceived(index, message))

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
            case EpochEnded():
                logger.info("epoch %d is over", self.epoch)
            case Blame(evidence):
                logger.error(
                    "validator %d contradicted itself in epoch %d: evidence kept",
                    evidence.signer,
                    evidence.epoch,
                )
                self._on_blame(evidence)
            case Halt(reason):
                logger.error("this validator's key votes no more: %s", reason)
            case _:
                assert_never(effect)

    @staticmethod
    def _put(channel: trio.MemorySendChannel[_Job], job: _Job) -> None:
        try:
            channel.send_nowait(job)
        except trio.WouldBlock:
            raise LocalProtocolError(f"{JOBS_MAX} jobs wait: the engine runs away") from None

    def _post(self, index: int, data: bytes) -> None:
        channels = self._outboxes.get(index)
        if channels is None:
            return  # an empty seat
        send, receive = channels
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
        except (BlockNotReadyError, InvalidBlockError, UnsupportedVersionError) as error:
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
                    job.run[-1].block_id,
                    certificate,
                    ancestors=job.run,
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
        if not 0 < len(answer.blocks) <= BLOCKS_COUNT_MAX:
            return
        data = encode_message(answer)
        if len(data) <= MESSAGE_BYTES_MAX:  # else it follows by the ledger stream
            self._post(job.to, data)

    # -- streams -------------------------------------------------------------------------------

    def _key_of(self, index: int) -> PeerKey | None:
        """The transport key under which a validator is connected.

        Not what my copy of the ledger says: the key may have been rotated in a block I do not have.
        """
        peer = self._registry.by_did(self._validators.members[index].did)
        return None if peer is None else peer.key

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
            await stream.send_frame(encode_opening(self.epoch))
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
