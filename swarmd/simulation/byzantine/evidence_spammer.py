"""Evidence spammer: accuses the honest with forged votes, and itself again and again."""

from __future__ import annotations

from dataclasses import replace

from ledger.block import Block, body_root
from ledger.consensus_messages import VoteMessage
from ledger.simplex.interface import Build
from ledger.vote import Evidence, VoteKind
from protocol.digest import BlockId, sha256
from protocol.limits import BLOCK_EVIDENCE_MAX
from swarmd.simulation.byzantine.rogue import RogueHost


class EvidenceSpammer(RogueHost):
    """Fills its blocks with evidence that convicts nobody, or somebody convicted long ago."""

    pause_s = 1.0

    def act(self) -> None:
        """Contradicts itself, so that the others have evidence to carry about."""
        engine = self.engine
        assert engine is not None, "it acts only while its engine runs"
        for text in (b"one", b"other"):
            block_id = BlockId(sha256(text))
            vote = self.ballot(VoteKind.NOTARIZE, engine.view, block_id)
            self.say_all(VoteMessage(vote))

    def _build(self, request: Build) -> Block | None:
        block = super()._build(request)
        own = self.seat
        if block is None or own is None:
            return block
        turn = request.view // len(self.cluster.seats(self.epoch))
        names = [own] if turn % 2 else self.others[:BLOCK_EVIDENCE_MAX]
        evidence = tuple(self._accuse(name, request.view) for name in names)
        root = body_root(block.transactions, evidence, block.skips)
        return replace(block, header=replace(block.header, body_root=root), evidence=evidence)

    def _accuse(self, name: int, view: int) -> Evidence:
        """Evidence against a seat; genuine only against the own one."""
        return Evidence.of(
            self.ballot(VoteKind.NULLIFY, view, None, seat=name),
            self.ballot(VoteKind.FINALIZE, view, BlockId(sha256(b"accused")), seat=name),
        )
