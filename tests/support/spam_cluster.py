"""Validators with real chains and engines in the simulated world, and members who send too much.

Time passes for links, disks and processors: building, checking and committing a block costs what
it holds, one job after the other on each validator. Every transaction reaches all validators.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from ledger.bodies.receipt import AnchorReceipts
from ledger.chain import Chain
from ledger.consensus_messages import Message
from ledger.errors import LedgerError
from ledger.journal import MemoryJournal
from ledger.simplex.engine import Simplex
from ledger.simplex.interface import (
    ALL,
    Build,
    Built,
    Commit,
    Durable,
    Effect,
    MessageReceived,
    Persist,
    Send,
    Start,
    TimerFired,
    TransactionsPending,
    Verdict,
    Verify,
)
from ledger.transition.kind import Lane
from ledger.transition.shares import lane_of
from protocol.did import KeyPurpose
from protocol.digest import TransactionId, sha256
from protocol.limits import NONCE_WINDOW
from protocol.transaction import SignedTransaction, parse_transaction
from swarmd.simulation.world import Link, World
from tests.support.ledger import GENESIS_MS, Lab, Member, make_lab

BLOCK_S: Final = 0.004
"""What building, checking or committing a block costs beside its transactions, seconds."""
EXECUTION_S: Final = 0.000_15
"""What each of its transactions adds, seconds; measured on a 2-core machine, signatures known."""
JUDGEMENT_S: Final = 0.000_35
"""What taking a transaction into the mempool costs, seconds; measured likewise."""
BOUND_S: Final = 0.000_08
"""What it costs to refuse one for a bound of the mempool, before its signature is checked."""
FLUSH_S: Final = 0.001
"""One flush of the journal, seconds."""


@dataclass(frozen=True, slots=True)
class Submit:
    """A transaction reaches a validator."""

    raw: bytes


@dataclass(frozen=True, slots=True)
class TakeNext:
    """The processor has time for a transaction that waits to be judged."""


@dataclass(frozen=True, slots=True)
class Done:
    """A job of the validator's own processor or disk is done."""

    event: object


class Validator:
    """One validator: engine, chain, mempool, and a processor that does one job at a time."""

    def __init__(self, cluster: SpamCluster, index: int) -> None:
        """Adds it to the world; `start` begins."""
        self.cluster, self.index = cluster, index
        self.chain: Chain = cluster.lab.open_chain()
        self.journal = MemoryJournal()
        self._busy_until = 0.0
        self._inbox: deque[bytes] = deque()
        self._is_judging = False
        self.final_at: dict[TransactionId, float] = {}
        self.engine = Simplex(
            chain=cluster.lab.chain_id,
            era=0,
            validators=self.chain.validators,
            index=index,
            signer=cluster.lab.validators[index].key(KeyPurpose.VALIDATOR),
            verifier=self.chain.rules.verifier,
        )
        self.actor = cluster.world.add(self)

    def start(self) -> None:
        """Starts the engine on genesis."""
        self._feed(
            Start(
                records=(),
                final=self.chain.head,
                certificate=None,
                nonce=self.cluster.world.random.randbytes(32),
            )
        )

    @property
    def deadline(self) -> float | None:
        """When the engine wants to be woken."""
        return self.engine.deadline

    def wake(self, _now: float) -> None:
        """Feeds the timer."""
        self._feed(TimerFired())

    def receive(self, source: int, message: object, _now: float) -> None:
        """Takes a message of another validator."""
        sender = self.cluster.index_of[source]
        self._feed(MessageReceived(sender, message))  # type: ignore[arg-type]

    def handle(self, event: object, _now: float) -> None:
        """Takes a transaction, or the end of a job."""
        if isinstance(event, Submit):
            # As production does: who claims to protect is judged before those that do not.
            kind = parse_transaction(event.raw).transaction.kind
            is_first = lane_of(kind) is Lane.PROTECTING
            (self._inbox.appendleft if is_first else self._inbox.append)(event.raw)
            if not self._is_judging:
                self._judge_next()
        elif isinstance(event, TakeNext):
            self._judge_next()
            self._tell_pending()
        elif isinstance(event, Done):
            if isinstance(event.event, Durable):
                self.journal.sync(event.event.sequence)
            self._feed(event.event)

    def _judge_next(self) -> None:
        """One at a time, as in production: consensus never waits for more than one of them."""
        self._is_judging = bool(self._inbox)
        if not self._inbox:
            return
        cost = JUDGEMENT_S
        try:
            now_ms = GENESIS_MS + int(self.cluster.world.now * 1000)
            self.chain.submit(self._inbox.popleft(), now_ms=now_ms)
        except LedgerError as error:
            if error.rule.startswith("mempool."):
                cost = BOUND_S
        self.cluster.world.post(self.actor, self._work(cost), TakeNext())

    def _tell_pending(self) -> None:
        self._feed(TransactionsPending(len(self.chain.mempool) > 0))

    def _feed(self, event: object) -> None:
        for effect in self.engine.handle(event, self.cluster.world.now):  # type: ignore[arg-type]
            self._execute(effect)

    def _work(self, seconds: float) -> float:
        """Occupies the processor; returns when the job will be done, seconds from now."""
        now = self.cluster.world.now
        self._busy_until = max(now, self._busy_until) + seconds
        return self._busy_until - now

    def _later(self, delay_s: float, event: object) -> None:
        self.cluster.world.post(self.actor, delay_s, Done(event))

    def _execute(self, effect: Effect) -> None:
        now_ms = GENESIS_MS + 1000 + int(self.cluster.world.now * 1000)
        match effect:
            case Send(to, message):
                self._transmit(to, message)
            case Persist(sequence, records):
                self.journal.write(sequence, records)
                self._later(FLUSH_S, Durable(sequence))
            case Build():
                block = self.chain.build(
                    effect.parent_id,
                    view=effect.view,
                    proposer=self.index,
                    now_ms=now_ms,
                    skips=effect.skips,
                    evidence=effect.evidence,
                    ancestors=effect.ancestors,
                )
                cost = BLOCK_S + EXECUTION_S * len(block.transactions)
                self._later(self._work(cost), Built(effect.view, block))
            case Verify(block, ancestors):
                self.chain.check(block, now_ms, ancestors=ancestors)
                cost = BLOCK_S + EXECUTION_S * len(block.transactions)
                self._later(self._work(cost), Verdict(block.block_id, True))
            case Commit():
                self._commit(effect)
            case _:
                raise AssertionError(f"{effect!r} in a world without faults")

    def _transmit(self, to: int, message: Message) -> None:
        for other in self.cluster.validators:
            if other is not self and to in (ALL, other.index):
                self.cluster.world.send(self.actor, other.actor, message)

    def _commit(self, effect: Commit) -> None:
        results = self.chain.commit(
            effect.blocks[-1].block_id,
            effect.certificate,
            ancestors=effect.blocks,
            skips=effect.skips,
            notarized=effect.notarized,
        )
        self._work(BLOCK_S)
        for result in results:
            for name, _ in result.transactions:
                self.final_at[name] = self.cluster.world.now
        self._tell_pending()
        if self.index == 0:
            self.cluster.spam()


