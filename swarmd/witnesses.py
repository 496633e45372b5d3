"""Outside witnesses: what they have seen of the log, as far as this node can tell by its own.

Policies and a node's own floor may ask that witnesses which no validator controls have cosigned the
log (K15, K71). Somebody drops such a note into the data directory; it counts if it is about this
chain and era, and if this node's own log has that root at that size, so that validators cannot show
one log to witnesses and another to this node. A note is only ever a reason to refuse: without one,
with an old one, or with one that does not reach the authorisation, nothing is offered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.errors import VerificationError
from protocol.policy import Witnesses
from protocol.tlog import Checkpoint, Note, verify_note

NOTE_NAME: Final = "witnessed-checkpoint"
"""File in the data directory: the newest cosigned checkpoint, a signed note of C2SP."""
SKEW_MS: Final = 300_000
"""How far a witness's clock may be ahead of the ledger's, milliseconds."""
ASKED_MAX: Final = 64
"""Sets of witnesses whose cosignatures of one note are remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessedHead:
    """A note whose checkpoint agrees with this node's own log; signatures are not verified."""

    note: Note
    """The note as it was found."""
    checkpoint: Checkpoint
    """What its text says."""
    height: int
    """The last block all of whose entries it covers."""


class WitnessBook:
    """The newest note that agrees with this node's log, and who signed it."""

    def __init__(self) -> None:
        """Begins without a note."""
        self.head: WitnessedHead | None = None
        """What was found last; None: nothing that agrees."""
        self._times: dict[Witnesses, tuple[int, ...]] = {}

    def learn(self, head: WitnessedHead | None) -> None:
        """Takes another note in the place of the last one; None: it is gone or disagrees."""
        if head != self.head:
            self.head = head
            self._times.clear()

    def lacks(self, witnesses: Witnesses, *, height: int, now_ms: int, age_ms: int) -> str | None:
        """Says why the note does not satisfy a demand; None: it does.

        Args:
            witnesses: whose cosignatures count, and how many are needed.
            height: block that must be covered: the one that authorised.
            now_ms: this node's ledger time, milliseconds since 1970.
            age_ms: how old the cosignatures may be, milliseconds.
        """
        if self.head is None:
            return "no checkpoint that witnesses cosigned agrees with my log"
        if self.head.height < height:
            return f"witnesses saw the log up to block {self.head.height}, not {height}"
        times = self._cosigned(witnesses)
        count = sum(now_ms - age_ms <= 1000 * time_s <= now_ms + SKEW_MS for time_s in times)
        if count < witnesses.threshold:
            return f"{count} recent cosignatures by witnesses, {witnesses.threshold} needed"
        return None

    def _cosigned(self, witnesses: Witnesses) -> tuple[int, ...]:
        """When each of the witnesses signed that did, seconds; none if a known line is forged."""
        known = self._times.get(witnesses)
        if known is not None:
            return known
        assert self.head is not None, "the caller has looked"
        try:
            found = verify_note(self.head.note, witnesses.keys)
        except VerificationError:
            found = ()
        times = tuple(item.time_s for item in found if item.time_s is not None)
        if len(self._times) >= ASKED_MAX:
            self._times.clear()
        self._times[witnesses] = times
        return times
