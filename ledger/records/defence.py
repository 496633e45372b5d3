"""`q/`, `r/`, `qd/`, `gm/` and `cv/`: quarantine, opinion, their bounds, and convictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from ledger.records.codec import RECORD_SCHEMA, close_record, nullable_uint, open_record
from protocol.contradiction import Offence
from protocol.defence import DEFENCE_DAY_MS, VOICES_MAX, WEIGHT_MAX, DefenceRules, QuarantineLevel
from protocol.digest import Digest
from protocol.encoding import Value, as_array, as_digest, as_uint, encode_canonical
from protocol.errors import EncodingError

VOICE_MARKS_MAX: Final = 64
"""Marks of one voice: the owners of two owner roots."""
MARKS_MAX: Final = 384
"""Marks of all voices of a record, which keeps it within the bound of records."""


class Cause(IntEnum):
    """Why a quarantine stands as it does."""

    OPINION = 1
    """Reports met the group's rules."""
    OWNERS = 2
    """Owners set it."""
    CONVICTION = 3
    """The subject contradicted itself."""
    RELEASE = 4
    """Owners ended it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineRecord:
    """`q/<did><group>`: what a subject may not do with images in a group."""

    level: QuarantineLevel
    """What it may not, until `until_ms`."""
    cause: Cause
    """Why."""
    since_ms: int
    """Header time of this record, milliseconds."""
    until_ms: int | None
    """Header time from which it no longer holds; None: until it is changed."""
    trusted_until_ms: int
    """Header time until which opinion has no effect, after a release; else 0."""
    sequence: int
    """Changes so far; owners' approvals name the next one, so that none serves twice."""
    height: int
    """Height of this record."""

    def level_at(self, time_ms: int) -> QuarantineLevel:
        """The level at a header time."""
        is_over = self.until_ms is not None and time_ms >= self.until_ms
        return QuarantineLevel.NONE if is_over else self.level

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical(
            {
                0: RECORD_SCHEMA,
                1: int(self.level),
                2: int(self.cause),
                3: self.since_ms,
                4: self.until_ms,
                5: self.trusted_until_ms,
                6: self.sequence,
                7: self.height,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> QuarantineRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "quarantine")
        record = cls(
            level=fields.enum(1, QuarantineLevel),
            cause=fields.enum(2, Cause),
            since_ms=fields.uint(3),
            until_ms=nullable_uint(fields, 4),
            trusted_until_ms=fields.uint(5),
            sequence=fields.uint(6),
            height=fields.uint(7),
        )
        close_record(fields, "quarantine")
        return record


@dataclass(frozen=True, slots=True)
class Voice:
    """One owner's opinion, however many nodes it speaks through."""

    marks: tuple[Digest, ...]
    """What tells this owner from others, ascending; see docs/spec/defence.md."""
    weight: int
    """What it counted for when it was last heard, of 1,000."""
    heard_ms: int
    """Header time of the last report, milliseconds."""

    def weight_at(self, time_ms: int, rules: DefenceRules) -> int:
        """What it counts for at a header time."""
        return rules.weight_at(self.weight, time_ms - self.heard_ms)

    def to_value(self) -> Value:
        """The wire form."""
        return [list(self.marks), self.weight, self.heard_ms]


def _read_voice(value: Value) -> Voice:
    marks, weight, heard_ms = as_array(value, "voice", size=3)
    if not isinstance(marks, (list, tuple)) or not 1 <= len(marks) <= VOICE_MARKS_MAX:
        raise EncodingError("voice: marks are not a list")
    return Voice(
        marks=tuple(as_digest(mark, "voice") for mark in marks),
        weight=as_uint(weight, "voice's weight", maximum=WEIGHT_MAX),
        heard_ms=as_uint(heard_ms, "voice's time"),
    )


@dataclass(frozen=True, slots=True)
class OpinionRecord:
    """`r/<did><group>`: what other owners of a group think of a subject, by its reports."""

    voices: tuple[Voice, ...] = ()
    """At most 16, in the order in which they were first heard; no two share a mark."""

    def voice(self, marks: tuple[Digest, ...]) -> Voice | None:
        """The voice that shares a mark with these, or None."""
        return next((voice for voice in self.voices if set(voice.marks) & set(marks)), None)

    def live(self, time_ms: int, rules: DefenceRules) -> tuple[int, int]:
        """How many voices still count at a header time, and what they add up to."""
        weights = [voice.weight_at(time_ms, rules) for voice in self.voices]
        return sum(weight > 0 for weight in weights), sum(weights)

    def heard(
        self, marks: tuple[Digest, ...], weight: int, time_ms: int, rules: DefenceRules
    ) -> OpinionRecord:
        """The record after one more report.

        Voices that share a mark with the reporter become one, with the greatest weight among them;
        what no longer counts is forgotten; if there are 16 others, the weakest gives way.
        """
        same: list[Voice] = []
        others: list[Voice] = []
        for voice in self.voices:
            if set(voice.marks) & set(marks):
                same.append(voice)
            elif voice.weight_at(time_ms, rules) > 0:
                others.append(voice)
        merged = dict.fromkeys([*marks, *(mark for voice in same for mark in voice.marks)])
        kept = tuple(sorted(list(merged)[:VOICE_MARKS_MAX]))
        heaviest = max([weight, *(voice.weight_at(time_ms, rules) for voice in same)])
        while len(others) >= VOICES_MAX or _mark_count(others) > MARKS_MAX - VOICE_MARKS_MAX:
            others.remove(min(others, key=lambda voice: voice.weight_at(time_ms, rules)))
        return OpinionRecord((*others, Voice(kept, heaviest, time_ms)))

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical({0: RECORD_SCHEMA, 1: [voice.to_value() for voice in self.voices]})

    @classmethod
    def decode(cls, data: bytes) -> OpinionRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "opinion")
        record = cls(fields.items(1, _read_voice, maximum=VOICES_MAX))
        close_record(fields, "opinion")
        return record


