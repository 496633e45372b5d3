"""Whether an object is pulled freely, or only what no push is expected for."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass
from typing import Final

from protocol.exchange_events import PeerId
from protocol.relay_chunks import bit_runs
from protocol.relay_events import (
    AskPossession,
    PeerClaims,
    PeerClaimsObject,
    PullFreed,
    PullGated,
    PullOpened,
    SendPossession,
)
from protocol.relay_members import HOLDING, Member
from protocol.relay_messages import Run
from protocol.relay_repair import STALL_S_MIN, RepairBoard
from protocol.relay_state import RelayState

LATE_S: Final = 2.0
"""For so long after an object became ready here, what bitfields tell may be asked for at once,
seconds: it was pushed before this node took part."""
GRACE_S: Final = 0.3
"""How long a receiver that sees reason for somebody to seed waits for that, seconds."""
QUIET_SHARE: Final = 0.5
"""No push for this share of the repair delay after the last seeder was done: none is on its way."""
QUIET_GAPS: Final = 8.0
"""Likewise, no push for so many mean distances between pushes: the downlink is idle, and who asks
in vain is in nobody's way."""
QUIET_S_MIN: Final = 0.5
"""But at least so long, seconds."""
QUIET_RATE: Final = 0.5
"""In crowds likewise if for as long fewer than this share of the usual pushes come: those are what
slow members are late with, and the downlink has room. Of 128 members a fifth had waited up to four
times as long as the others for their last hundredth."""
FREE_FACTOR: Final = 4.0
"""So many repair delays later all is asked for though pushes still come."""
FAR_FACTOR: Final = 4.0
"""Members of other sites are asked this many repair delays later than those of the own site, which
get a copy across and pass it on."""
CROWD_MEMBERS: Final = 64
"""In larger swarms who has seeded is asked later than others: all would ask it at once for their
last chunks, which most others hold too: 128 mixed members took 2.0 copies from it, and 1.02 so."""
CROWD_S: Final = 2.0
"""So much later after an object became free, seconds. The same for members that do not take what
they are owed: a hundredth of the requests went to slow ones, and these were all waited for."""

REFRESH_S_START: Final = 1.0
"""First pause before somebody is asked again for what it holds, seconds; doubles each time."""
REFRESH_S_MAX: Final = 16.0
"""Longest such pause, seconds."""
REFRESH_MEMBERS: Final = 8
"""Members asked at once."""
REPORT_S_MIN: Final = 1.0
"""Pause between bitfields to each of several seeders, seconds."""
REPORT_BYTES_PER_S: Final = 4096
"""What such bitfields may take, bytes per second and seeder."""


@dataclass(slots=True)
class _ObjectGate:
    """How one object is pulled."""

    ready_at: float
    """When it became ready here, seconds."""
    is_gated: bool = False
    """Whether only opened chunks may be asked for."""
    was_hoped: bool = False
    """Whether it was gated before somebody seeded, once."""
    gated_at: float = 0.0
    """When it was gated last, seconds."""
    free_at: float | None = None
    """When the gate opens, because all was announced, seconds."""
    free_by: float | None = None
    """When it opens though pushes still come, seconds."""
    counted_at: float = 0.0
    """Since when pushes are counted that come though nobody seeds any more, seconds."""
    counted: int = 0
    """Pushes that had come until then."""
    is_stalled: bool = False
    """It opened because no push came; the next one closes it."""
    freed_at: float = 0.0
    """When it became free last, seconds."""
    refresh_at: float | None = None
    """When others are asked again for what they hold, seconds."""
    refresh_s: float = REFRESH_S_START
    """The next pause between such questions, seconds."""
    report_at: float | None = None
    """When seeders are told again what is held here, seconds."""


