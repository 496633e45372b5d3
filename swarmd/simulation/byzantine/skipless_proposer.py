"""Skipless proposer: always leads on its last final block and leaves out whatever came after.

In one turn it names no skip proof at all, in the next it invents them. Whoever votes for either
helps to drop a notarized block that somebody may have finalized.
"""

from __future__ import annotations

from ledger.block import Block, SkipProof
from ledger.consensus_messages import Message, Propose, VoteMessage
from ledger.simplex.interface import ALL, Build
from ledger.simplex.rules import skipped_views
from ledger.vote import Vote, VoteKind, vote_message
from protocol.digest import sha256
from swarmd.simulation.byzantine.rogue import Rogue, RogueHost


class SkiplessEngine(Rogue):
    """Builds on the last final block, come what may."""

    def _lead(self) -> None:
        if self._armed_at is None or not self._may_lead() or self._now < self._pace.build_at:
            return
        self._built_view = self._view
        epoch, parent = self._validators.epoch, self._chain.final
        is_bare = self._view // len(self._validators.members) % 2
        views = () if is_bare else skipped_views(parent.view_in(epoch), self._view)
        skips = tuple(SkipProof(view, sha256(b"invented")) for view in views)
        self._effects.append(Build(self._view, parent, (), skips, (), epoch))

    def _on_built(self, view: int, block: Block | None) -> None:
        if block is None:
            super()._on_built(view, block)
            return
        message = vote_message(
            self._chain_id,
            self._era,
            VoteKind.NOTARIZE,
            epoch=self._validators.epoch,
            view=view,
            block_id=block.block_id,
        )
        signature = self._signer.sign(message)
        epoch, kind = self._validators.epoch, VoteKind.NOTARIZE
        self._pace.note_proposal(self._now)
        self._send(ALL, Propose(block))
        self._send(
            ALL, VoteMessage(Vote(kind, epoch, view, block.block_id, self._index, signature))
        )


class SkiplessProposer(RogueHost):
    """Runs the engine that leaves out skip proofs."""

    engine_type = SkiplessEngine

    def is_bad(self, content: Message | bytes) -> bool:
        """A proposal that does not name the skipped views can be refused at sight."""
        if not isinstance(content, Propose):
            return False
        header = content.block.header
        named = [skip.view for skip in content.block.skips]
        return named != list(skipped_views(header.parent_view, header.view))