def _mark_count(voices: Sequence[Voice]) -> int:
    return sum(len(voice.marks) for voice in voices)


@dataclass(frozen=True, slots=True, kw_only=True)
class TallyRecord:
    """`qd/<group>`: how many of a group opinion has put into quarantine lately."""

    day: int = 0
    """Day of header time since 1970 that `count` counts."""
    count: int = 0
    """Quarantines by opinion on that day."""
    before: int = 0
    """On the day before it."""

    def at(self, time_ms: int) -> TallyRecord:
        """The tally as of a header time."""
        day = time_ms // DEFENCE_DAY_MS
        if day == self.day:
            return self
        return TallyRecord(day=day, count=0, before=self.count if day == self.day + 1 else 0)

    def one_more(self) -> TallyRecord:
        """The tally after another quarantine on its day."""
        return replace(self, count=self.count + 1)

    @property
    def recent(self) -> int:
        """On its day and the day before, which hold every span of 24 hours that ends now."""
        return self.count + self.before

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical({0: RECORD_SCHEMA, 1: self.day, 2: self.count, 3: self.before})

    @classmethod
    def decode(cls, data: bytes) -> TallyRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "tally")
        record = cls(day=fields.uint(1), count=fields.uint(2), before=fields.uint(3))
        close_record(fields, "tally")
        return record


@dataclass(frozen=True, slots=True)
class CensusRecord:
    """`gm/<group>`: how many active peers exchange images in a group."""

    count: int = 0
    """Active gateways and publishers that belong to it."""

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical({0: RECORD_SCHEMA, 1: self.count})

    @classmethod
    def decode(cls, data: bytes) -> CensusRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "census")
        record = cls(fields.uint(1))
        close_record(fields, "census")
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfConvictionRecord:
    """`cv/<did>`: a subject whose own signatures contradict each other."""

    offence: Offence
    """How."""
    evidence: Digest
    """Digest of the evidence, which stands in the block of `height`."""
    rotations: int
    """Key rotations of the subject when it was convicted: once for each list of keys."""
    height: int
    """Height at which it was recorded."""

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical(
            {
                0: RECORD_SCHEMA,
                1: int(self.offence),
                2: self.evidence,
                3: self.rotations,
                4: self.height,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> SelfConvictionRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "self-conviction")
        record = cls(
            offence=fields.enum(1, Offence),
            evidence=fields.digest(2),
            rotations=fields.uint(3),
            height=fields.uint(4),
        )
        close_record(fields, "self-conviction")
        return record
