"""Pushes that this node owes to others: bounded queues, and a ring of who is next.

A member is in a ring while it has duties and takes frames; each turn takes one duty of the member
in front. Urgent duties (others wait behind them) go before the rest. What does not fit a member's
queue is told to it by SKIP, so that it pulls: slow members never hold the others up.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from protocol.relay_chunks import merge_runs
from protocol.relay_members import Duty, Member, RelayTask
from protocol.relay_messages import Run

PUSHCAP: Final = 8
"""Units one member may be owed in either queue: without a bound, members four times slower than the
rest received 13 % duplicates, because they had been repaired by pull meanwhile."""
SKIPS_MAX: Final = 64
"""Runs gathered for one SKIP before it is sent at once."""
SKIP_DELAY_S: Final = 0.05
"""How long skips are gathered, seconds."""


class DutyQueues:
    """The duties of one relay."""

    def __init__(self) -> None:
        """Starts with nothing owed."""
        self._urgent: deque[Member] = deque()
        self._normal: deque[Member] = deque()
        self._skipping: dict[Member, None] = {}
        self._starved: deque[RelayTask] = deque()
        self.duty_count = 0
        """Pushes owed to all members together."""
        self.queued_bytes = 0
        """Their bytes."""
        self.skipped_count = 0
        """Units that found a queue full, since the start."""
        self.credits_due: list[RelayTask] = []
        """Tasks of which enough is done; whoever calls takes them out."""
        self.skips_at: float | None = None
        """When gathered skips are to be sent, seconds."""

    def add(self, member: Member, duty: Duty, now: float, *, is_urgent: bool) -> None:
        """Owes a push to a member, or notes that it is skipped."""
        queue = member.urgent if is_urgent else member.normal
        if len(queue) >= PUSHCAP:
            self._skip(member, duty, now)
            return
        queue.append(duty)
        if duty.task is not None:
            duty.task.left += 1
        self.duty_count += 1
        self.queued_bytes += duty.size_bytes
        self.writable(member)

    def _skip(self, member: Member, duty: Duty, now: float) -> None:
        self.skipped_count += 1
        member.skips.append((duty.first, duty.count))
        self._skipping[member] = None
        due = now if len(member.skips) >= SKIPS_MAX else now + SKIP_DELAY_S
        self.skips_at = due if self.skips_at is None else min(self.skips_at, due)

    def begun(self, task: RelayTask, *, had_targets: bool) -> None:
        """Starts to count a task whose pushes were all added.

        The credit is due when half of them have left. Of a task whose pushes all found full queues
        it is due when the next push leaves: credits must not come faster than the uplink sends.
        """
        task.credit_at = task.left // 2
        if task.left:
            return
        if had_targets and self.duty_count:
            self._starved.append(task)
        else:
            self._credit(task)

    def take_skips(self, now: float) -> list[tuple[Member, list[Run]]]:
        """Takes out the skips that are due."""
        if self.skips_at is None or now < self.skips_at:
            return []
        taken = [(member, merge_runs(member.skips)) for member in self._skipping]
        for member in self._skipping:
            member.skips = []
        self._skipping = {}
        self.skips_at = None
        return taken

    def writable(self, member: Member) -> None:
        """Puts a member into the rings it has duties for, if it takes frames."""
        if not member.is_writable:
            return
        if member.urgent and not member.in_urgent_ring:
            member.in_urgent_ring = True
            self._urgent.append(member)
        if member.normal and not member.in_normal_ring:
            member.in_normal_ring = True
            self._normal.append(member)

    @property
    def is_any_ready(self) -> bool:
        """Whether somebody who takes frames is owed something, as far as rings know."""
        return bool(self._urgent or self._normal)

    def take(self) -> tuple[Member, Duty] | None:
        """Takes the next push that somebody can take and lacks."""
        while self._urgent:
            member = self._urgent.popleft()
            member.in_urgent_ring = False
            duty = self._pop(member, member.urgent)
            if duty is not None:
                return member, duty
        while self._normal:
            member = self._normal.popleft()
            member.in_normal_ring = False
            duty = self._pop(member, member.normal)
            if duty is not None:
                return member, duty
        return None

    def _pop(self, member: Member, queue: deque[Duty]) -> Duty | None:
        # A busy member comes back to the ring when the host reports its push as sent.
        while queue and member.is_writable:
            duty = queue.popleft()
            self._settle_queued(duty)
            if duty.flags or duty.delegates or not member.known.covers(duty.first, duty.count):
                return duty
        return None

    def drop_member(self, member: Member) -> None:
        """Forgets what a member is owed; rings forget it as its turn comes."""
        for queue in (member.urgent, member.normal):
            while queue:
                self._settle_queued(queue.popleft())
        member.is_writable = False
        member.skips = []
        self._skipping.pop(member, None)

    def clear(self, members: list[Member]) -> None:
        """Forgets everything at once, without credits."""
        for member in members:
            self.drop_member(member)
        self._urgent.clear()
        self._normal.clear()
        for member in members:
            member.in_urgent_ring = member.in_normal_ring = False
        self._starved.clear()
        self.credits_due = []
        self.skips_at = None

    def _settle_queued(self, duty: Duty) -> None:
        self.duty_count -= 1
        self.queued_bytes -= duty.size_bytes
        self._settle(duty)

    def _settle(self, duty: Duty) -> None:
        task = duty.task
        if task is not None:
            task.left -= 1
            if task.left <= task.credit_at:
                self._credit(task)
        if self._starved:
            self._credit(self._starved.popleft())

    def _credit(self, task: RelayTask) -> None:
        if not task.is_credited:
            task.is_credited = True
            if task.seeder is not None:
                self.credits_due.append(task)
