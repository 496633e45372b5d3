"""Retired keys: holds the stolen vote keys of everybody who sat in the epoch before.

With them it makes blocks and finalize certificates of that epoch that are beyond reproach, on top
of today's chain, long after the epoch was closed. Nobody who has seen its end may believe them.
"""

from __future__ import annotations

from dataclasses import replace

from ledger.block import Block
from ledger.certificate import Certificate
from ledger.consensus_messages import Blocks, CertificateMessage, Status
from ledger.vote import Vote, VoteKind, vote_message
from protocol.merkle import EMPTY_ROOT
from swarmd.simulation.byzantine.rogue import RogueHost
from swarmd.simulation.consensus_cluster import ERA
from swarmd.simulation.consensus_store import Run


class RetiredKeys(RogueHost):
    """Goes on with an epoch that is over."""

    pause_s = 1.0

    def act(self) -> None:
        """Shows everybody a final block of the epoch before, in each way blocks are shown."""
        engine, cluster = self.engine, self.cluster
        assert engine is not None, "it acts only while its engine runs"
        if self.epoch == 1:
            return
        block, certificate = self._forge(self.epoch - 1)
        run = Run((block,), (), certificate)
        for seat in self.others:
            for actor in cluster.actors[cluster.seats(self.epoch)[seat]]:
                cluster.world.send(self.actor, actor, run)
        self.say_all(CertificateMessage(certificate), is_bad=True)
        self.say_all(Blocks((block,), certificate), is_bad=True)
        self.say_all(Status(self.epoch, engine.view, certificate), is_bad=True)

    def _forge(self, epoch: int) -> tuple[Block, Certificate]:
        cluster, parent = self.cluster, self.final
        validators = cluster.validators_of(epoch)
        view = parent.view + 1
        header = replace(
            parent,
            epoch=epoch,
            view=view,
            height=parent.height + 1,
            parent=parent.block_id,
            parent_view=parent.view,
            time_ms=parent.time_ms + 250,
            proposer=validators.leader(view),
            body_root=EMPTY_ROOT,
            validators=validators.digest,
            next_validators=validators.digest,
        )
        message = vote_message(
            cluster.chain,
            ERA,
            VoteKind.FINALIZE,
            epoch=epoch,
            view=view,
            block_id=header.block_id,
        )
        votes = [
            Vote(VoteKind.FINALIZE, epoch, view, header.block_id, seat, signature)
            for seat, process in enumerate(cluster.seats(epoch)[: validators.quorum])
            for signature in (cluster.signer(process, epoch).sign(message),)
        ]
        return Block(header), Certificate.of(votes, validators)
