"""Nullifier: votes to skip every view as soon as it is in it, and for nothing else."""

from __future__ import annotations

from ledger.vote import Vote, VoteKind
from swarmd.simulation.byzantine.rogue import Rogue, RogueHost


class NullifyingEngine(Rogue):
    """Nullifies at once, never notarizes, never finalizes, never leads."""

    def _time_out(self, cast: list[Vote]) -> None:
        if self._armed_at is not None and self._ballots.may(VoteKind.NULLIFY, self._view):
            cast.append(self._ballots.cast(VoteKind.NULLIFY, self._view, None))

    def _judge(self, cast: list[Vote]) -> None:
        """No block is ever good enough."""

    def _finalize(self, cast: list[Vote]) -> None:
        """Nothing is ever final enough."""

    def _lead(self) -> None:
        """Has nothing to propose."""


class Nullifier(RogueHost):
    """Runs the engine that nullifies."""

    engine_type = NullifyingEngine
