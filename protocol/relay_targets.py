"""Who gets a unit from the node that relays it: everybody, heads with delegates, one for each site.

Two hops are shortest: the seeder gives a unit to one relayer, which gives it to all. Above
`FLAT_MEMBERS_MAX` members one relayer's copies would take too long to leave, so it serves heads,
each with a share of the rest. Members of another named site get one copy, with the duty to pass it
on within that site, because links between sites are thin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from protocol.relay_duties import PUSHCAP
from protocol.relay_estimates import Chance
from protocol.relay_members import Member
from protocol.relay_messages import DELEGATES_MAX, PushFlag

FLAT_MEMBERS_MAX: Final = 64
"""Members that one relayer serves itself: below, one level was faster in every simulation."""
HEADS_MAX: Final = 32
"""Heads of one unit; 32 were best at 256 members."""
MEMBERS_PER_HEAD: Final = 8
"""Members for which there is one head, until there are `HEADS_MAX`."""


@dataclass(frozen=True, slots=True)
class Target:
    """One push of a unit that is being relayed."""

    member: Member
    """Who gets it."""
    flags: PushFlag = PushFlag.NONE
    """What it shall do with it."""
    delegates: tuple[bytes, ...] = ()
    """Whom it shall pass it to."""

    @property
    def is_urgent(self) -> bool:
        """Whether others wait behind it."""
        return bool(self.flags or self.delegates)


class TargetPlanner:
    """Plans the pushes of units; remembers only whose turn as a head it is."""

    def __init__(self, *, site: bytes, chance: Chance) -> None:
        """Plans for a node in `site` (empty: none)."""
        self._site = site
        self._chance = chance
        self._turn = chance.below(2**16)

    def plan(self, receivers: Sequence[Member], *, first: int, count: int) -> list[Target]:
        """Plans a unit for all who receive its object, in random order.

        Args:
            receivers: members of all sites, without whom the unit came from.
            first: the unit's first chunk number.
            count: its chunks.
        """
        near: list[Member] = []
        far: dict[bytes, list[Member]] = {}
        for member in receivers:
            if member.site in (b"", self._site):
                near.append(member)
            else:
                far.setdefault(member.site, []).append(member)
        targets = [self._site_target(members, first) for members in far.values()]
        targets += self.plan_near(near, first=first, count=count)
        return [
            target
            for target in targets
            if target.flags or not target.member.known.covers(first, count)
        ]

    def plan_site(self, receivers: Sequence[Member], *, first: int, count: int) -> list[Target]:
        """Plans a unit for the members of this node's own site."""
        near = [member for member in receivers if self._site and member.site == self._site]
        return self.plan_near(near, first=first, count=count)

    def plan_near(self, near: Sequence[Member], *, first: int, count: int) -> list[Target]:
        """Plans a unit for members that are served without regard to sites."""
        lacking = [member for member in near if not member.known.covers(first, count)]
        if len(near) > FLAT_MEMBERS_MAX:
            return self._with_heads(lacking)
        self._shuffle(lacking)
        return [Target(member) for member in lacking]

    def _site_target(self, members: list[Member], first: int) -> Target:
        """One copy for a site: its members take turns, by the unit's number."""
        able = [member for member in members if not member.is_leaf] or members
        member = able[first % len(able)]
        return Target(member, PushFlag.SITE if len(members) > 1 else PushFlag.NONE)

    def _with_heads(self, lacking: list[Member]) -> list[Target]:
        able = [member for member in lacking if not member.is_leaf and len(member.urgent) < PUSHCAP]
        wanted = min(HEADS_MAX, len(lacking) // MEMBERS_PER_HEAD)
        wanted = min(max(wanted, -(-len(lacking) // (DELEGATES_MAX + 1)), 1), len(able))
        if not wanted:
            return [Target(member) for member in lacking]
        # Who does not take what it is owed would keep its delegates waiting: slow, or overloaded.
        prompt = [member for member in able if member.is_writable and not member.urgent]
        able = prompt if len(prompt) >= wanted else able
        heads = [able[(self._turn + step) % len(able)] for step in range(wanted)]
        self._turn += wanted
        chosen = dict.fromkeys(heads)
        rest = [member for member in lacking if member not in chosen]
        self._shuffle(rest)
        targets: list[Target] = []
        for position, head in enumerate(heads):
            share = rest[position :: len(heads)]
            names = tuple(member.name for member in share[:DELEGATES_MAX])
            targets.append(Target(head, PushFlag.NONE, names))
            targets += [Target(member) for member in share[DELEGATES_MAX:]]
        return targets

    def _shuffle(self, members: list[Member]) -> None:
        for last in range(len(members) - 1, 0, -1):
            other = self._chance.below(last + 1)
            members[last], members[other] = members[other], members[last]