class PullGate:
    """See the module's docstring."""

    def __init__(self, state: RelayState) -> None:
        """Starts with every object free."""
        self._state = state
        self._objects: dict[int, _ObjectGate] = {}
        self._deferred: list[tuple[float, PeerId, int]] = []
        self.repair: Final = RepairBoard(state.have)
        """Chunks that were heard of."""

    def ready(self, number: int, now: float) -> None:
        """Begins to watch an object that is received."""
        self._objects[number] = _ObjectGate(now)
        self.seeders_changed(number, now)

    def done(self, number: int) -> None:
        """Ends watching an object."""
        self._objects.pop(number, None)

    @property
    def is_expecting(self) -> bool:
        """Whether pushes of some object are expected."""
        return any(gate.is_gated for gate in self._objects.values())

    def is_gated(self, number: int) -> bool:
        """Whether only opened chunks of an object may be asked for."""
        gate = self._objects.get(number)
        return gate is not None and gate.is_gated

    # Seeders -------------------------------------------------------------------------------------

    def seeders_changed(self, number: int, now: float) -> None:
        """Closes the gate while somebody seeds, opens it once pushes ceased after the last one."""
        gate = self._objects.get(number)
        if gate is None:
            return
        seeders = self._state.members.seeders(number)
        if seeders:
            self._close(number, gate, now)
        elif gate.is_gated and gate.free_at is None:
            gate.free_at = now + min(self.repair.repair_s, QUIET_S_MIN)
        elif not gate.was_hoped and self._has_reason_to_seed(number):
            # Whoever holds it is about to seed: requests now would only be in the way.
            gate.was_hoped = gate.is_gated = True
            gate.gated_at, gate.free_at = now, now + GRACE_S
            self._state.effects.append(PullGated(object_number=number))
        gate.report_at = now if len(seeders) > 1 else None

    def _has_reason_to_seed(self, number: int) -> bool:
        state = self._state
        holders = state.members.holders_count(number)
        # Who has said nothing yet may be about to receive, as this node is.
        receivers = len(state.members) - holders + 1
        return holders > 0 and receivers >= max(state.settings.receivers_min, holders)

    def _close(self, number: int, gate: _ObjectGate, now: float) -> None:
        for member in self._state.members.seeders(number):
            self._state.effects.append(
                PeerClaimsObject(peer=member.peer, object_number=number, bits=0)
            )
        gate.is_stalled = False
        gate.free_at = gate.free_by = gate.refresh_at = None
        if not gate.is_gated:
            gate.is_gated, gate.gated_at = True, now
            self.repair.forget([self._state.whole(number)])
            self._state.effects.append(PullGated(object_number=number))

    def _free(self, number: int, gate: _ObjectGate, now: float) -> None:
        gate.is_gated, gate.free_at, gate.free_by = False, None, None
        gate.freed_at = now
        gate.refresh_at, gate.refresh_s = now + REFRESH_S_START, REFRESH_S_START
        self._put_off_busy(number, now)
        self._state.effects.append(PullFreed(object_number=number))

    def _put_off_busy(self, number: int, now: float) -> None:
        """Asks members later that do not take what they are owed: they are slow, others are not."""
        members = self._state.members
        if len(members) <= CROWD_MEMBERS:
            return
        for member in members:
            if member.urgent and not member.is_writable and not member.seeds(number):
                claims = PeerClaimsObject(peer=member.peer, object_number=number, bits=0)
                self._state.effects.append(claims)
                self._defer(member, number, now + CROWD_S)

    def announced_all(self, member: Member, number: int, now: float) -> None:
        """A member holds all of an object and may be asked for it."""
        if number not in self._objects:
            return
        if self._is_second_choice(member, number):
            self._defer(member, number, now + FAR_FACTOR * self.repair.repair_s)
        elif self._is_crowded(member, number):
            self._defer(member, number, now + CROWD_S)
        else:
            self._claim_known(member, number)

    def _defer(self, member: Member, number: int, until: float) -> None:
        if any(entry[1:] == (member.peer, number) for entry in self._deferred):
            return  # all that is known then will be told
        insort(self._deferred, (until, member.peer, number))

    def _is_crowded(self, member: Member, number: int) -> bool:
        """Whether a member has seeded, and many would ask it at once for their last chunks."""
        return number in member.seeded and len(self._state.members) > CROWD_MEMBERS

    def _is_second_choice(self, member: Member, number: int) -> bool:
        """Whether a member is in another site, and somebody in this one takes part."""
        if self._state.is_near(member) or not self._state.settings.site:
            return False
        return any(
            other.site == self._state.settings.site and number in other.roles
            for other in self._state.members
        )

    def _claim_known(self, member: Member, number: int) -> None:
        bits = member.known.window(*self._state.whole(number))
        self._state.effects.append(
            PeerClaimsObject(peer=member.peer, object_number=number, bits=bits)
        )

    # Chunks --------------------------------------------------------------------------------------

    def told(self, member: Member, number: int, run: Run, now: float) -> None:
        """A member told that it holds a run of an object: expect it, or ask for it."""
        gate = self._objects.get(number)
        if member.seeds(number) or gate is None:
            return
        self._state.effects.append(PeerClaims(peer=member.peer, runs=(run,)))
        if gate.is_gated:
            self.repair.heard(member.peer, run[0], run[1], now)

    def told_object(self, member: Member, number: int, bits: int, now: float) -> None:
        """A member told by a bitfield what it holds of an object."""
        gate = self._objects.get(number)
        if member.seeds(number) or gate is None:
            return
        state = self._state
        first, count = state.whole(number)
        if gate.is_gated and self._is_second_choice(member, number):
            self._defer(member, number, now + FAR_FACTOR * self.repair.repair_s)
            return
        state.effects.append(PeerClaimsObject(peer=member.peer, object_number=number, bits=bits))
        if not gate.is_gated or member.roles.get(number) in HOLDING:
            # Whoever holds everything may be about to seed, or may lie: that opens nothing.
            return
        runs = bit_runs(bits, first, count)
        if now <= gate.ready_at + LATE_S:
            opened = [part for run in runs for part in self.repair.open_now(*run)]
            if opened:
                state.effects.append(PullOpened(runs=tuple(opened)))
            return
        for run in runs:
            self.repair.heard(member.peer, run[0], run[1], now)

    def open(self, run: Run) -> None:
        """Permits a run of an object to be asked for."""
        runs = self.repair.open_now(*run)
        if runs and self.is_gated(self._state.object_of(run[0])):
            self._state.effects.append(PullOpened(runs=tuple(runs)))

    def pushed(self, number: int, run: Run, now: float) -> None:
        """A push of an object came: whoever seeds it works, if the push brings anything."""
        is_new = self.repair.pushed(*run, now)
        gate = self._objects.get(number)
        if gate is not None and gate.is_stalled and is_new:
            self.seeders_changed(number, now)

    def lost_sender(self, peer: PeerId) -> None:
        """A member left: what was expected through it may be asked of others."""
        runs = self.repair.lost_sender(peer)
        if runs:
            self._state.effects.append(PullOpened(runs=tuple(runs)))

    # Time ----------------------------------------------------------------------------------------

    def due_times(self) -> list[float]:
        """When something here is due, seconds."""
        times: list[float | None] = [time for time, _, _ in self._deferred[:1]]
        for gate in self._objects.values():
            times += (gate.free_at, gate.refresh_at, gate.report_at)
            if gate.is_gated:
                times += (self._stalled_at(gate), self.repair.due_at)
        return [time for time in times if time is not None]

    def _is_stalled(self, gate: _ObjectGate, now: float) -> bool:
        # Most events come long before: the least of all patience is quicker looked up.
        if now < (self.repair.pushed_at or 0.0) + STALL_S_MIN:
            return False
        return now >= self._stalled_at(gate)

    def _stalled_at(self, gate: _ObjectGate) -> float:
        return max(gate.gated_at, self.repair.pushed_at or 0.0) + self.repair.stall_s

    def act(self, now: float) -> None:
        """Opens what waited long enough; asks and tells what is due."""
        if self.repair.may_be_due(now):
            runs = self.repair.take_due(now)
            if runs:
                self._state.effects.append(PullOpened(runs=tuple(runs)))
        for number, gate in self._objects.items():
            if gate.free_at is not None and now >= gate.free_at:
                self._free_unless_pushed(number, gate, now)
            elif gate.is_gated and self._is_stalled(gate, now):
                self._stall(number, gate, now)
            if gate.refresh_at is not None and now >= gate.refresh_at:
                self._refresh(gate, now)
            if gate.report_at is not None and now >= gate.report_at:
                self._report(number, gate, now)
        self._act_deferred(now)

    def _act_deferred(self, now: float) -> None:
        """Claims what was put off, unless the reason is still there."""
        while self._deferred and self._deferred[0][0] <= now:
            _, peer, number = self._deferred.pop(0)
            member = self._state.members.find(peer)
            if member is None or member.seeds(number):
                continue
            again_at = self._again_at(member, number, now)
            if again_at > now:
                insort(self._deferred, (again_at, peer, number))
            else:
                self._claim_known(member, number)

    def _again_at(self, member: Member, number: int, now: float) -> float:
        """Until when a member is not to be asked, as far as is known; seconds, perhaps past."""
        if self._is_second_choice(member, number):
            # Copies still come across by push: asking for them would send them twice.
            return (self.repair.pushed_at or 0.0) + FAR_FACTOR * self.repair.repair_s
        gate = self._objects.get(number)
        if gate is not None and self._is_crowded(member, number):
            return (now if gate.is_gated else gate.freed_at) + CROWD_S
        return now

    @property
    def _quiet_s(self) -> float:
        """How long no push, once nobody seeds, means that none is on its way, seconds."""
        by_gap_s = max(QUIET_S_MIN, QUIET_GAPS * self.repair.gap_s)
        return min(QUIET_SHARE * self.repair.repair_s, by_gap_s)

    def _free_unless_pushed(self, number: int, gate: _ObjectGate, now: float) -> None:
        """Sets an object free once pushes ceased: those on their way are not to be asked for."""
        quiet_at = (self.repair.pushed_at or 0.0) + self._quiet_s
        if gate.free_by is None:
            gate.free_by = now + FREE_FACTOR * self.repair.repair_s
            gate.counted_at, gate.counted = now, self.repair.pushed_count
        if now >= min(quiet_at, gate.free_by) or self._is_trickle(gate, now):
            self._free(number, gate, now)
        else:
            gate.free_at = min(quiet_at, gate.free_by)
            if len(self._state.members) > CROWD_MEMBERS:
                gate.free_at = min(gate.free_at, gate.counted_at + self._count_s)

    @property
    def _count_s(self) -> float:
        """How long pushes are counted before their rate means anything, seconds."""
        return max(QUIET_S_MIN, QUIET_GAPS * self.repair.usual_gap_s)

    def _is_trickle(self, gate: _ObjectGate, now: float) -> bool:
        """Whether pushes have come too rarely lately to be waited for; counts from now on again."""
        if len(self._state.members) <= CROWD_MEMBERS or now < gate.counted_at + self._count_s:
            return False
        elapsed_s = now - gate.counted_at
        count = self.repair.pushed_count - gate.counted
        gate.counted_at, gate.counted = now, self.repair.pushed_count
        return count * self.repair.usual_gap_s < QUIET_RATE * elapsed_s

    def _stall(self, number: int, gate: _ObjectGate, now: float) -> None:
        """Nobody pushes, whatever they said: ask everybody, seeders too (G6)."""
        gate.is_stalled = True
        first, count = self._state.whole(number)
        for member in self._state.members.seeders(number):
            member.known.add(first, count)
            self._claim_known(member, number)
        self._free(number, gate, now)

    def _refresh(self, gate: _ObjectGate, now: float) -> None:
        """Asks some members what they hold: news goes to a few only, so some is not known here."""
        members = list(self._state.members)
        for _ in range(min(REFRESH_MEMBERS, len(members))):
            chosen = members.pop(self._state.chance.below(len(members)))
            self._state.effects.append(AskPossession(peer=chosen.peer))
        gate.refresh_at = now + gate.refresh_s
        gate.refresh_s = min(2 * gate.refresh_s, REFRESH_S_MAX)

    def _report(self, number: int, gate: _ObjectGate, now: float) -> None:
        """Tells each of several seeders exactly what needs no push any more."""
        for member in self._state.members.seeders(number):
            self._state.effects.append(SendPossession(peer=member.peer, object_number=number))
        size_bytes = self._state.layout.chunk_count_of(number) // 8
        gate.report_at = now + max(REPORT_S_MIN, size_bytes / REPORT_BYTES_PER_S)

    def clear(self) -> None:
        """Forgets everything."""
        self._objects.clear()
        self._deferred.clear()
        self.repair.clear()
