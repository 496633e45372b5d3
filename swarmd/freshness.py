"""How old my knowledge of the chain is: freshness by nonce, without trusting any clock.

Participants: a node that wants to know whether its copy is current; validators that sign its nonce
together with their newest final header; members that pass both along. Goal: f+1 validators whose
answers do not exceed my own copy prove that, when I asked, I held all that at least one honest
validator held. The age of my knowledge counts from the moment of asking, on the monotonic clock,
so the wall clock may stand at 1970. Non-goal: proof to others; a statement convinces only the node
that drew the nonce.

Across restarts the age is persisted and only ever rounded up: every start adds a save interval and
is saved at once, so a node that is power-cycled by an attacker grows older, never younger. Pure:
time and randomness come in as arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from protocol.catchup import (
    FreshnessAnswer,
    SignedFreshness,
    parse_freshness,
)
from protocol.digest import BlockId, ChainId
from protocol.encoding import Fields, decode_canonical, encode_canonical
from protocol.errors import VerificationError
from protocol.keys import PublicKey
from protocol.merkle import leaf_hash, verify_inclusion

SAVE_INTERVAL_S: Final = 600.0
"""Seconds between two saves of the age: 144 small writes a day; a restart adds as much to it, since
a crash may come right before the next save."""
ASK_INTERVAL_MAX_S: Final = 3600.0
"""Longest wait between two questions, seconds."""
_RECORD_BYTES_MAX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The newest final header of my copy, as far as freshness needs it."""

    era: int
    """Its era."""
    epoch: int
    """Its epoch."""
    height: int
    """Its height."""
    block_id: BlockId
    """Its id."""
    time_ms: int
    """Its header time, milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidatorKeys:
    """What a node needs of the validator set: keys by index and the fault limit."""

    epoch: int
    """Epoch of the set."""
    keys: tuple[PublicKey | None, ...]
    """Vote keys in index order; None: an empty seat."""
    fault_limit: int
    """f; f+1 answers contain an honest one."""
    era: int | None = None
    """Era of the set: who is in another one signs with other keys; None: not compared."""


class FreshnessRound:
    """One question: a nonce, when it was asked, and the validators' verified answers."""

    def __init__(self, nonce: bytes, asked_at: float, validators: ValidatorKeys) -> None:
        """Starts a round; `asked_at` is monotonic seconds before the nonce left this node."""
        self.nonce: Final = nonce
        self.asked_at: Final = asked_at
        self._validators = validators
        self._answers: dict[int, SignedFreshness] = {}

    def add(self, answer: FreshnessAnswer, chain: ChainId) -> None:
        """Takes a member's answer; every statement is checked by itself.

        Raises:
            VerificationError: a statement is forged, names another nonce or set; those before it
                in the answer were taken.
        """
        for raw, index, proof, size in answer.statements:
            signed = parse_freshness(raw)
            content = signed.freshness
            if content.epoch != self._validators.epoch:
                continue  # said by one who is beyond an edge that I am not, or the reverse
            if self._validators.era not in (None, content.era):
                continue  # so too about a recovery (G27)
            if content.validator >= len(self._validators.keys):
                raise VerificationError(f"freshness statement of validator {content.validator}")
            key = self._validators.keys[content.validator]
            if key is None:
                raise VerificationError(f"freshness statement of empty seat {content.validator}")
            signed.verify(key, chain)
            verify_inclusion(
                leaf_hash(self.nonce), index=index, size=size, proof=proof, root=content.nonces
            )
            self._answers[content.validator] = signed

    def is_confirmed(
        self, head: Head, knows: Callable[[int], BlockId | None], lag_ms_max: int
    ) -> bool:
        """Tells whether f+1 validators answered with nothing beyond `head`, on a chain that lives.

        Args:
            head: my newest final header.
            knows: my block id at a height, or None if I no longer keep it.
            lag_ms_max: an answer dated farther beyond the head's time does not count: a chain that
                makes no blocks any more, or a validator cut off from it, vouches for nothing.
        """
        matching = [
            answer
            for answer in self._answers.values()
            if answer.freshness.era == head.era
            and answer.freshness.time_ms <= head.time_ms + lag_ms_max
            and answer.freshness.height <= head.height
            and knows(answer.freshness.height) in (None, answer.freshness.block_id)
        ]
        return len(matching) > self._validators.fault_limit

    @property
    def highest(self) -> int:
        """Highest height that any answer named: a reason to catch up, not a fact."""
        return max((answer.freshness.height for answer in self._answers.values()), default=0)

    @property
    def answer_count(self) -> int:
        """Distinct validators that answered."""
        return len(self._answers)


class FreshnessClock:
    """The age of my knowledge, on the monotonic clock, surviving restarts."""

    def __init__(self, saved: bytes | None, *, now: float, wall_ms: int, head_ms: int = 0) -> None:
        """Continues from what was saved, or starts with no knowledge at all.

        Args:
            saved: what `save` returned before the restart; damaged or None: nothing is known.
            now: monotonic seconds.
            wall_ms: wall clock; used only where it makes the age larger. If it fell back, to 1970
                for example, the time away is not known, and so nothing is.
            head_ms: header time of my newest final block, milliseconds. A wall clock that stands
                before it is wrong and may have been at every start: it tells no time away either.
        """
        self._anchor: float | None = None
        if saved is not None and (restored := _decode_record(saved)) is not None:
            age_ms, saved_wall_ms = restored
            least_ms = max(saved_wall_ms, head_ms)
            if wall_ms + SAVE_INTERVAL_S * 1000 >= least_ms:  # else: nobody knows how long
                away_ms = max(0, wall_ms - saved_wall_ms)
                self._anchor = now - (age_ms + away_ms) / 1000 - SAVE_INTERVAL_S

    def confirm(self, asked_at: float) -> None:
        """Notes that my copy was current at `asked_at`, monotonic seconds."""
        if self._anchor is None or asked_at > self._anchor:
            self._anchor = asked_at

    def age_ms(self, now: float) -> int | None:
        """Milliseconds since my copy was last proven current; None: never."""
        if self._anchor is None:
            return None
        return max(0, round((now - self._anchor) * 1000))

    def is_within(self, limit_ms: int, now: float) -> bool:
        """Tells whether my knowledge is at most `limit_ms` old."""
        age = self.age_ms(now)
        return age is not None and age <= limit_ms

    def save(self, *, now: float, wall_ms: int) -> bytes | None:
        """What to store at start, every `SAVE_INTERVAL_S` and at shutdown; None: nothing."""
        age = self.age_ms(now)
        if age is None:
            return None
        return encode_canonical({0: 1, 1: age, 2: max(0, wall_ms)})


def _decode_record(saved: bytes) -> tuple[int, int] | None:
    try:
        fields = Fields(decode_canonical(saved, bytes_max=_RECORD_BYTES_MAX), "freshness record")
        fields.constant(0, 1)
        record = (fields.uint(1), fields.uint(2))
        fields.finish()
    except VerificationError:
        return None
    return record


def ask_interval_s(offer_limits_ms: tuple[int, ...]) -> float:
    """How often to ask: six times within the shortest limit, at least hourly, seconds."""
    shortest = min(offer_limits_ms, default=int(ASK_INTERVAL_MAX_S * 6000))
    return min(ASK_INTERVAL_MAX_S, shortest / 6000)
