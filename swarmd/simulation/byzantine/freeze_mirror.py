"""Freeze mirror: stands between a gateway and everybody, and lets no news through.

Every question about freshness it answers with old statements, with those that the validators it
bribed or robbed sign for it, and with honest ones that it may pass on, since they name blocks which
it does not. It can also cut the power, and set the wall clock back.
"""

from __future__ import annotations

from collections.abc import Sequence

from ledger.header import Header
from protocol.catchup import FreshnessAnswer
from swarmd.simulation.lab import Lab
from swarmd.simulation.lab_chain import vouch


class FreezeMirror:
    """Answers for everybody."""

    def __init__(self, lab: Lab, seats: Sequence[int]) -> None:
        """Holds the vote keys of these seats."""
        self._lab = lab
        self._seats = tuple(seats)
        self.old: list[FreshnessAnswer] = []
        """Statements of validators about earlier nonces."""

    def answers(self, nonce: bytes, shown: Header, newest: Header) -> list[FreshnessAnswer]:
        """What it answers a question with.

        Args:
            nonce: of the question.
            shown: the header at which the victim is held.
            newest: the validators' newest.
        """
        others = [seat for seat in range(len(self._lab.validators)) if seat not in self._seats]
        bribed = vouch(self._lab, shown, nonce, self._seats)
        honest = vouch(self._lab, newest, nonce, others)
        return [honest, *self.old, bribed, *self._transplanted(bribed)]

    def _transplanted(self, bribed: FreshnessAnswer) -> list[FreshnessAnswer]:
        """Old statements of all seats, each with the proof that belongs to this nonce."""
        proofs = [statement[1:] for statement in bribed.statements[:1]]
        return [
            FreshnessAnswer(statements=((statement[0], *proof),))
            for answer in self.old[-1:]
            for statement in answer.statements
            for proof in proofs
        ]
