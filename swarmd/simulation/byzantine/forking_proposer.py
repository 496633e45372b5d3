"""A leader that forks: it proposes on old parents with invented skip proofs, and equivocates.

It answers, syncs and times out like an honest validator, so that the others keep believing in it;
what it leads, it abuses. Turns go round: a block on an old parent, two blocks at once, an honest
one.
"""

from __future__ import annotations

from dataclasses import replace

from ledger.block import Block, SkipProof
from ledger.certificate import Certificate
from ledger.consensus_messages import Propose, VoteMessage
from ledger.header import Header
from ledger.simplex.engine import Simplex
from ledger.simplex.interface import Build
from ledger.simplex.rules import skipped_views
from ledger.vote import Vote, VoteKind, vote_message
from protocol.digest import sha256
from swarmd.simulation.consensus_cluster import Cluster
from swarmd.simulation.consensus_host import ConsensusHost

_TURNS = 3


class ForkingProposer(Simplex):
    """Validly signed and well-formed proposals that break the chain if anybody trusts them."""

    _old_final: Header | None = None

    @property
    def may_vote(self) -> bool:
        """It never asks before it votes."""
        return True

    def _halt(self, reason: str) -> None:
        """It never stops."""

    @property
    def _turn(self) -> int:
        """What to do in this view: 0 fork, 1 equivocate, 2 behave."""
        return self._view // len(self._validators.members) % _TURNS

    def _commit(self, blocks: list[Block], certificate: Certificate) -> None:
        self._old_final = self._chain.final
        super()._commit(blocks, certificate)

    def _lead(self) -> None:
        """Proposes at once, without waiting for the pause; a fork every third turn."""
        if self._turn != 0:
            super()._lead()
            return
        if not self._may_lead():
            return
        parent = self._old_parent()
        path, missing = self._chain.path(parent.block_id)
        if missing is not None:
            path = []
        self._built_view = self._view
        skips = tuple(
            SkipProof(view, sha256(b"invented"))
            for view in skipped_views(parent.view_in(self._validators.epoch), self._view)
        )
        self._effects.append(
            Build(self._view, parent, tuple(path), skips, (), self._validators.epoch)
        )

    def _old_parent(self) -> Header:
        """The second newest block that is notarized or final, so that the newest is left out."""
        headers = [] if self._old_final is None else [self._old_final]
        headers.append(self._chain.final)
        for view in sorted(self._views):
            block_id = self._views[view].notarized
            block = None if block_id is None else self._chain.blocks.get(block_id)
            if block is not None and view < self._view:
                headers.append(block.header)
        return headers[-2] if len(headers) > 1 else headers[-1]

    def _on_built(self, view: int, block: Block | None) -> None:
        if block is None or view != self._view or self._turn == 2:
            super()._on_built(view, block)
            return
        other = block
        if self._turn == 1:
            other = replace(block, header=replace(block.header, time_ms=block.header.time_ms + 1))
        for peer in range(len(self._validators.members)):
            if peer != self._index:
                self._abuse(peer, block if peer % 2 else other)

    def _abuse(self, peer: int, block: Block) -> None:
        """Shows one peer a block and a notarize vote for it."""
        epoch, view = self._validators.epoch, block.header.view
        message = vote_message(
            self._chain_id,
            self._era,
            VoteKind.NOTARIZE,
            epoch=epoch,
            view=view,
            block_id=block.block_id,
        )
        signature = self._signer.sign(message)
        vote = Vote(VoteKind.NOTARIZE, epoch, view, block.block_id, self._index, signature)
        self._send(peer, Propose(block))
        self._send(peer, VoteMessage(vote))


def add_forking_proposer(cluster: Cluster, index: int) -> ConsensusHost:
    """Adds a forking proposer in the seat of validator `index`."""
    return ConsensusHost(cluster, index, engine=ForkingProposer, is_honest=False)
