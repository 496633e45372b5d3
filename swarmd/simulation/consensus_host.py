"""Drives the production consensus engine in the world, with a small deterministic application.

A `ConsensusHost` is one running process: an engine for each epoch it sits in, vote journal, store
of final blocks, disk and power switch. Outside the set it follows. Messages carry the epoch they
belong to; who hears of a later one asks the sender for the blocks up to it.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from ledger.block import Block, body_root
from ledger.consensus_messages import Message, VoteMessage, decode_message, encode_message
from ledger.header import Header
from ledger.journal import MemoryJournal
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
    Persist,
    Send,
    Serve,
    Start,
    TimerFired,
    TransactionsPending,
    Verdict,
    Verify,
)
from ledger.simplex.rules import is_closed, proposal_time_ms, verify_time
from ledger.vote import Evidence
from protocol.digest import Digest
from protocol.errors import RemoteProtocolError, VerificationError
from swarmd.simulation.consensus_cluster import ERA, Cluster
from swarmd.simulation.consensus_events import AskRun, Local, Stored, Tagged
from swarmd.simulation.consensus_store import Run, Store, executed, is_final_run
from swarmd.simulation.invariants import WatchedJournal

ASK_PAUSE_S: Final = 0.2
"""Least time between two questions for blocks, seconds."""
POLL_S: Final = 1.0
"""Pause between the questions of a process that does not sit in the set, seconds."""


class ConsensusHost:
    """One process that holds a validator's keys."""

    def __init__(
        self,
        cluster: Cluster,
        index: int,
        *,
        engine: type[Simplex] = Simplex,
        is_honest: bool = True,
        skew_ms: int = 0,
    ) -> None:
        """Adds a host to the cluster's world; `start` switches it on.

        Args:
            cluster: chain it belongs to.
            index: process whose keys it holds; in the first epoch also its seat.
            engine: machine to run; Byzantine ones are subclasses of the production engine.
            is_honest: whether invariants about honest validators apply to it.
            skew_ms: error of its wall clock, milliseconds.
        """
        self.cluster = cluster
        self.index = index
        self.is_honest = is_honest
        self.journal: MemoryJournal = WatchedJournal()
        self.store = Store()
        self.engine: Simplex | None = None
        self.epoch = 1
        self.halted: str | None = None
        self.restored = False
        self._engine_type = engine
        self._skew_ms = skew_ms
        if is_honest:
            cluster.skew_ms_max = max(cluster.skew_ms_max, abs(skew_ms))
        self._run = 0
        self._engine_run = 0
        self._is_up = False
        self._pending = False
        self._left_over: tuple[Evidence, ...] = ()
        self._asked_at = -ASK_PAUSE_S
        self._told_at: dict[int, float] = {}
        self._poll_at: float | None = None
        self._queue: deque[Input] = deque()
        self.actor = cluster.world.add(self)
        cluster.hosts.append(self)
        cluster.actors[index].append(self.actor)

    # -- power ---------------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        """Whether the process runs."""
        return self._is_up

    @property
    def final(self) -> Header:
        """Header of its last final block."""
        return self.store.entries[-1][0].header if self.store.entries else self.cluster.genesis

    def start(self) -> None:
        """Starts the process from what its disk holds."""
        self._is_up = True
        self._left_over = ()
        self._open_epoch()

    def crash(self) -> None:
        """Cuts the power: what is not synced is lost."""
        self._run += 1
        self._is_up = False
        self._drop_engine()
        self.store.lose_unsynced()

    def _drop_engine(self) -> None:
        """Ends the engine; votes that were not durable were not sent either."""
        if self.engine is not None:
            self.store.audit += self.engine.certificates
        self._engine_run += 1
        self.engine = None
        self._queue.clear()
        self.journal.lose_unsynced()

    def restore_journal(self, copy: MemoryJournal) -> None:
        """Puts an old copy of the journal in place; call while the host is down."""
        self.journal = copy
        self.restored = True

    def set_pending(self, pending: bool) -> None:
        """Tells the engine whether there are transactions."""
        self._pending = pending
        if self.engine is not None:
            self.feed(TransactionsPending(pending))
            self.cluster.world.poke(self.actor)

    # -- epochs --------------------------------------------------------------------------------

    @property
    def seat(self) -> int | None:
        """Own index in the current epoch's set, if there is a key for it."""
        seat = self.cluster.seat_of(self.index, self.epoch)
        if seat is None or self.cluster.validators_of(self.epoch).key_of(seat) is None:
            return None
        return seat

    def _open_epoch(self) -> None:
        """Starts an engine on the last final block, in the epoch that follows from it."""
        cluster, final = self.cluster, self.final
        self.epoch = final.epoch + 1 if final.closes_epoch else final.epoch
        seat, now = self.seat, cluster.world.now
        if seat is None:
            self._poll_at = now + cluster.world.random.random() * POLL_S
            return
        self._poll_at = None
        self.engine = self._engine_type(
            chain=cluster.chain,
            era=ERA,
            validators=cluster.validators_of(self.epoch),
            index=seat,
            signer=cluster.signer(self.index, self.epoch),
            verifier=cluster.verifier,
            parameters=cluster.parameters,
            previous=cluster.validators_of(self.epoch - 1) if self.epoch > 1 else None,
        )
        certificate = self.store.entries[-1][1] if self.store.entries else None
        self.feed(
            Start(
                records=self.journal.load(),
                final=final,
                certificate=certificate,
                nonce=cluster.world.random.randbytes(32),
                evidence=self._left_over,
            )
        )
        self.feed(TransactionsPending(self._pending))

    def _epoch_start(self) -> Header:
        """The block that the current epoch began on."""
        closed = [height for height in self.store.handovers if height <= self.final.height]
        if not closed:
            return self.cluster.genesis
        return self.store.entries[max(closed) - 1][0].header

    def _ask_blocks(self, source: int) -> None:
        """Asks a host for what is final above the own last block, not too often."""
        world = self.cluster.world
        if world.now >= self._asked_at + ASK_PAUSE_S:
            self._asked_at = world.now
            world.send(self.actor, source, AskRun(self.final.height))

    def _follow(self, source: int, run: Run) -> None:
        """Adopts a run of final blocks and starts a new engine on its end."""
        cluster = self.cluster
        known = self.final.height
        blocks = tuple(block for block in run.blocks if block.header.height > known)
        if not blocks:
            return
        fresh = Run(blocks, run.fillers, run.certificate)
        validators = cluster.validators_of(self.epoch)
        try:
            run.certificate.verify(validators, cluster.chain, ERA, cluster.verifier)
        except VerificationError:
            return
        if is_final_run(fresh, self.final, validators, certificate_ok=True):
            self._drop_engine()
            self._adopt(blocks, run.fillers, run)
            self._open_epoch()
            self._asked_at = cluster.world.now
            cluster.world.send(self.actor, source, AskRun(self.final.height))

    # -- actor ---------------------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """The engine's deadline while the host is up, or when to poll outside the set."""
        if not self._is_up:
            return None
        return self._poll_at if self.engine is None else self.engine.deadline

    def wake(self, now: float) -> None:
        """Feeds the timer, or polls."""
        if self.engine is not None:
            self.feed(TimerFired())
        elif self._poll_at is not None and now >= self._poll_at:
            self._poll_at = now + POLL_S
            self._ask_blocks(self.cluster.world.random.randrange(len(self.cluster.hosts)))

    def receive(self, source: int, message: object, now: float) -> None:
        """Takes a message of another host."""
        if not self._is_up:
            return
        if isinstance(message, AskRun):
            answer = self.store.run_after(message.height)
            if answer is not None:
                self.cluster.world.send(self.actor, source, answer)
        elif isinstance(message, Run):
            self._follow(source, message)
        elif isinstance(message, Tagged):
            self._receive_tagged(source, message, now)

    def _receive_tagged(self, source: int, message: Tagged, now: float) -> None:
        if message.epoch > self.epoch:
            self._ask_blocks(source)
        elif message.epoch < self.epoch:
            if now >= self._told_at.get(source, -ASK_PAUSE_S) + ASK_PAUSE_S:
                self._told_at[source] = now
                self.cluster.world.send(self.actor, source, Tagged(self.epoch, None))
        elif self.engine is not None and message.content is not None:
            engine = self.engine
            before = (engine.view, engine.final.height)
            refused = self._feed_message(source, message.content)
            if message.is_bad:
                self.cluster.watch.on_bad(self, before, refused=refused)

    def _feed_message(self, source: int, content: Message | bytes) -> bool:
        """Feeds a message; scores the peer if the engine refuses it, and then returns True."""
        process = self.cluster.hosts[source].index
        peer = self.cluster.seat_of(process, self.epoch)
        if peer is None:
            return False
        try:
            message = decode_message(content) if isinstance(content, bytes) else content
            self.feed(MessageReceived(peer, message))
        except (RemoteProtocolError, VerificationError) as error:
            self.cluster.watch.on_refused(self, process, error)
            return True
        return False

    def handle(self, event: object, _now: float) -> None:
        """Takes answers of the disk and the processor."""
        if isinstance(event, Local) and event.run == self._engine_run:
            if isinstance(event.event, Durable):
                self._sync(event.event.sequence)
            self.feed(event.event)
        elif isinstance(event, Stored) and event.run == self._run:
            self._on_stored(event.height)

    def _on_stored(self, height: int) -> None:
        self.store.synced = max(self.store.synced, height)
        header = self.store.entries[self.store.synced - 1][0].header
        self.journal.prune(header.epoch, header.view)

    def feed(self, event: Input) -> None:
        """Gives the engine an input and executes what it asks for."""
        self._queue.append(event)
        while self._queue and self.engine is not None:
            for effect in self.engine.handle(self._queue.popleft(), self.cluster.world.now):
                self._execute(effect)
            self.cluster.watch.after_input(self)

    def _sync(self, sequence: int) -> None:
        self.journal.sync(sequence)
        self.cluster.watch.on_sync(self)

    def _later(self, delay_s: float, event: Input) -> None:
        if delay_s == 0.0:
            if isinstance(event, Durable):
                self._sync(event.sequence)
            self._queue.append(event)
            return
        world = self.cluster.world
        world.post(self.actor, world.random.random() * delay_s, Local(self._engine_run, event))

    def _execute(self, effect: Effect) -> None:
        cluster = self.cluster
        match effect:
            case Send(to, message):
                if isinstance(message, VoteMessage) and message.vote.signer == self.seat:
                    cluster.watch.on_vote(self, message.vote)
                self.transmit(to, message)
            case Persist(sequence, records):
                self.journal.write(sequence, records)
                self._later(cluster.disk.sync_s, Durable(sequence))
            case Build():
                self._later(cluster.disk.compute_s, Built(effect.view, self._build(effect)))
            case Verify(block, ancestors):
                parent = ancestors[-1].header if ancestors else self.final
                cluster.watch.on_verify(self, block)
                ok = self._is_valid(block, parent)
                cluster.watch.on_verdict(self, block, ok=ok)
                self._later(cluster.disk.compute_s, Verdict(block.block_id, ok))
            case Commit():
                run = Run(effect.blocks, effect.fillers, effect.certificate)
                self.store.audit += [*effect.skips, *effect.notarized]
                self._adopt(effect.blocks, effect.fillers, run)
            case EpochEnded(_, evidence):
                self._drop_engine()
                self._left_over = evidence
                self._open_epoch()
            case Serve():
                answer = self.store.answer(effect)
                if answer is not None:
                    self.transmit(effect.to, answer)
            case Blame(evidence):
                self._note_blame(evidence)
            case Halt(reason):
                self.halted = reason
                if self.is_honest and not self.restored:
                    cluster.violate(f"honest host {self.actor} halted: {reason}")

    def _note_blame(self, evidence: Evidence) -> None:
        cluster = self.cluster
        validators = cluster.validators_of(evidence.epoch)
        evidence.verify(validators, cluster.chain, ERA, cluster.verifier)
        cluster.watch.on_evidence(self, evidence)

    def transmit(self, to: int, message: Message) -> None:
        """Sends a message to every process that holds a seat's key in this epoch."""
        cluster = self.cluster
        payload = Tagged(self.epoch, encode_message(message) if cluster.wire else message)
        seats = cluster.seats(self.epoch)
        for process in seats if to == ALL else (seats[to],):
            for actor in cluster.actors[process]:
                if actor != self.actor and not (to == ALL and process == self.index):
                    cluster.world.send(self.actor, actor, payload)

    # -- application ---------------------------------------------------------------------------

    def _now_ms(self) -> int:
        return self.cluster.now_ms + self._skew_ms

    def _build(self, request: Build) -> Block | None:
        parent = request.parent
        time_ms = proposal_time_ms(parent, self._now_ms())
        if time_ms is None:
            return None
        closed = is_closed(parent, self.epoch)
        transactions = self.draw_transactions(request) if self._pending and not closed else ()
        evidence = tuple(
            item
            for item in request.evidence
            if not closed and (item.epoch, item.signer) not in self.store.convicted
        )
        log_size, log_root, state_root = executed(
            parent, transactions, request.skips, closed=closed
        )
        header = Header(
            chain=self.cluster.chain,
            era=ERA,
            epoch=self.epoch,
            view=request.view,
            height=parent.height + 1,
            parent=request.parent_id,
            parent_view=request.parent_view,
            time_ms=time_ms,
            proposer=self.cluster.validators_of(self.epoch).leader(request.view),
            body_root=body_root(transactions, evidence, request.skips),
            log_size=log_size,
            log_root=log_root,
            state_root=state_root,
            validators=self.cluster.validators_of(self.epoch).digest,
            next_validators=self._next_validators(parent, time_ms),
        )
        return Block(header, transactions, evidence, request.skips)

    def draw_transactions(self, request: Build) -> tuple[bytes, ...]:
        """What goes into a block of its own; fillers, unless a scenario knows something better."""
        return tuple(
            b"filler %d of view %d" % (number, request.view)
            for number in range(self.cluster.world.random.randrange(3))
        )

    def are_valid(self, transactions: tuple[bytes, ...]) -> bool:  # noqa: ARG002
        """Whether a proposal with these may be voted for; fillers always may."""
        return True

    def on_final(self, blocks: tuple[Block, ...], run: Run) -> None:
        """Told of each run of blocks that became final here; scenarios override it."""

    def _next_validators(self, parent: Header, time_ms: int) -> Digest:
        """What a block of this epoch with this time must say about its successors."""
        if is_closed(parent, self.epoch):
            return parent.next_validators
        is_due = self.cluster.is_due(self._epoch_start(), time_ms)
        return self.cluster.validators_of(self.epoch + is_due).digest

    def _is_valid(self, block: Block, parent: Header) -> bool:
        """Executes a block as production does: time rule, then log, state and next set."""
        header = block.header
        try:
            verify_time(header, parent, now_ms=self._now_ms())
        except VerificationError:
            return False
        closed = is_closed(parent, self.epoch)
        if closed and (block.transactions or block.evidence):
            return False
        if any((item.epoch, item.signer) in self.store.convicted for item in block.evidence):
            return False
        if header.next_validators != self._next_validators(parent, header.time_ms):
            return False
        if not self.are_valid(block.transactions):
            return False
        after = (header.log_size, header.log_root, header.state_root)
        return after == executed(parent, block.transactions, block.skips, closed=closed)

    def _adopt(self, blocks: tuple[Block, ...], fillers: tuple[Block, ...], run: Run) -> None:
        if self.is_honest:
            self.cluster.watch.on_commit(self, blocks, self.final)
        self.store.add(blocks, fillers, run.certificate)
        self.store.audit.append(run.certificate)
        self.on_final(blocks, run)
        world = self.cluster.world
        height = blocks[-1].header.height
        if self.cluster.disk.commit_s == 0.0:
            self._on_stored(height)
        else:
            delay_s = world.random.random() * self.cluster.disk.commit_s
            world.post(self.actor, delay_s, Stored(self._run, height))
