"""Drives the production consensus engine in the world, with a small deterministic application.

A `Cluster` is one chain with its validators and the invariants that are checked after every commit:
no two final blocks at one height, nobody honest convicted, halted or scored. A `ConsensusHost` is
one running validator: engine, vote journal, store of final blocks, disk and power switch.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass, field
from itertools import combinations
from typing import Final

from ledger.block import Block, SkipProof, body_root
from ledger.certificate import Certificate, contradictions
from ledger.consensus_messages import (
    BLOCKS_COUNT_MAX,
    Blocks,
    CertificateMessage,
    Message,
    Propose,
    VoteMessage,
    decode_message,
    encode_message,
)
from ledger.header import Header, genesis_header
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
    Halt,
    Input,
    MessageReceived,
    Parameters,
    Persist,
    Send,
    Serve,
    Start,
    TimerFired,
    TransactionsPending,
    Verdict,
    Verify,
)
from ledger.simplex.rules import proposal_time_ms, verify_time
from protocol.digest import BlockId, ChainId, Digest, sha256
from protocol.errors import RemoteProtocolError, VerificationError
from protocol.merkle import EMPTY_ROOT
from swarmd.simulation.signatures import make_validators
from swarmd.simulation.world import World

EPOCH_MS: Final = 1_700_000_000_000
"""Wall clock at simulated time 0, milliseconds since 1970."""
ERA: Final = 1
"""Era of every simulated chain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """Delays of a host's disk and processor, seconds; each is drawn between 0 and the bound."""

    sync_s: float = 0.005
    """Longest flush of the vote journal."""
    commit_s: float = 0.2
    """Longest time until a final block is durable; followers batch commits."""
    compute_s: float = 0.005
    """Longest time to build or to execute a block."""


@dataclass(frozen=True, slots=True)
class Local:
    """An answer of the host's own disk or processor; void after a crash."""

    run: int
    """Which run of the host asked."""
    event: Input
    """What to feed."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Final blocks up to a height reached the disk."""

    run: int
    """Which run of the host asked."""
    height: int
    """Height that is durable now."""


@dataclass(slots=True)
class Store:
    """Final blocks of one host; loses what was not synced when the power fails."""

    entries: list[tuple[Block, Certificate | None]] = field(default_factory=list)
    """Blocks from height 1; the newest of each commit with its finalize certificate."""
    synced: int = 0
    """Height that is durable."""
    audit: list[Certificate] = field(default_factory=list)
    """Every certificate that came with a final block, for `contradictions`."""

    def lose_unsynced(self) -> None:
        """Power loss: forgets what was not durable, back to a certified block."""
        del self.entries[self.synced :]

    def answer(self, request: Serve) -> Blocks | None:
        """Answers a want from what is stored, within the request's budget."""
        if request.after is None:
            wanted = [block for block, _ in self.entries if block.block_id in request.block_ids]
            return Blocks(tuple(wanted[:1])) if wanted else None
        rest = self.entries[request.after : request.after + BLOCKS_COUNT_MAX]
        size, best, reach = 0, 0, 0
        for position, (block, certificate) in enumerate(rest, start=1):
            size += len(block.encoded)
            if size <= request.bytes_max:
                reach = position
            if certificate is not None and (best == 0 or reach == position):
                best = position
        if best == 0:
            return None
        first = max(0, best - max(reach, 1))
        return Blocks(tuple(block for block, _ in rest[first:best]), rest[best - 1][1])


class Cluster:
    """One chain in a world: its validators, hosts and invariants."""

    def __init__(
        self,
        world: World,
        count: int,
        *,
        real_signatures: bool = False,
        wire: bool = False,
        parameters: Parameters | None = None,
        disk: Disk | None = None,
    ) -> None:
        """Makes the chain; hosts are added by `ConsensusHost`.

        Args:
            world: where it lives; its seed also decides the keys.
            count: validators.
            real_signatures: Ed25519 instead of the oracle.
            wire: encode and decode every message, as real hosts do.
            parameters: engine timers.
            disk: delays of disks and processors.
        """
        self.world: Final = world
        self.wire: Final = wire
        self.parameters: Final = parameters or Parameters()
        self.disk: Final = disk or Disk()
        self.chain: Final = ChainId(sha256(b"simulated chain"))
        self.validators, self.signers, self.verifier = make_validators(
            count, seed=world.random.getrandbits(32), real=real_signatures
        )
        self.genesis: Final = genesis_header(
            chain=self.chain,
            era=ERA,
            time_ms=EPOCH_MS,
            log_size=0,
            log_root=EMPTY_ROOT,
            state_root=EMPTY_ROOT,
            validators=self.validators.digest,
        )
        self.hosts: list[ConsensusHost] = []
        self.actors: list[list[int]] = [[] for _ in range(count)]
        self.final: dict[int, BlockId] = {}
        """The first final block seen at each height."""
        self.convicted: dict[int, None] = {}
        """Validators that evidence was found against."""
        self.violations: list[str] = []
        """What must never happen, and did."""

    @property
    def honest(self) -> list[ConsensusHost]:
        """Hosts that keep the rules."""
        return [host for host in self.hosts if host.is_honest]

    def is_honest(self, index: int) -> bool:
        """Tells whether all hosts of a validator keep the rules."""
        return all(host.is_honest for host in self.hosts if host.index == index)

    def audit(self) -> list[int]:
        """Convicts from stored certificates alone, as an auditor does; returns the culprits."""
        by_view: dict[int, list[Certificate]] = {}
        for host in self.honest:
            for certificate in host.store.audit:
                by_view.setdefault(certificate.view, []).append(certificate)
        culprits = {
            evidence.signer
            for certificates in by_view.values()
            for one, other in combinations(certificates, 2)
            for evidence in contradictions(one, other)
        }
        return sorted(culprits)

    def violate(self, what: str) -> None:
        """Notes a broken invariant."""
        self.violations.append(f"{self.world.now:.3f}s: {what}")

    def check_commit(self, host: ConsensusHost, blocks: tuple[Block, ...]) -> None:
        """Agreement: whoever is final at a height is the same everywhere."""
        for block in blocks:
            height = block.header.height
            if self.final.setdefault(height, block.block_id) != block.block_id:
                self.violate(f"disagreement at height {height}, host {host.actor}")


