"""Builders for consensus tests: sets, blocks, votes, certificates, and one engine alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from ledger.block import Block, SkipProof, body_root
from ledger.certificate import Certificate
from ledger.consensus_messages import (
    Message,
    NewestVoteAnswer,
    NewestVoteQuery,
    VoteMessage,
    make_answer,
)
from ledger.header import Header, genesis_header
from ledger.simplex.engine import Simplex
from ledger.simplex.interface import (
    Built,
    Durable,
    Effect,
    Input,
    MessageReceived,
    Parameters,
    Persist,
    Record,
    Send,
    Start,
    TransactionsPending,
    Verdict,
    Verify,
)
from ledger.validators import ValidatorSet
from ledger.vote import Evidence, Signer, Verifier, Vote, VoteKind, vote_message
from protocol.digest import BlockId, ChainId, sha256
from protocol.merkle import EMPTY_ROOT
from swarmd.simulation.signatures import make_validators

CHAIN = ChainId(sha256(b"test chain"))
ERA = 1
NONCE = b"n" * 32
TIME_MS = 1_700_000_000_000

EffectT = TypeVar("EffectT")
MessageT = TypeVar("MessageT")


def of_type(effects: Sequence[Effect], kind: type[EffectT]) -> list[EffectT]:
    """The effects of one type."""
    return [effect for effect in effects if isinstance(effect, kind)]


def sent(effects: Sequence[Effect], kind: type[MessageT]) -> list[MessageT]:
    """The messages of one type in the sends."""
    return [
        effect.message
        for effect in effects
        if isinstance(effect, Send) and isinstance(effect.message, kind)
    ]


def sent_votes(effects: Sequence[Effect], kind: VoteKind) -> list[Vote]:
    """The votes of one kind in the sends."""
    return [item.vote for item in sent(effects, VoteMessage) if item.vote.kind is kind]


class Network:
    """Keys of one validator set, and everything they can sign."""

    def __init__(self, count: int = 4, *, real: bool = False) -> None:
        self.validators: ValidatorSet
        self.signers: list[Signer]
        self.verifier: Verifier
        self.validators, self.signers, self.verifier = make_validators(count, seed=7, real=real)
        self.genesis = genesis_header(
            chain=CHAIN,
            era=ERA,
            time_ms=TIME_MS,
            log_size=0,
            log_root=EMPTY_ROOT,
            state_root=EMPTY_ROOT,
            validators=self.validators.digest,
        )

    def vote(
        self,
        kind: VoteKind,
        view: int,
        signer: int,
        block_id: BlockId | None = None,
        epoch: int = 1,
    ) -> Vote:
        """A valid vote."""
        message = vote_message(CHAIN, ERA, kind, epoch=epoch, view=view, block_id=block_id)
        return Vote(kind, epoch, view, block_id, signer, self.signers[signer].sign(message))

    def certificate(
        self,
        kind: VoteKind,
        view: int,
        block_id: BlockId | None = None,
        signers: Sequence[int] | None = None,
    ) -> Certificate:
        """A valid certificate, by the last q validators unless told."""
        count = len(self.validators.members)
        chosen = signers or range(count - self.validators.quorum, count)
        return Certificate.of(
            [self.vote(kind, view, signer, block_id) for signer in chosen], self.validators
        )

    def block(
        self,
        view: int,
        parent: Header | None = None,
        *,
        transactions: tuple[bytes, ...] = (),
        evidence: tuple[Evidence, ...] = (),
        skips: Sequence[Certificate] = (),
        **changes: object,
    ) -> Block:
        """A valid block of `view`; `changes` replace header fields."""
        parent = parent or self.genesis
        proofs = tuple(SkipProof(item.view, item.digest) for item in skips)
        header = Header(
            chain=CHAIN,
            era=ERA,
            epoch=1,
            view=view,
            height=parent.height + 1,
            parent=parent.block_id,
            parent_view=parent.view,
            time_ms=parent.time_ms + 1000,
            proposer=self.validators.leader(view),
            body_root=body_root(transactions, evidence, proofs),
            log_size=parent.log_size + len(transactions),
            log_root=EMPTY_ROOT,
            state_root=EMPTY_ROOT,
            validators=self.validators.digest,
            next_validators=self.validators.digest,
        )
        return Block(
            replace(header, **changes),  # type: ignore[arg-type]
            transactions,
            evidence,
            proofs,
        )

    def answer(
        self, asker: int, answerer: int, vote: Vote | None = None, nonce: bytes = NONCE
    ) -> NewestVoteAnswer:
        """A valid answer to a start-up question."""
        return make_answer(
            NewestVoteQuery(nonce),
            vote,
            self.signers[answerer],
            chain=CHAIN,
            era=ERA,
            asker=asker,
            answerer=answerer,
        )


class Bench:
    """One engine alone, fed by hand; persists are durable at once unless told."""

    def __init__(
        self,
        network: Network,
        index: int = 0,
        *,
        records: tuple[Record, ...] = (),
        final: Header | None = None,
        certificate: Certificate | None = None,
        halted: str | None = None,
        answered: bool = True,
        pending: bool = True,
        durable: bool = True,
        engine: type[Simplex] = Simplex,
        parameters: Parameters | None = None,
    ) -> None:
        self.network = network
        self.index = index
        self.now = 100.0
        self.durable = durable
        self.records: list[Record] = list(records)
        self.log: list[Effect] = []
        self.engine = engine(
            chain=CHAIN,
            era=ERA,
            validators=network.validators,
            index=index,
            signer=network.signers[index],
            verifier=network.verifier,
            parameters=parameters or Parameters(),
        )
        self.feed(
            Start(
                records=records,
                final=final or network.genesis,
                certificate=certificate,
                nonce=NONCE,
                halted=halted,
            )
        )
        if answered:
            self.answer_question()
        if pending:
            self.feed(TransactionsPending(True))

    def answer_question(self) -> None:
        """Lets q - 1 others answer that they hold no vote."""
        others = [i for i in range(len(self.network.validators.members)) if i != self.index]
        for peer in others[: self.network.validators.quorum - 1]:
            self.receive(peer, self.network.answer(self.index, peer))

    def feed(self, event: Input) -> list[Effect]:
        """Feeds an input and, unless told otherwise, reports writes as durable."""
        effects = self.engine.handle(event, self.now)
        result = list(effects)
        for effect in effects:
            if isinstance(effect, Persist):
                self.records += effect.records
                if self.durable:
                    result += self.feed(Durable(effect.sequence))
        self.log += effects
        return result

    def receive(self, peer: int, message: Message) -> list[Effect]:
        """Feeds a message."""
        return self.feed(MessageReceived(peer, message))

    def votes(self, *votes: Vote) -> list[Effect]:
        """Feeds votes, each from its signer."""
        return [effect for vote in votes for effect in self.receive(vote.signer, VoteMessage(vote))]

    def accept(self, effects: Sequence[Effect], ok: bool = True) -> list[Effect]:
        """Answers every verify among the effects."""
        found = of_type(effects, Verify)
        return [out for item in found for out in self.feed(Verdict(item.block.block_id, ok))]

    def built(self, view: int, block: Block | None) -> list[Effect]:
        """Answers a build."""
        return self.feed(Built(view, block))
