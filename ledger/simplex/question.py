"""The start-up question: does anyone know a vote of mine that my journal does not? (C80 to C84)

Before its first vote after every start a validator asks all others for the newest vote they hold
under its key and waits for q - 1 signed answers. A disk or snapshot that lost votes is found before
the key can contradict itself. Validators answer while they wait themselves, so that a whole network
may start at once.
"""

from __future__ import annotations

from ledger.vote import Vote


class NewestVotes:
    """The newest verified vote of each validator, kept for the question of others."""

    __slots__ = ("_votes",)

    def __init__(self) -> None:
        """Starts knowing none."""
        self._votes: dict[int, Vote] = {}

    def note(self, vote: Vote) -> None:
        """Takes a verified vote; keeps it if it is newer by view, then by kind."""
        held = self._votes.get(vote.signer)
        if held is None or (vote.view, vote.kind) > (held.view, held.kind):
            self._votes[vote.signer] = vote

    def of(self, signer: int) -> Vote | None:
        """The newest vote held under a validator's key."""
        return self._votes.get(signer)


class Question:
    """One start's question and who answered it."""

    __slots__ = ("_answered", "_needed", "nonce")

    def __init__(self, nonce: bytes, *, quorum: int) -> None:
        """Starts unanswered."""
        self.nonce = nonce
        """Fresh random bytes; an answer to an earlier start does not fit."""
        self._needed = quorum - 1
        self._answered: dict[int, None] = {}

    def note(self, peer: int) -> None:
        """Counts a verified answer that names no unknown vote."""
        self._answered[peer] = None

    def is_answered_by(self, peer: int) -> bool:
        """Tells whether this validator has answered."""
        return peer in self._answered

    @property
    def is_open(self) -> bool:
        """Whether fewer than q - 1 others have answered."""
        return len(self._answered) < self._needed
