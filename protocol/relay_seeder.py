"""The seeding side of a relay: each unit goes out once, to a relayer that credits have earned.

A unit is a run of chunks that nobody else is known to hold. It is given to the relayer with the
fewest uncredited units, which passes it to all others and returns a credit. The credit counts when
a third member announced the unit, so that a relayer's own word earns nothing. A relayer that makes
no progress gets its units taken back and is paused, until a late credit or a later trial shows that
it works; only complaints of many members end its role for good. See docs/spec/relay.md.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from math import ceil, inf
from typing import Final

from protocol.exchange_events import PeerId
from protocol.relay_chunks import ChunkSet
from protocol.relay_estimates import DelayEstimate, QuantileEstimate
from protocol.relay_fresh import FreshUnits
from protocol.relay_members import ALLOWANCE_START, Member, OutUnit, RelayerRecord
from protocol.relay_messages import Run
from protocol.relay_units import SeedShare, UnitCutter

ALLOWANCE_MAX: Final = 16
"""Most units a relayer may have without credit: enough for the longest round trips."""
UNVOUCHED_START: Final = 5
"""Credited units that nobody vouched for, which a relayer may have at first: what a liar gets. With
16, a third of liars made 1.57 bounds and stalling relayers 1.62; with 5 both 1.13, honest ones the
same."""
UNVOUCHED_MAX: Final = 64
"""The same of a relayer that many vouched for; grows by one for two vouched units."""
ALLOWANCE_MIN: Final = 1
"""Least allowance: a trial, or a relayer so slow that one unit keeps it busy."""
WORK_S: Final = 0.3
"""A relayer is given what it relays in so many seconds: 16 nodes of which three relay nothing took
1.39 bounds when it was given up to 16 units, 1.14 with 4, which is what this comes to."""
WORK_ROUNDS: Final = 1.0
"""The same in times that a credit takes from a relayer with nothing else to do: where paths are
long, what is under way must fill them."""
_GAP_WEIGHT: Final = 1 / 16
"""Weight of a new distance between credits in their mean."""
VOUCHER_FACTOR: Final = 2.0
"""A relayer whose units are announced by others so many times later than the median is given less:
a liar's units spread only as others pull them."""
BASE_DRIFT: Final = 0.01
"""How fast the least delay of a relayer's credits follows longer ones, a sample."""
SETTLED_VOUCHERS: Final = 3
"""Announced by so many, a unit is in the swarm whatever its relayer does: it is not given again."""
DOUBTS_SHARE: Final = 3
"""For each so many units that others announced, a relayer is believed one that nobody announced:
news reaches the seeder at random."""
CREDITS_PER_UNIT: Final = 2.0
"""A credit comes when half of a unit's pushes have left."""
TRIAL_CREDITS: Final = 4.0
"""Mean delays of credits that passing on what was taken back from a trial may take."""
SLOW_FACTOR: Final = 2.0
"""A relayer whose credits come so many times further apart than the median is slow."""
MEASURED_S_MIN: Final = 0.1
"""Least time over which a rate of giving means anything, seconds."""
INJECT_S_START: Final = 1.0
"""Bound for a credit's delay before any was measured, seconds; the patience is twice this."""
INJECT_S_MIN: Final = 1.0
"""Least patience with a relayer, seconds."""
INJECT_S_MAX: Final = 30.0
"""Most patience with a relayer, seconds."""
PAUSE_S_START: Final = 4.0
"""First pause of a relayer without progress, seconds; doubles with each."""
PAUSE_S_MAX: Final = 64.0
"""Longest pause, seconds."""
CLAIMANTS_MAX: Final = 1024
"""Members whose claims are remembered, so that none counts twice; who told least lately goes first.
"""
GIVEN_MAX: Final = 1024
"""Units remembered of one relayer in case it is convicted; the oldest are forgotten first."""


