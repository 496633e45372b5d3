"""How a seeder cuts an object into units, and which units are its own when several seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from protocol.digest import ManifestId, sha256
from protocol.exchange_events import PeerId
from protocol.exchange_layout import Layout
from protocol.limits import KIB
from protocol.relay_estimates import QuantileEstimate
from protocol.relay_messages import RUN_CHUNKS_MAX, Run
from protocol.runs import Runs

UNIT_BYTES_MIN: Final = 8 * KIB
"""Least aim for a unit: below, heads and credits cost more than the shorter tail saves."""
UNIT_BYTES_THIN_MAX: Final = 32 * KIB
"""Largest aim for a unit on a thin link: 16 MiB to 16 members took 1.11 times the bound with
16 KiB, 1.21 with 32 KiB and 1.34 with 64 KiB."""
UNIT_BYTES_MAX: Final = 256 * KIB
"""Largest aim for a unit on a fast link, where the work for each unit is what counts."""
UNITS_PER_MEMBER: Final = 64
"""Units each member relays of a small image, at least: the last one is the tail."""
UNITS_PER_S_MAX: Final = 500.0
"""Units a seeder sends in a second to the largest swarms; above, its units grow."""
UNITS_PER_S_MIN: Final = 200.0
"""The same to the smallest: 20 Mbit/s are 152 units of 16 KiB."""
UNITS_PER_S_LATE_SHARE: Final = 0.5
"""Of these so many while the host is late: 17 processes on two processors, to which 20 Mbit/s were
too much, took a tenth less time with half as many units."""
LATE_S: Final = 0.003
"""A host that usually acts so long after it meant to has too little processor time, seconds."""
UNITS_PER_S_MEMBER: Final = 6.0
"""The same for each receiver, in between: the tail lasts as long as one unit for each."""
UNITS_PER_MEMBER_FAST: Final = 16
"""Units each member relays, at least, where units grow because links are fast."""
UNITS_PER_MEMBER_LEFT: Final = 2
"""Of what is left, each member gets so many units at least: large ones first, small ones for the
tail (guided self-scheduling: Polychronopoulos and Kuck, 1987)."""
FAST_S_PER_BYTE: Final = 2e-6
"""A credit that takes less for each byte of its unit shows that links are fast and that what a unit
costs besides its bytes is what counts: 16 nodes at 20 Mbit/s take 6e-6, loopback 0.3e-6."""
_RATE_WINDOW_S: Final = 0.25
"""Over how long units are counted, seconds."""
STRIPE_BYTES_MIN: Final = 64 * KIB
"""Least bytes whose chunks belong to one seeder."""
STRIPES_MAX: Final = 256
"""Stripes of one object: so many that shares differ by less than a tenth."""


class UnitSize:
    """What a unit should hold: small for a short tail, larger where units come fast."""

    def __init__(self) -> None:
        """Starts with the least size."""
        self._floor_bytes = UNIT_BYTES_MIN
        self._aim_bytes = UNIT_BYTES_MIN
        self._window_at = 0.0
        self._window_count = 0
        self._units_per_s_max = UNITS_PER_S_MIN
        self._cap_bytes = UNIT_BYTES_MAX
        self._receivers = 1
        self._lateness = QuantileEstimate(LATE_S / 10, share=0.5)
        self._pace = QuantileEstimate(10 * FAST_S_PER_BYTE, share=0.5)

    @property
    def aim_bytes(self) -> int:
        """Bytes after which a unit ends while much is left."""
        return max(self._aim_bytes, self._floor_bytes)

    def aim_of(self, left_bytes: int) -> int:
        """Bytes after which a unit ends when so many bytes are left to be given."""
        share = left_bytes // (UNITS_PER_MEMBER_LEFT * self._receivers)
        return min(self.aim_bytes, max(share, UNIT_BYTES_MIN))

    def plan(self, *, object_bytes: int, receivers: int, uplink_bytes_per_s: float | None) -> None:
        """Sets the size from what is known before the first unit."""
        self._receivers = max(receivers, 1)
        thin = object_bytes // (UNITS_PER_MEMBER * max(receivers, 1))
        thin = min(max(thin, UNIT_BYTES_MIN), UNIT_BYTES_THIN_MAX)
        wanted = max(UNITS_PER_S_MEMBER * receivers, UNITS_PER_S_MIN)
        self._units_per_s_max = min(wanted, UNITS_PER_S_MAX)
        fast = int((uplink_bytes_per_s or 0.0) / self._units_per_s_max)
        self._floor_bytes = min(max(thin, fast), UNIT_BYTES_MAX)
        cap = object_bytes // (UNITS_PER_MEMBER_FAST * max(receivers, 1))
        self._cap_bytes = min(max(cap, self._floor_bytes), UNIT_BYTES_MAX)

    def credited(self, delay_s: float, size_bytes: int) -> None:
        """Notes how long after a unit left its credit came; half of the units count, so that no
        few relayers can pretend to be fast.
        """
        self._pace.sample(delay_s / size_bytes)

    def late(self, late_s: float) -> None:
        """Notes how long after it meant to the host acted."""
        self._lateness.sample(late_s)

    def given(self, now: float) -> None:
        """Counts a unit; grows or shrinks the next ones by how fast they and credits come."""
        self._window_count += 1
        elapsed = now - self._window_at
        if elapsed < _RATE_WINDOW_S:
            return
        rate = self._window_count / elapsed
        is_fast = self._pace.value_s < FAST_S_PER_BYTE
        units_per_s_max = self._units_per_s_max
        if self._lateness.value_s > LATE_S:
            units_per_s_max *= UNITS_PER_S_LATE_SHARE
        if rate > units_per_s_max or is_fast:
            self._aim_bytes = min(2 * self.aim_bytes, self._cap_bytes)
        elif rate < units_per_s_max / 4:
            self._aim_bytes = self._aim_bytes // 2
        self._window_at, self._window_count = now, 0


class UnitCutter:
    """Cuts one object's chunks into units."""

    def __init__(self, layout: Layout, number: int, size: UnitSize) -> None:
        """Cuts object `number`, whose recipe must be complete in `layout`."""
        self._layout = layout
        self._object = number
        self.size: Final = size
        """How large units are."""
        self.start: Final = layout.offset(number)
        """Number of the object's first chunk."""
        self.end: Final = self.start + layout.chunk_count_of(number)
        """The number behind its last chunk."""
        count = self.end - self.start
        self._chunk_bytes = layout.bytes_of(number, Runs(((0, count),))) // count

    def bytes_from(self, first: int) -> int:
        """About the bytes from a chunk to the end."""
        return (self.end - first) * self._chunk_bytes

    def unit_at(self, first: int, is_fresh: Callable[[int], bool]) -> Run:
        """The unit that begins with a chunk: fresh chunks without a gap, up to the aimed size."""
        aim_bytes = self.size.aim_of(self.bytes_from(first))
        total = self._layout.length(self._object, first - self.start)
        count = 1
        while first + count < self.end and count < RUN_CHUNKS_MAX:
            length = self._layout.length(self._object, first + count - self.start)
            # The nearer of the two ends to the aim.
            if 2 * (aim_bytes - total) <= length or not is_fresh(first + count):
                break
            total += length
            count += 1
        return first, count


