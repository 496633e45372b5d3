"""Asker: asks everybody for everything, all the time, to use up what they can send."""

from __future__ import annotations

from ledger.consensus_messages import (
    NONCE_BYTES,
    WANT_VIEWS_MAX,
    NewestVoteQuery,
    Status,
    Want,
)
from swarmd.simulation.byzantine.rogue import RogueHost


class Asker(RogueHost):
    """Wants all views, all blocks, all final blocks; pretends to know nothing."""

    pause_s = 0.75

    def act(self) -> None:
        """Asks."""
        engine, chance = self.engine, self.cluster.world.random
        assert engine is not None, "it acts only while its engine runs"
        first = max(1, engine.view - WANT_VIEWS_MAX + 1)
        views = tuple(range(first, first + WANT_VIEWS_MAX))
        blocks = tuple(block.block_id for block, _ in self.store.entries[-8:])
        self.say_all(Want(views, blocks, None))
        self.say_all(Want((), (), 0))
        self.say_all(Status(self.epoch, 1, None))
        self.say_all(NewestVoteQuery(chance.randbytes(NONCE_BYTES)))
