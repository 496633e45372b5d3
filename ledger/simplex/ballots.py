"""The one place where a validator signs votes, and where the voting rules are asserted.

C70 to C74: at most one notarize in a view; never finalize and nullify in one view, in either
order; no notarize after a nullify; notarize and nullify only at or above the newest view voted in.
What was cast is known here before anyone sees it, and comes back from the journal after a restart.
"""

from __future__ import annotations

from ledger.vote import Signer, Vote, VoteKind, vote_message
from protocol.digest import BlockId, ChainId


class Ballots:
    """Own votes of one epoch, by view and kind."""

    __slots__ = ("_cast", "_chain", "_epoch", "_era", "_index", "_signer", "newest_view")

    def __init__(self, *, chain: ChainId, era: int, epoch: int, index: int, signer: Signer) -> None:
        """Starts without any vote."""
        self._chain = chain
        self._era = era
        self._epoch = epoch
        self._index = index
        self._signer = signer
        self._cast: dict[tuple[int, VoteKind], Vote] = {}
        self.newest_view = 0
        """Highest view of any own vote."""

    def restore(self, vote: Vote) -> None:
        """Takes over a vote from the journal."""
        self._cast[vote.view, vote.kind] = vote
        self.newest_view = max(self.newest_view, vote.view)

    def has(self, view: int, kind: VoteKind) -> bool:
        """Tells whether a vote of this kind was cast in `view`."""
        return (view, kind) in self._cast

    def holds(self, vote: Vote) -> bool:
        """Tells whether exactly this ballot is ours."""
        own = self._cast.get((vote.view, vote.kind))
        return own is not None and own.block_id == vote.block_id

    def of_view(self, view: int) -> list[Vote]:
        """Own votes in `view`, by kind."""
        return [self._cast[view, kind] for kind in VoteKind if (view, kind) in self._cast]

    def may(self, kind: VoteKind, view: int) -> bool:
        """Tells whether the rules allow a vote of this kind in `view` (C71 to C74)."""
        if self.has(view, kind):
            return False
        if kind is VoteKind.FINALIZE:
            return not self.has(view, VoteKind.NULLIFY)
        if view < self.newest_view:
            return False
        if kind is VoteKind.NULLIFY:
            return not self.has(view, VoteKind.FINALIZE)
        return not self.has(view, VoteKind.NULLIFY) and not self.has(view, VoteKind.FINALIZE)

    def cast(self, kind: VoteKind, view: int, block_id: BlockId | None) -> Vote:
        """Signs a ballot; the caller makes it durable before anyone sees it (C70)."""
        assert self.may(kind, view), f"rules forbid {kind.name} in view {view}"
        message = vote_message(
            self._chain, self._era, kind, epoch=self._epoch, view=view, block_id=block_id
        )
        signature = self._signer.sign(message)
        vote = Vote(kind, self._epoch, view, block_id, self._index, signature)
        self.restore(vote)
        return vote

    def prune(self, view: int) -> None:
        """Forgets votes below `view`; nothing is ever voted there again."""
        for key in [key for key in self._cast if key[0] < view]:
            del self._cast[key]