class Seeder:
    """Gives out the units of one object."""

    def __init__(
        self, *, share: SeedShare, cutter: UnitCutter, have: ChunkSet, object_bytes: int
    ) -> None:
        """Starts with every chunk of the object fresh.

        Args:
            share: which chunks are this node's to push.
            cutter: cuts runs into units.
            have: what this node holds; the owner keeps it current.
            object_bytes: size of the object.
        """
        self.object_bytes: Final = object_bytes
        """Size of the object."""
        self.fresh: Final = FreshUnits(share=share, cutter=cutter, have=have)
        """What is left to give."""
        self._share = share
        self._cutter = cutter
        self._claimants: dict[PeerId, ChunkSet] = {}
        self._units: dict[int, tuple[Member, OutUnit]] = {}
        self._relayers: dict[Member, RelayerRecord] = {}
        self._buckets: list[dict[Member, None]] = [{} for _ in range(2 * ALLOWANCE_MAX)]
        self._usable_local = 0
        self._able_counts = [0, 0]
        self._growing_counts = [0, 0]
        self._checks: list[tuple[float, int, Member]] = []
        self._check_count = 0
        self._latency = DelayEstimate(INJECT_S_START)
        self._vouched = QuantileEstimate(0.5, share=0.5)
        self._gap = QuantileEstimate(0.5, share=0.5)
        self._begun_at = 0.0
        self._given_bytes = 0
        self.reinjected_count = 0
        """Units given out again, since the start."""
        self.doubtful_count = 0
        """Credits believed though nobody vouched for them in time, since the start."""

    @property
    def _allowance_start(self) -> int:
        """What a relayer is given at first, from all seeders together `ALLOWANCE_START`."""
        return max(ALLOWANCE_START // (1 + self._share.others_count), ALLOWANCE_MIN)

    # Giving --------------------------------------------------------------------------------------

    @property
    def is_saturated(self) -> bool:
        """Whether no relayer may be given a unit, and waiting for a credit would idle the uplink.

        A relayer whose allowance still grows is waited for: it has no more units only because its
        first credits take a round trip.
        """
        side = self._preferred
        return not self._able_counts[side] and not self._growing_counts[side]

    @property
    def _preferred(self) -> int:
        """0: relayers of this node's own site, as long as one works; 1: those of other sites."""
        return 0 if self._usable_local else 1

    def choose(self, now: float) -> Member | None:
        """The relayer to give the next unit to; None if none takes frames and has allowance.

        Near the end it is one that is done when the others are, as long as there is any: the last
        unit of a slow one is what everybody would wait for. For the same reason one that was
        paused is tried near the end only if nobody else works.
        """
        start = self._preferred * ALLOWANCE_MAX
        end_s = self._end_s(now)
        late: Member | None = None
        for bucket in self._buckets[start : start + ALLOWANCE_MAX]:
            for member in bucket:
                record = self._relayers[member]
                if record.pause_s and self._is_too_late_to_try(record, end_s):
                    continue
                if self._is_in_time(record, end_s):
                    return member
                late = late or member
        if late is None or self._is_any_in_time(end_s):
            return None
        return late

    def _end_s(self, now: float) -> float:
        """When the last unit will have been relayed, from now on, seconds."""
        if not self._given_bytes or self._latency.mean_s is None:
            return inf
        rate = self._given_bytes / max(now - self._begun_at, MEASURED_S_MIN)
        return self.fresh.left_bytes / rate + CREDITS_PER_UNIT * self._latency.mean_s

    def _is_any_in_time(self, end_s: float) -> bool:
        return any(
            record.is_able and self._is_in_time(record, end_s) for record in self._relayers.values()
        )

    def _is_in_time(self, record: RelayerRecord, end_s: float) -> bool:
        """Whether a relayer is as quick as most, or will be done with one more unit in time."""
        if record.gap_s is None or record.gap_s <= SLOW_FACTOR * self._gap.value_s:
            return True
        # The unit that was credited last is under way still.
        return record.gap_s * (record.uncredited_count + CREDITS_PER_UNIT) <= end_s

    def _is_too_late_to_try(self, record: RelayerRecord, end_s: float) -> bool:
        """Whether a trial that fails would be noticed when the others are done.

        Three mute nodes of 16 that were tried a second before the end made 1.27 bounds of 1.16.
        """
        again_s = TRIAL_CREDITS * (self._latency.mean_s or 0.0)
        if self.inject_s(record) + again_s <= end_s:
            return False
        return any(other.is_usable and not other.pause_s for other in self._relayers.values())

    def given(self, member: Member, run: Run, size_bytes: int, now: float) -> None:
        """Notes that a unit was handed to a relayer."""
        first, count = run
        record = self._relayers[member]
        if not self._given_bytes:
            self._begun_at = now
        self._given_bytes += size_bytes
        unit = OutUnit(first, count, size_bytes, pushed_at=now)
        record.out[first] = unit
        record.uncredited_count += 1
        record.given[first] = count
        self._units[first] = (member, unit)
        if len(record.given) > GIVEN_MAX:
            oldest = next(iter(record.given))
            del record.given[oldest]
            self._forget(member, oldest)
        if not record.is_checked:
            self._arm(member, record, now + self.inject_s(record))
        self.place(member)

    def place(self, member: Member) -> None:
        """Puts a member where it is found when a relayer is chosen; call it when it changes."""
        record = self._relayers.get(member)
        if record is None:
            return
        side = 0 if record.is_local else 1
        if record.bucket is not None:
            self._buckets[record.bucket].pop(member, None)
            record.bucket = None
        is_usable = not record.is_paused and not member.is_convicted
        unvouched = len(record.out) - record.uncredited_count
        unvouched_max = min(UNVOUCHED_START + record.vouched_count // 2, UNVOUCHED_MAX)
        is_able = (
            is_usable and record.uncredited_count < record.allowance and unvouched < unvouched_max
        )
        is_growing = (
            is_usable
            and not is_able
            and not record.is_limited
            and record.allowance < ALLOWANCE_MAX
            and unvouched < unvouched_max
        )
        self._able_counts[side] += is_able - record.is_able
        self._growing_counts[side] += is_growing - record.is_growing
        record.is_growing = is_growing
        if record.is_local:
            self._usable_local += is_usable - record.is_usable
        record.is_usable, record.is_able = is_usable, is_able
        if is_able and member.is_writable:
            record.bucket = record.uncredited_count + side * ALLOWANCE_MAX
            self._buckets[record.bucket][member] = None

    def admit(self, member: Member, *, is_local: bool) -> None:
        """Makes a member a relayer."""
        if member not in self._relayers:
            record = self._relayers[member] = RelayerRecord(is_local=is_local)
            record.allowance = self._allowance_start
            self.place(member)

    def dismiss(self, member: Member) -> None:
        """Ends a member's role: it left, or receives no more. Its open units are fresh again."""
        record = self._relayers.get(member)
        if record is None:
            return
        self._take_back(member, record)
        record.is_paused = True
        self.place(member)
        del self._relayers[member]

    # Credits -------------------------------------------------------------------------------------

    def credited(self, member: Member, first: int, now: float) -> None:
        """Takes a relayer's word that it passed a unit on."""
        record = self._relayers.get(member)
        if record is None:
            return
        unit = record.out.get(first)
        if unit is not None:
            if unit.credited_at is None:
                unit.credited_at = now
                record.uncredited_count -= 1
            self._release(member, record, unit, now)
            self.place(member)
        elif record.lapsed.pop(first, None) is not None and record.is_paused:
            # It works after all, only slowly. This needs no voucher: a trial costs one unit.
            self._resume(member, record)

    def announced(self, peer: PeerId, first: int, count: int, now: float) -> None:
        """Notes that a member told that it holds chunks of this object.

        Each member counts once for a chunk, however often it says so, leaves and comes back. That
        vouches for whoever relayed them to it, and if enough members tell the same, the chunks
        need not be pushed by this node.
        """
        claimed = self._claimants.pop(peer, None) or ChunkSet()
        self._claimants[peer] = claimed
        if len(self._claimants) > CLAIMANTS_MAX:
            del self._claimants[next(iter(self._claimants))]
        for run in claimed.absent_runs(first, count):
            self._count(peer, *run, now)
        claimed.add(first, count)

    def _count(self, peer: PeerId, first: int, count: int, now: float) -> None:
        self.fresh.claimed(first, count)
        numbers: Iterable[int] = range(first, first + count)
        if count > len(self._units):
            numbers = [number for number in self._units if first <= number < first + count]
        for number in numbers:
            entry = self._units.get(number)
            if entry is not None and entry[0].peer != peer:
                self._vouch(*entry, now)

    def _vouch(self, member: Member, unit: OutUnit, now: float) -> None:
        if not unit.vouchers:
            unit.vouched_at = now
        unit.vouchers += 1
        record = self._relayers.get(member)
        if record is None:
            return
        if unit.vouchers >= SETTLED_VOUCHERS:
            record.given.pop(unit.first, None)
            if unit.first not in record.out:
                self._forget(member, unit.first)
        self._release(member, record, unit, now)

    def _release(self, member: Member, record: RelayerRecord, unit: OutUnit, now: float) -> None:
        """Ends a unit's wait once it is credited and vouched for."""
        if not unit.vouchers or record.out.get(unit.first) is not unit:
            return
        if unit.credited_at is None:
            return
        del record.out[unit.first]
        record.vouched_count += 1
        if record.last_credit_at:
            gap_s = now - record.last_credit_at
            if record.gap_s is None:
                record.gap_s = gap_s
            record.gap_s += _GAP_WEIGHT * (gap_s - record.gap_s)
            self._gap.sample(record.gap_s)
        record.last_credit_at = now
        record.is_paused = False
        record.pause_s = 0.0
        self._cutter.size.credited(unit.credited_at - unit.pushed_at, unit.size_bytes)
        self._learn(record, unit.credited_at - unit.pushed_at, unit.vouched_at - unit.pushed_at)
        if unit.first not in record.given:
            self._forget(member, unit.first)
        self.place(member)

    def _learn(self, record: RelayerRecord, latency_s: float, vouched_s: float) -> None:
        """Takes how long a unit's credit, and the first news of it by another member, took."""
        record.latency.sample(latency_s)
        self._latency.sample(latency_s)
        if record.base_s is None or latency_s < record.base_s:
            record.base_s = latency_s
        record.base_s += BASE_DRIFT * (latency_s - record.base_s)
        # Its own pace only: what liars say of theirs must not limit others.
        wanted = self._allowance_start
        if record.gap_s is not None:
            work_s = max(WORK_S, WORK_ROUNDS * record.base_s)
            wanted = 1 + ceil(work_s / max(record.gap_s, 1e-3))
            record.is_limited = True
        is_late = vouched_s > VOUCHER_FACTOR * self._vouched.value_s
        self._vouched.sample(vouched_s)
        if is_late:
            wanted = record.allowance - 1
        record.allowance = min(max(wanted, ALLOWANCE_MIN), ALLOWANCE_MAX)

    def _forget(self, member: Member, first: int) -> None:
        entry = self._units.get(first)
        if entry is not None and entry[0] is member:
            del self._units[first]

    def inject_s(self, record: RelayerRecord) -> float:
        """Patience with a relayer, seconds."""
        bound_s = max(self._latency.bound_s, record.latency.bound_s)
        return min(max(2 * bound_s, INJECT_S_MIN), INJECT_S_MAX)

    # Lack of progress ----------------------------------------------------------------------------

    @property
    def due_at(self) -> float | None:
        """When a relayer's progress is to be looked at, seconds."""
        return self._checks[0][0] if self._checks else None

    def check(self, now: float) -> None:
        """Looks at the relayers whose time has come."""
        while self._checks and self._checks[0][0] <= now:
            _, _, member = heapq.heappop(self._checks)
            record = self._relayers.get(member)
            if record is not None and record.is_checked:
                record.is_checked = False
                self._check(member, record, now)

    def _check(self, member: Member, record: RelayerRecord, now: float) -> None:
        if record.is_paused:
            if now >= record.probe_at:
                self._resume(member, record)
            else:
                self._arm(member, record, record.probe_at)
            return
        if not record.out:
            return
        patience_s = self.inject_s(record)
        oldest = next(iter(record.out.values()))
        due_at = max(record.last_credit_at, oldest.pushed_at) + patience_s
        # One that has credited everything only waits for news; whether to believe it says `_sweep`.
        if now >= due_at and (record.uncredited_count or not _is_proven(record)):
            self._pause(member, record, now)
            return
        self._sweep(member, record, now, patience_s)
        self._arm(member, record, max(due_at, now + patience_s / 2))

    def _pause(self, member: Member, record: RelayerRecord, now: float) -> None:
        self._take_back(member, record)
        record.is_paused = True
        record.pause_s = min(max(2 * record.pause_s, PAUSE_S_START), PAUSE_S_MAX)
        record.probe_at = now + record.pause_s
        self._arm(member, record, record.probe_at)
        self.place(member)

    def _resume(self, member: Member, record: RelayerRecord) -> None:
        record.is_paused = False
        record.allowance = ALLOWANCE_MIN
        self.place(member)

    def _sweep(self, member: Member, record: RelayerRecord, now: float, patience_s: float) -> None:
        """Ends the wait for single old units of a relayer that otherwise makes progress.

        News reaches the seeder at random, so for some credited units nobody ever vouches; and a
        relayer with no room drops a push without a word.
        """
        for unit in list(record.out.values()):
            age_s = now - unit.pushed_at
            if age_s < patience_s:
                break
            is_credited = unit.credited_at is not None
            if is_credited and _is_proven(record):
                record.doubtful_count += 1
                self.doubtful_count += 1
                del record.out[unit.first]
            elif is_credited or age_s >= 2 * patience_s:
                del record.out[unit.first]
                record.uncredited_count -= not is_credited
                self._return(member, record, unit)
        self.place(member)

    def _take_back(self, member: Member, record: RelayerRecord) -> None:
        """Makes the open units of a relayer fresh."""
        record.lapsed, record.out = record.out, {}
        record.uncredited_count = 0
        for unit in record.lapsed.values():
            self._return(member, record, unit)

    def _return(self, member: Member, record: RelayerRecord, unit: OutUnit) -> None:
        record.given.pop(unit.first, None)
        self._forget(member, unit.first)
        if unit.vouchers < SETTLED_VOUCHERS:
            self.fresh.give_back((unit.first, unit.count))
            self.reinjected_count += 1

    def _arm(self, member: Member, record: RelayerRecord, at: float) -> None:
        record.is_checked = True
        self._check_count += 1
        heapq.heappush(self._checks, (at, self._check_count, member))

    # Complaints ----------------------------------------------------------------------------------

    def convict(self, member: Member) -> None:
        """Gives everything to others that a relayer was given and few announced."""
        record = self._relayers.get(member)
        if record is None:
            return
        for first, count in record.given.items():
            self.fresh.give_back((first, count))
            self._forget(member, first)
        self.reinjected_count += len(record.given)
        record.given.clear()
        record.out.clear()
        record.uncredited_count = 0
        record.lapsed.clear()
        self.place(member)

    @property
    def out_count(self) -> int:
        """Units that relayers have without credit; looks at all relayers."""
        return sum(len(record.out) for record in self._relayers.values())

    def relayers(self) -> Sequence[tuple[Member, RelayerRecord]]:
        """Everybody who may be given units, paused ones included, with how they do."""
        return tuple(self._relayers.items())


def _is_proven(record: RelayerRecord) -> bool:
    """Whether so many units were vouched for that one more without a voucher is believed."""
    return record.vouched_count >= DOUBTS_SHARE * (record.doubtful_count + 1)
