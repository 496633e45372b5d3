"""Rules of a group's self-defence: when members' opinions put a peer into quarantine.

A part of the group's policy, integers only (docs/spec/defence.md). Opinion never convicts, and what
it brings about is bounded twice: a quarantine by opinion is of the first level (may fetch, may not
serve), and it meets only so much of a group in a day. Owners who want none of it leave the rules
out of their policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from protocol.encoding import Fields, Value, check_range
from protocol.errors import EncodingError

DEFENCE_HOUR_MS: Final = 3_600_000
"""An hour of header time, milliseconds; opinions fade by the hour."""
DEFENCE_DAY_MS: Final = 24 * DEFENCE_HOUR_MS
"""A day of header time, milliseconds."""
WEIGHT_MAX: Final = 1000
"""One whole opinion: what an owner counts for whose node has an unblemished name."""
VOICES_MAX: Final = 16
"""Most owners whose opinion on one peer is kept; no rule may ask for more."""
SHARE_WHOLE: Final = 10_000
"""Denominator of `daily_share`: a hundredth of a percent."""
QUARANTINE_MS_MAX: Final = 366 * DEFENCE_DAY_MS
"""Longest quarantine by opinion, and longest protection by a release, milliseconds."""


class QuarantineLevel(IntEnum):
    """What a peer may still do with images. Ledger, revocations and votes are never touched."""

    NONE = 0
    """All that its groups allow."""
    NO_SERVING = 1
    """Fetches, but nobody takes anything from it, and it serves nobody."""
    NO_EXCHANGE = 2
    """Neither fetches nor serves; set by owners or by conviction, never by opinion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DefenceRules:
    """When reports put a peer into quarantine of level 1, and for how long."""

    voices_min: int = 3
    """Distinct owners that must have reported within the window, 1 to 16."""
    threshold: int = 2500
    """What their opinions must add up to, a whole one being 1,000."""
    window_ms: int = DEFENCE_DAY_MS
    """Header time after which an opinion no longer counts at all, an hour to 30 days."""
    decay_per_hour: int = 40
    """What an opinion loses in each whole hour of header time, of 1,000."""
    daily_share: int = 500
    """Most of a group that opinion may quarantine within a day, of 10,000; rounded down."""
    quarantine_ms: int = 7 * DEFENCE_DAY_MS
    """Header time after which a quarantine by opinion ends by itself, milliseconds."""
    trust_ms: int = 7 * DEFENCE_DAY_MS
    """Header time for which a release by owners protects from opinion, milliseconds."""

    def __post_init__(self) -> None:
        """Refuses rules out of range, or that their own voices could never meet.

        Raises:
            EncodingError: it is one of these.
        """
        check_range(self.voices_min, "defence: voices", minimum=1, maximum=VOICES_MAX)
        highest = VOICES_MAX * WEIGHT_MAX
        check_range(self.threshold, "defence: threshold", minimum=1, maximum=highest)
        check_range(
            self.window_ms,
            "defence: window",
            minimum=DEFENCE_HOUR_MS,
            maximum=30 * DEFENCE_DAY_MS,
        )
        check_range(self.decay_per_hour, "defence: decay", maximum=WEIGHT_MAX)
        check_range(self.daily_share, "defence: daily share", maximum=SHARE_WHOLE)
        check_range(
            self.quarantine_ms,
            "defence: quarantine",
            minimum=DEFENCE_HOUR_MS,
            maximum=QUARANTINE_MS_MAX,
        )
        check_range(self.trust_ms, "defence: trust", maximum=QUARANTINE_MS_MAX)
        if self.threshold <= (self.voices_min - 1) * WEIGHT_MAX:
            raise EncodingError("defence: fewer voices than the rules ask for meet the threshold")

    def weight_at(self, weight: int, age_ms: int) -> int:
        """What an opinion counts for after some header time; never negative."""
        if age_ms >= self.window_ms:
            return 0
        return max(0, weight - age_ms // DEFENCE_HOUR_MS * self.decay_per_hour)

    def cap(self, member_count: int) -> int:
        """How many of a group's peers opinion may quarantine within a day."""
        return member_count * self.daily_share // SHARE_WHOLE

    def to_value(self) -> Value:
        """The wire form."""
        return {
            0: 1,
            1: self.voices_min,
            2: self.threshold,
            3: self.window_ms,
            4: self.decay_per_hour,
            5: self.daily_share,
            6: self.quarantine_ms,
            7: self.trust_ms,
        }

    @classmethod
    def from_value(cls, value: Value) -> DefenceRules:
        """Reads the wire form.

        Raises:
            EncodingError: malformed, out of range, or a field that this version does not know.
        """
        fields = Fields(value, "defence rules")
        fields.constant(0, 1)
        rules = cls(
            voices_min=fields.uint(1),
            threshold=fields.uint(2),
            window_ms=fields.uint(3),
            decay_per_hour=fields.uint(4),
            daily_share=fields.uint(5),
            quarantine_ms=fields.uint(6),
            trust_ms=fields.uint(7),
        )
        if fields.finish():
            raise EncodingError("defence rules: extensions are not allowed")
        return rules