@dataclass
class SpamCluster:
    """Four validators, spammers, and a revocation that must pass."""

    seed: int
    spammers: int = 0
    """Gateways of the group that keep all their nonce windows full."""
    link: Link = field(default_factory=lambda: Link(latency_s=0.05, jitter_s=0.1))

    def __post_init__(self) -> None:
        """Builds and starts the validators."""
        self.world = World(self.seed, self.link)
        self.lab: Lab = make_lab(gateways=1 + self.spammers)
        self.validators = [Validator(self, index) for index in range(4)]
        self.index_of = {item.actor: item.index for item in self.validators}
        self._sent: dict[tuple[str, int], SignedTransaction] = {}
        for item in self.validators:
            item.start()

    def submit(self, signed: SignedTransaction) -> None:
        """Hands a transaction to every validator, over the links."""
        for item in self.validators:
            delay = self.link.latency_s + self.world.random.random() * self.link.jitter_s
            self.world.post(item.actor, delay, Submit(signed.signed.raw))

    def spam(self) -> None:
        """Fills the windows of all spammers again; what was refused is sent again."""
        chain = self.validators[0].chain
        for member in self.lab.gateways[1:]:
            account = chain.state.account(member.did)
            for nonce in range(account.nonce, account.nonce + NONCE_WINDOW):
                signed = self._sent.get((member.label, nonce)) or self._anchor(member, nonce)
                is_waiting = signed.transaction_id in chain.mempool
                if not is_waiting and not account.is_used(nonce):
                    self.submit(signed)

    def _anchor(self, member: Member, nonce: int) -> SignedTransaction:
        body = AnchorReceipts(size=1, root=sha256(b"spam"))  # valid in any order
        signed = self.lab.transaction(member, body, nonce=nonce)
        self._sent[member.label, nonce] = signed
        return signed

    def run_until_final(self, signed: Sequence[SignedTransaction], *, within_s: float) -> float:
        """Submits transactions; returns when the last is final at a quorum, seconds from now."""
        began = self.world.now
        for item in signed:
            self.submit(item)
        while self.world.now < began + within_s:
            self.world.run_until(self.world.now + 0.005)
            times = [self._final_at(item, signed) for item in self.validators]
            if sum(time is not None for time in times) >= 3:
                return sorted(time for time in times if time is not None)[2] - began
        raise AssertionError(f"not final within {within_s} s")

    @staticmethod
    def _final_at(item: Validator, signed: Sequence[SignedTransaction]) -> float | None:
        times = [item.final_at.get(one.transaction_id) for one in signed]
        return None if None in times else max(time for time in times if time is not None)


def revocation_s(seed: int, *, spammers: int, within_s: float = 30) -> float:
    """Time from submitting a revocation until it is final, under load from so many gateways."""
    cluster = SpamCluster(seed, spammers)
    manifest = cluster.lab.manifest()
    cluster.run_until_final([cluster.lab.propose(manifest)], within_s=30)
    cluster.spam()
    # Load at full rate for a while, then at any moment of a view.
    cluster.world.run_until(cluster.world.now + 2 + cluster.world.random.random())
    return cluster.run_until_final([cluster.lab.revoke(manifest.manifest_id)], within_s=within_s)
