"""The giving side of a relay: units of other seeders to pass on, own units to give out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from protocol.exchange_events import PeerId
from protocol.relay_duties import DutyQueues
from protocol.relay_events import SendPush
from protocol.relay_members import Duty, Member, RelayTask
from protocol.relay_messages import Credit, PushFlag, Role, Run, Skip
from protocol.relay_news import CreditBoard
from protocol.relay_seeder import Seeder
from protocol.relay_state import RelayState
from protocol.relay_targets import FLAT_MEMBERS_MAX, Target, TargetPlanner
from protocol.relay_units import SeedShare, UnitCutter, UnitSize

REPORT_WAIT_S: Final = 0.5
"""How long a seeder waits for bitfields of members that resume, seconds."""
HELP_S: Final = 1.5
"""After its own stripes, a seeder waits so long before it goes on with those of others, seconds: by
then members have reported what those pushed last."""
SLOTS_FLAT: Final = 8
"""Pushes under way at once: 4 to 16 were equal as long as blocked ones do not count."""
SLOTS_WITH_HEADS: Final = 2
"""The same while heads wait for pushes: with more, each arrives later (8: 1.37, 2: 1.19)."""


class Giving:
    """See the module's docstring."""

    def __init__(self, state: RelayState) -> None:
        """Starts with nothing to give."""
        self._state = state
        self._planner = TargetPlanner(site=state.settings.site, chance=state.chance)
        self._seeders: dict[int, Seeder] = {}
        self._wait_until: dict[int, float] = {}
        self._help_at: dict[int, float] = {}
        self._convicted: dict[Member, None] = {}
        self._credits = CreditBoard()
        self.size = UnitSize()
        """How large units are."""
        self.uplink_bytes_per_s: float | None = None
        """What the host knows of the uplink."""
        self.is_uplink_idle = True
        """Whether the uplink is about to have nothing to send."""
        self.duties = DutyQueues()
        """What others are owed."""
        self.given_count = 0
        """Units given to relayers, since the start."""

    # Relaying ------------------------------------------------------------------------------------

    def relay(
        self, run: Run, flags: PushFlag, delegates: Sequence[bytes], *, source: PeerId, now: float
    ) -> None:
        """Owes a verified unit to whom its push said."""
        if self._state.settings.is_leaf:
            return
        number = self._state.object_of(run[0])
        receivers = [m for m in self._state.members.receivers(number) if m.peer != source]
        if PushFlag.RELAYER in flags:
            targets = self._planner.plan(receivers, first=run[0], count=run[1])
        elif PushFlag.SITE in flags:
            targets = self._planner.plan_site(receivers, first=run[0], count=run[1])
        else:
            named = (self._state.members.named(name) for name in delegates)
            targets = [Target(m) for m in named if m is not None and m.receives(number)]
        task = RelayTask(source if PushFlag.RELAYER in flags else None, run[0])
        self._owe(run, targets, task, now, is_urgent=PushFlag.RELAYER not in flags)

    def _owe(
        self, run: Run, targets: Sequence[Target], task: RelayTask, now: float, *, is_urgent: bool
    ) -> None:
        size_bytes = self._state.size_of(run)
        for target in targets:
            duty = Duty(run[0], run[1], size_bytes, target.flags, target.delegates, task)
            self.duties.add(target.member, duty, now, is_urgent=is_urgent or target.is_urgent)
        self.duties.begun(task, had_targets=bool(targets))

    # Seeding -------------------------------------------------------------------------------------

    def review(self, number: int, now: float) -> None:
        """Begins or ends the seeding of an object, after receivers, holders or possession changed.

        Pushing pays where receivers outnumber those who hold everything: a few late ones are
        quicker served by asking several holders.
        """
        state = self._state
        if not state.holds(number):
            return
        receivers = state.members.receivers(number)
        if not receivers:
            # Whoever comes next is a new generation: what the last one held says nothing.
            self._close(number)
            return
        seeder = self._seeders.get(number)
        if seeder is None:
            if any(number in member.received_with for member in receivers):
                return
            others = state.members.holders_count(number)
            if len(receivers) < max(state.settings.receivers_min, others + 1):
                return
            seeder = self._open(number, now)
        seeder.fresh.set_members(len(receivers))
        self.size.plan(
            object_bytes=seeder.object_bytes,
            receivers=len(receivers),
            uplink_bytes_per_s=self.uplink_bytes_per_s,
        )
        for member in receivers:
            if not member.is_leaf:
                seeder.admit(member, is_local=state.is_near(member))
        seeder.fresh.set_others(m.peer for m in state.members if number in m.seeded)
        if not self._must_wait(number, now) and seeder.fresh.has_fresh:
            state.set_role(number, Role.SEEDS)

    def _must_wait(self, number: int, now: float) -> bool:
        """Whether bitfields are on their way that tell what need not be pushed."""
        until = self._wait_until.get(number)
        if until is None:
            return False
        is_awaited = any(
            member.roles.get(number) is Role.RESUMES and number not in member.reported
            for member in self._state.members.receivers(number)
        )
        if is_awaited and now < until:
            return True
        del self._wait_until[number]
        first, count = self._state.whole(number)
        self._seeders[number].fresh.known_before(
            member.known.window(first, count) & ~member.asked.window(first, count)
            for member in self._state.members.receivers(number)
        )
        return False

    def _open(self, number: int, now: float) -> Seeder:
        state = self._state
        object_bytes = state.object_bytes(number)
        cutter = UnitCutter(state.layout, number, self.size)
        share = SeedShare(
            manifest_id=state.manifest_id,
            own_key=state.own_key,
            cutter=cutter,
            object_bytes=object_bytes,
        )
        seeder = self._seeders[number] = Seeder(
            share=share, cutter=cutter, have=state.have, object_bytes=object_bytes
        )
        self._wait_until[number] = now + REPORT_WAIT_S
        return seeder

    def _close(self, number: int) -> None:
        self._wait_until.pop(number, None)
        self._help_at.pop(number, None)
        if self._seeders.pop(number, None) is not None:
            self._state.set_role(number, Role.HOLDS)

    def withdraw(self, number: int) -> None:
        """Ends seeding because this node does not hold the whole object any more."""
        self._wait_until.pop(number, None)
        self._help_at.pop(number, None)
        self._seeders.pop(number, None)

    def noted(self, member: Member, run: Run, now: float) -> None:
        """Notes that a member told for the first time that it holds a run of one object."""
        seeder = self._seeders.get(self._state.object_of(run[0]))
        if seeder is not None:
            seeder.announced(member.peer, run[0], run[1], now)

    def left(self, member: Member) -> None:
        """Forgets a member: what it had to relay is given to others."""
        self._convicted.pop(member, None)
        self.duties.drop_member(member)
        for seeder in self._seeders.values():
            seeder.dismiss(member)

    def stopped_receiving(self, member: Member, number: int) -> None:
        """Gives a member no more units of an object."""
        seeder = self._seeders.get(number)
        if seeder is not None:
            seeder.dismiss(member)

    def credited(self, member: Member, firsts: Sequence[int], now: float) -> None:
        """Takes credits from a relayer."""
        for first in firsts:
            seeder = self._seeders.get(self._state.object_of(first))
            if seeder is not None:
                seeder.credited(member, first, now)

    def complained(self, culprit: Member, by: Member) -> None:
        """Takes a complaint: enough of them end the culprit's role as a relayer of this node."""
        if culprit.is_convicted or culprit is by or not self._seeders:
            return
        culprit.complainers[by.peer] = None
        self._judge(culprit)

    def joined(self) -> None:
        """Looks again at who was convicted: more members ask for more complaints."""
        for member in tuple(self._convicted):
            self._judge(member)

    def _judge(self, culprit: Member) -> None:
        """Convicts a member that more than a third of all complain about; nobody for less.

        All who joined count, not only who receives by now: liars that come first must not be
        enough to end everybody else's role.
        """
        witnesses = max(2, (len(self._state.members) - 1) // 3 + 1)
        is_convicted = len(culprit.complainers) >= witnesses
        if is_convicted is culprit.is_convicted:
            return
        culprit.is_convicted = is_convicted
        if is_convicted:
            self._convicted[culprit] = None
        else:
            del self._convicted[culprit]
        for seeder in self._seeders.values():
            if is_convicted:
                seeder.convict(culprit)
            else:
                seeder.place(culprit)

    # Pushing -------------------------------------------------------------------------------------

    @property
    def slots(self) -> int:
        """Pushes that shall be under way at once, blocked ones apart."""
        near = max((len(self._state.members.receivers(n)) for n in self._state.roles), default=0)
        return SLOTS_WITH_HEADS if near > FLAT_MEMBERS_MAX else SLOTS_FLAT

    @property
    def is_pressing(self) -> bool:
        """Whether fresh units wait for nothing but the uplink."""
        return any(
            not seeder.is_saturated and seeder.fresh.has_fresh
            for number, seeder in self._seeders.items()
            if number not in self._wait_until
        )

    def set_writable(self, member: Member, *, is_writable: bool) -> None:
        """Notes whether a member takes frames."""
        member.is_writable = is_writable
        self.duties.writable(member)
        for seeder in self._seeders.values():
            seeder.place(member)

    @property
    def is_seeding(self) -> bool:
        """Whether this node gives out units of some object."""
        return bool(self._seeders)

    @property
    def may_push(self) -> bool:
        """Whether `next_push` may find something; cheaper than to ask it."""
        return bool(self._seeders) or self.duties.is_any_ready

    def next_push(self, now: float) -> SendPush | None:
        """Chooses the next push: own fresh units first, then what others are owed."""
        for number, seeder in self._seeders.items():
            push = self._next_unit(number, seeder, now)
            if push is not None:
                return push
        return self._next_duty(now)

    def _next_unit(self, number: int, seeder: Seeder, now: float) -> SendPush | None:
        if number in self._wait_until:
            return None
        member = seeder.choose(now)
        if member is None:
            is_idle = self.is_uplink_idle and not self.duties.duty_count
            if is_idle and seeder.is_saturated:
                self._relay_own(number, seeder, now)
            return None
        run = seeder.fresh.next_unit()
        if run is None:
            return None
        seeder.given(member, run, self._state.size_of(run), now)
        self.size.given(now)
        self.given_count += 1
        if seeder.fresh.is_exhausted:
            # The last unit is out: whoever lacks something may ask for it from now on.
            self._state.set_role(number, Role.HOLDS)
        return self._push(member, run, PushFlag.RELAYER, ())

    def _relay_own(self, number: int, seeder: Seeder, now: float) -> None:
        """Passes a unit to everybody itself: no relayer has room for it, and the uplink is idle.

        Where it is not, waiting for a credit costs nothing, and this as much as a unit for each.
        """
        run = seeder.fresh.next_unit()
        if run is None:
            return
        receivers = list(self._state.members.receivers(number))
        targets = self._planner.plan(receivers, first=run[0], count=run[1])
        self._owe(run, targets, RelayTask(None, run[0]), now, is_urgent=False)

    def _next_duty(self, now: float) -> SendPush | None:
        while (taken := self.duties.take()) is not None:
            member, duty = taken
            run = (duty.first, duty.count)
            self._note_credits(now)
            number = self._state.object_of(duty.first)
            if member.receives(number) and self._state.have.covers(*run):
                return self._push(member, run, duty.flags, duty.delegates)
            self.duties.writable(member)
        self._note_credits(now)
        return None

    def _push(
        self, member: Member, run: Run, flags: PushFlag, delegates: tuple[bytes, ...]
    ) -> SendPush:
        number = self._state.object_of(run[0])
        member.known.add(*run)
        self.set_writable(member, is_writable=False)
        return SendPush(
            manifest_id=self._state.manifest_id,
            peer=member.peer,
            object_number=number,
            first_index=run[0] - self._state.layout.offset(number),
            count=run[1],
            size_bytes=self._state.size_of(run),
            flags=flags,
            delegates=delegates,
        )

    # Time ----------------------------------------------------------------------------------------

    def _note_credits(self, now: float) -> None:
        for task in self.duties.credits_due:
            assert task.seeder is not None, "only a seeder's units are credited"
            self._credits.note(task.seeder, task.first, now)
        self.duties.credits_due.clear()

    def due_times(self) -> list[float]:
        """When something here is due, seconds."""
        times = [self._credits.due_at, self.duties.skips_at]
        times += [seeder.due_at for seeder in self._seeders.values()]
        times += self._wait_until.values()
        times += self._help_at.values()
        return [time for time in times if time is not None]

    def act(self, now: float) -> None:
        """Sends the credits and skips that are due, and looks at relayers whose time has come."""
        state = self._state
        if self.duties.credits_due:
            self._note_credits(now)
        if self._credits.due_at is not None:
            for seeder_key, firsts in self._credits.take(now):
                member = state.members.find(seeder_key)
                if member is not None:
                    state.send(member, Credit(manifest_id=state.manifest_id, firsts=firsts))
        if self.duties.skips_at is not None:
            for member, runs in self.duties.take_skips(now):
                state.send(member, Skip(manifest_id=state.manifest_id, runs=tuple(runs)))
        if not self._seeders:
            return
        for number, seeder in list(self._seeders.items()):
            seeder.check(now)
            if now >= self._wait_until.get(number, now + 1):
                self.review(number, now)
            self._help(number, seeder, now)
            if number not in self._wait_until and seeder.fresh.is_exhausted:
                state.set_role(number, Role.HOLDS)

    def _help(self, number: int, seeder: Seeder, now: float) -> None:
        """Goes on with other seeders' stripes some time after this node's own are given out."""
        if not seeder.fresh.waits_to_help:
            self._help_at.pop(number, None)
        elif now >= self._help_at.setdefault(number, now + HELP_S):
            del self._help_at[number]
            seeder.fresh.help_others()

    def clear(self) -> None:
        """Drops every queue."""
        self._help_at.clear()
        self.duties.clear(list(self._state.members))
        self._seeders.clear()
        self._credits.clear()
        self._wait_until.clear()

    # Looking in ----------------------------------------------------------------------------------

    @property
    def seeders(self) -> Sequence[Seeder]:
        """The objects this node gives out."""
        return tuple(self._seeders.values())
