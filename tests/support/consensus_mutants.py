"""Engines with one planted defect each; the campaign must find every one of them.

Each removes exactly one rule of docs/spec/consensus.md by overriding one method.
"""

from __future__ import annotations

from ledger.block import Block
from ledger.simplex.engine import Simplex
from ledger.vote import Vote, VoteKind


class NoFsyncBeforeSend(Simplex):
    """Breaks C70: votes leave before their records are durable."""

    def _hold(self, sequence: int, votes: list[Vote]) -> None:
        self._release(sequence, votes)


class NoSkipCheck(Simplex):
    """Breaks C54: a proposal may leave out any notarized block."""

    def _missing_skips(self, block: Block) -> list[int]:
        return []


class NoQuestion(Simplex):
    """Breaks C82: votes at once after a start, whatever the others remember."""

    @property
    def may_vote(self) -> bool:
        return self._halted is None


class FinalizeAfterNullify(Simplex):
    """Breaks C72: votes finalize in a view it nullified."""

    def _finalize(self, cast: list[Vote]) -> None:
        for view in list(self._views):
            self._ballots._cast.pop((view, VoteKind.NULLIFY), None)
        super()._finalize(cast)