class SeedShare:
    """Which chunks of an object a seeder pushes first: all, or those whose stripe chooses it.

    Stripes choose by rendezvous hashing (Thaler and Ravishankar, 1996), so that the share of a
    seeder that leaves falls to the others and nothing else moves.
    """

    def __init__(
        self, *, manifest_id: ManifestId, own_key: PeerId, cutter: UnitCutter, object_bytes: int
    ) -> None:
        """Starts as the only seeder."""
        self._manifest_id = manifest_id
        self._own_key = own_key
        self._start = cutter.start
        self._others: dict[PeerId, None] = {}
        chunks = self._chunks = cutter.end - cutter.start
        stripe_bytes = max(STRIPE_BYTES_MIN, object_bytes // STRIPES_MAX)
        # Integers only: every seeder must come to the same stripes.
        self._stripe_chunks: Final = max(1, stripe_bytes * chunks // max(object_bytes, 1))
        self._stripe = -1
        self._is_own = True

    @property
    def has_others(self) -> bool:
        """Whether somebody else seeds too."""
        return bool(self._others)

    @property
    def others_count(self) -> int:
        """How many others seed too."""
        return len(self._others)

    def from_end(self, step: int) -> int:
        """The number that is looked at in step `step` from the last stripe to the first one.

        A seeder that is done with its own stripes goes on with those of others in this order, so
        that it meets whoever works on them in ascending order as late as possible.
        """
        stripes = -(-self._chunks // self._stripe_chunks)
        # The last stripe may be short: it is looked at as if it were whole, numbers behind the end
        # included, which nobody holds.
        stripe = stripes - 1 - step // self._stripe_chunks
        return self._start + stripe * self._stripe_chunks + step % self._stripe_chunks

    @property
    def steps(self) -> int:
        """Steps of `from_end`."""
        return -(-self._chunks // self._stripe_chunks) * self._stripe_chunks

    def set_others(self, others: Iterable[PeerId]) -> bool:
        """Replaces the other seeders; tells whether that changed anything."""
        fresh = dict.fromkeys(others)
        if fresh == self._others:
            return False
        self._others = fresh
        self._stripe = -1
        return True

    def is_own(self, number: int) -> bool:
        """Whether this node pushes a chunk; O(1) while numbers ascend."""
        if not self._others:
            return True
        stripe = (number - self._start) // self._stripe_chunks
        if stripe != self._stripe:
            self._stripe = stripe
            own = self._weight(stripe, self._own_key)
            self._is_own = all(own > self._weight(stripe, other) for other in self._others)
        return self._is_own

    def _weight(self, stripe: int, key: PeerId) -> bytes:
        return sha256(self._manifest_id + stripe.to_bytes(4, "big") + key)