class ConsensusHost:
    """One validator process."""

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
            index: validator whose key it holds.
            engine: machine to run; Byzantine ones are subclasses of the production engine.
            is_honest: whether invariants about honest validators apply to it.
            skew_ms: error of its wall clock, milliseconds.
        """
        self.cluster = cluster
        self.index = index
        self.is_honest = is_honest
        self.journal = MemoryJournal()
        self.store = Store()
        self.engine: Simplex | None = None
        self.halted: str | None = None
        self.restored = False
        self._engine_type = engine
        self._skew_ms = skew_ms
        self._run = 0
        self._pending = False
        self._queue: deque[Input] = deque()
        self.actor = cluster.world.add(self)
        cluster.hosts.append(self)
        cluster.actors[index].append(self.actor)

    # -- power ---------------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        """Whether the process runs."""
        return self.engine is not None

    @property
    def final(self) -> Header:
        """Header of its last final block."""
        return self.store.entries[-1][0].header if self.store.entries else self.cluster.genesis

    def start(self) -> None:
        """Starts the process from what its disk holds."""
        cluster = self.cluster
        self.engine = self._engine_type(
            chain=cluster.chain,
            era=ERA,
            validators=cluster.validators,
            index=self.index,
            signer=cluster.signers[self.index],
            verifier=cluster.verifier,
            parameters=cluster.parameters,
        )
        certificate = self.store.entries[-1][1] if self.store.entries else None
        self.feed(
            Start(
                records=self.journal.load(),
                final=self.final,
                certificate=certificate,
                nonce=cluster.world.random.randbytes(32),
            )
        )
        self.feed(TransactionsPending(self._pending))

    def crash(self) -> None:
        """Cuts the power: what is not synced is lost."""
        self._run += 1
        self.engine = None
        self._queue.clear()
        self.journal.lose_unsynced()
        self.store.lose_unsynced()

    def restore_journal(self, copy: MemoryJournal) -> None:
        """Puts an old copy of the journal in place; call while the host is down."""
        self.journal = copy
        self.restored = True

    def set_pending(self, pending: bool) -> None:
        """Tells the engine whether there are transactions."""
        self._pending = pending
        if self.engine is not None:
            self.feed(TransactionsPending(pending))

    # -- actor ---------------------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """The engine's deadline while the host is up."""
        return None if self.engine is None else self.engine.deadline

    def wake(self, _now: float) -> None:
        """Feeds the timer."""
        self.feed(TimerFired())

    def receive(self, source: int, message: object, _now: float) -> None:
        """Feeds a message; scores the peer if the engine refuses it."""
        if self.engine is None:
            return
        peer = self.cluster.hosts[source].index
        try:
            if isinstance(message, bytes):
                message = decode_message(message)
            self.feed(MessageReceived(peer, message))  # type: ignore[arg-type]
        except (RemoteProtocolError, VerificationError) as error:
            if self.cluster.is_honest(peer):
                self.cluster.violate(f"host {self.actor} scored honest validator {peer}: {error}")

    def handle(self, event: object, _now: float) -> None:
        """Takes answers of the disk and the processor."""
        if isinstance(event, Local) and event.run == self._run:
            if isinstance(event.event, Durable):
                self.journal.sync(event.event.sequence)
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

    def _later(self, delay_s: float, event: Input) -> None:
        if delay_s == 0.0:
            if isinstance(event, Durable):
                self.journal.sync(event.sequence)
            self._queue.append(event)
            return
        world = self.cluster.world
        world.post(self.actor, world.random.random() * delay_s, Local(self._run, event))

    def _execute(self, effect: Effect) -> None:
        cluster = self.cluster
        match effect:
            case Send(to, message):
                self.transmit(to, message)
            case Persist(sequence, records):
                self.journal.write(sequence, records)
                self._later(cluster.disk.sync_s, Durable(sequence))
            case Build():
                self._later(cluster.disk.compute_s, Built(effect.view, self._build(effect)))
            case Verify(block, ancestors):
                parent = ancestors[-1].header if ancestors else self.final
                verdict = Verdict(block.block_id, self._is_valid(block, parent))
                self._later(cluster.disk.compute_s, verdict)
            case Commit():
                self._commit(effect)
            case Serve():
                answer = self.store.answer(effect)
                if answer is not None:
                    self.transmit(effect.to, answer)
            case Blame(evidence):
                evidence.verify(cluster.validators, cluster.chain, ERA, cluster.verifier)
                cluster.convicted[evidence.signer] = None
                if cluster.is_honest(evidence.signer):
                    cluster.violate(f"honest validator {evidence.signer} convicted")
            case Halt(reason):
                self.halted = reason
                if self.is_honest and not self.restored:
                    cluster.violate(f"honest host {self.actor} halted: {reason}")

    def transmit(self, to: int, message: Message) -> None:
        """Sends a message to every process that holds a validator's key."""
        cluster = self.cluster
        payload = encode_message(message) if cluster.wire else message
        targets = range(len(cluster.actors)) if to == ALL else (to,)
        for index in targets:
            for actor in cluster.actors[index]:
                if actor != self.actor and not (to == ALL and index == self.index):
                    cluster.world.send(self.actor, actor, payload)

    # -- application ---------------------------------------------------------------------------

    def _now_ms(self) -> int:
        return EPOCH_MS + int(self.cluster.world.now * 1000) + self._skew_ms + 1_000

    def _build(self, request: Build) -> Block | None:
        time_ms = proposal_time_ms(request.parent, self._now_ms())
        if time_ms is None:
            return None
        count = self.cluster.world.random.randrange(3) if self._pending else 0
        transactions = tuple(
            b"filler %d of view %d" % (number, request.view) for number in range(count)
        )
        known = {
            (item.epoch, item.signer)
            for entry, _ in self.store.entries[-1:]
            for item in entry.evidence
        }
        evidence = tuple(
            item for item in request.evidence if (item.epoch, item.signer) not in known
        )
        root = body_root(transactions, evidence, request.skips)
        log_size, log_root, state_root = _executed(request.parent, transactions, request.skips)
        header = Header(
            chain=self.cluster.chain,
            era=ERA,
            epoch=request.parent.epoch,
            view=request.view,
            height=request.parent.height + 1,
            parent=request.parent_id,
            parent_view=request.parent_view,
            time_ms=time_ms,
            proposer=self.index,
            body_root=root,
            log_size=log_size,
            log_root=log_root,
            state_root=state_root,
            validators=self.cluster.validators.digest,
            next_validators=self.cluster.validators.digest,
        )
        return Block(header, transactions, evidence, request.skips)

    def _is_valid(self, block: Block, parent: Header) -> bool:
        """Executes a block as production does: time rule, then log and state."""
        try:
            verify_time(block.header, parent, now_ms=self._now_ms())
        except VerificationError:
            return False
        header = block.header
        after = (header.log_size, header.log_root, header.state_root)
        return after == _executed(parent, block.transactions, block.skips)

    def _commit(self, commit: Commit) -> None:
        if self.is_honest:
            self.cluster.check_commit(self, commit.blocks)
        for block in commit.blocks:
            if block.header.parent != self.final.block_id:
                self.cluster.violate(f"host {self.actor} committed out of order")
            self.store.entries.append((block, None))
        self.store.entries[-1] = (commit.blocks[-1], commit.certificate)
        self.store.audit += [commit.certificate, *commit.skips, *commit.notarized]
        world = self.cluster.world
        height = commit.blocks[-1].header.height
        if self.cluster.disk.commit_s == 0.0:
            self._on_stored(height)
        else:
            delay_s = world.random.random() * self.cluster.disk.commit_s
            world.post(self.actor, delay_s, Stored(self._run, height))


def _executed(
    parent: Header, transactions: tuple[bytes, ...], skips: tuple[SkipProof, ...]
) -> tuple[int, Digest, Digest]:
    """Log and state after a block: hash chains stand in for trees."""
    content = b"".join(transactions) + b"".join(skip.certificate for skip in skips)
    return (
        parent.log_size + len(transactions),
        sha256(parent.log_root + content),
        sha256(parent.state_root + content),
    )


_VOTE: Final = struct.Struct(">BIB")


def fingerprint(event: object) -> bytes:
    """What of an event enters the trace hash: kind, view and signer of votes, ids of blocks."""
    if isinstance(event, bytes):
        return event
    if isinstance(event, VoteMessage):
        return _VOTE.pack(event.vote.kind, event.vote.view & 0xFFFFFFFF, event.vote.signer)
    if isinstance(event, Propose):
        return event.block.block_id
    if isinstance(event, CertificateMessage):
        return b"c" + _VOTE.pack(event.certificate.kind, event.certificate.view, 0)
    if isinstance(event, Local):
        return type(event.event).__name__.encode("ascii")
    return type(event).__name__.encode("ascii")
