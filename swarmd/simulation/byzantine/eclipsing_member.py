"""Eclipsing member: the only peer of a gateway, which it keeps in the state before a revocation.

It passes on what it must to be believed, and keeps back the rest. Answers of validators that it got
before the revocation, about nonces drawn then, it hands over later, one by one, when an answer is
worth most. What other gateways are answered it tries on its victim.
"""

from __future__ import annotations

from collections import deque

from protocol.catchup import FreshnessAnswer
from swarmd.freshness import FreshnessRound


class EclipsingMember:
    """Collects answers, and hands them over when it suits it."""

    def __init__(self) -> None:
        """Holds nothing back yet."""
        self._held: deque[tuple[FreshnessRound, FreshnessAnswer]] = deque()
        self._of_others: FreshnessAnswer | None = None

    def hold_back(self, question: FreshnessRound, answer: FreshnessAnswer) -> None:
        """Keeps an honest answer about the victim's nonce for later."""
        self._held.append((question, answer))

    def overhear(self, answer: FreshnessAnswer) -> None:
        """Keeps what another gateway was answered."""
        self._of_others = answer

    def late_answer(self) -> tuple[FreshnessRound, FreshnessAnswer] | None:
        """The oldest answer that it held back; None: there is none left."""
        return self._held.popleft() if self._held else None

    def answers(self) -> list[FreshnessAnswer]:
        """What it answers a new question with."""
        return [] if self._of_others is None else [self._of_others]
