"""Key hoarder: holds every vote key that was ever retired, and writes another history with them.

The history begins where everybody's does, at genesis, and every certificate in it is beyond
reproach. It holds no key of owners or governance; what owners once signed it can repeat.
"""

from __future__ import annotations

from ledger.chain import Chain
from protocol.genesis import EPOCH_MS
from protocol.manifest import SignedManifest
from protocol.transaction import SignedTransaction
from swarmd.simulation.lab import HOUR_MS, Lab
from swarmd.simulation.lab_epochs import VoteKeys, advance_epochs, certify_all


class KeyHoarder:
    """Writes one history; honest validators' own is one, too."""

    def __init__(self, lab: Lab, *, pace_ms: int) -> None:
        """Starts at genesis; `pace_ms` lies between two blocks and tells histories apart."""
        self.lab = lab
        self._keys = VoteKeys(lab.validators)
        self.chain: Chain = lab.open_chain()
        """What it shows."""
        self._pace_ms = pace_ms
        lab.nonces.clear()

    def advance(self, *transactions: SignedTransaction, after_ms: int | None = None) -> None:
        """One more block."""
        pace_ms = self._pace_ms if after_ms is None else after_ms
        advance_epochs(self.lab, self.chain, self._keys, transactions, after_ms=pace_ms)

    def authorise(self, release: SignedManifest) -> None:
        """Repeats a proposal and the owners' approvals of it, which everybody has."""
        self.advance(self.lab.propose(release))
        self.advance(self.lab.approve(release.manifest_id))

    def pass_epochs(self, count: int) -> None:
        """Hands over to the next set so many times."""
        for _ in range(count):
            now_ms = self.chain.head.time_ms
            epoch = self.chain.validators.epoch + 1
            self.advance(*certify_all(self.lab, epoch, self.lab.validators, now_ms=now_ms))
            self.advance(after_ms=EPOCH_MS)

    @property
    def until_ms(self) -> int:
        """A time until which what is signed now is valid, header time."""
        return self.chain.head.time_ms + 20 * HOUR_MS
