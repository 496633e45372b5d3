"""What this node tells about itself while units are relayed: news of chunks to a few, credits.

Everybody receives nearly everything by push, so possession need not be told to all: a few random
members hear of each chunk. That suffices to vouch for relayers and to repair what a relayer
dropped, and costs a sixth of telling all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from protocol.relay_chunks import merge_runs
from protocol.relay_estimates import Chance
from protocol.relay_members import Member
from protocol.relay_messages import RUNS_MAX, Role, Run

NEWS_FANOUT: Final = 4
"""Members that hear of each chunk, chosen at random; a seeder besides, if none is among them."""
SEEDER_NEWS_MEMBERS: Final = 64
"""In larger swarms a seeder is told besides by so many of all members: enough vouch for every unit,
and its processor has other work."""
NEWS_DELAY_S: Final = 0.25
"""How long news is gathered while units are pushed, seconds."""
NEWS_DELAY_MEMBER_S: Final = 0.016
"""The same for each member, where that is less: in small swarms credits wait for news."""
NEWS_DELAY_PULL_S: Final = 0.05
"""How long news is gathered once units are pulled, seconds: 10 and 100 ms were both slower."""
CREDIT_DELAY_S: Final = 0.02
"""How long credits are gathered, seconds; short, because they clock the seeder."""
CREDITS_MAX: Final = 64
"""Credits gathered for one seeder before they are sent at once."""


class NewsBoard:
    """Chunks verified here that were not told yet."""

    def __init__(self, chance: Chance) -> None:
        """Starts with nothing to tell."""
        self._chance = chance
        self._runs: list[Run] = []
        self.due_at: float | None = None
        """When the news is to be told, seconds."""

    def note(self, runs: Sequence[Run], now: float, *, members: int, is_pulling: bool) -> None:
        """Adds chunks."""
        self._runs += runs
        delay_s = max(min(NEWS_DELAY_S, NEWS_DELAY_MEMBER_S * members), NEWS_DELAY_PULL_S)
        due = now + (NEWS_DELAY_PULL_S if is_pulling else delay_s)
        self.due_at = due if self.due_at is None else min(self.due_at, due)

    def take(self, now: float, members: Sequence[Member]) -> list[tuple[Member, list[Run]]]:
        """Takes the news out if it is due, for a few of these members."""
        if self.due_at is None or now < self.due_at:
            return []
        runs, self._runs, self.due_at = merge_runs(self._runs), [], None
        told: list[tuple[Member, list[Run]]] = []
        for member in self._choose(list(members)):
            # A seeder holds everything; what it wants to hear is who else does.
            unknown = [run for run in runs if _is_seeder(member) or not member.known.covers(*run)]
            told += [
                (member, unknown[start : start + RUNS_MAX])
                for start in range(0, len(unknown), RUNS_MAX)
            ]
        return told

    def clear(self) -> None:
        """Forgets what is to be told."""
        self._runs = []
        self.due_at = None

    def _choose(self, members: list[Member]) -> list[Member]:
        """A few at random; if no seeder is among them, one more that is.

        What nobody tells the seeder vouches for nobody: where disks are slow it waited half a
        second for news, with every relayer at its limit of units without a voucher.
        """
        count = min(NEWS_FANOUT, len(members))
        for position in range(count):
            other = position + self._chance.below(len(members) - position)
            members[position], members[other] = members[other], members[position]
        chosen = members[:count]
        is_many = len(members) > SEEDER_NEWS_MEMBERS
        is_left_out = is_many and self._chance.below(len(members)) >= SEEDER_NEWS_MEMBERS
        if not is_left_out and not any(map(_is_seeder, chosen)):
            seeders = list(filter(_is_seeder, members))
            if seeders:
                number = self._chance.below(len(seeders)) if len(seeders) > 1 else 0
                chosen.append(seeders[number])
        return chosen


def _is_seeder(member: Member) -> bool:
    return Role.SEEDS in member.roles.values()


class CreditBoard:
    """Credits that were not sent yet."""

    def __init__(self) -> None:
        """Starts with nothing to send."""
        self._firsts: dict[bytes, dict[int, None]] = {}
        self.due_at: float | None = None
        """When credits are to be sent, seconds."""

    def note(self, seeder: bytes, first: int, now: float) -> None:
        """Adds a credit for a seeder."""
        firsts = self._firsts.setdefault(seeder, {})
        firsts[first] = None
        due = now if len(firsts) >= CREDITS_MAX else now + CREDIT_DELAY_S
        self.due_at = due if self.due_at is None else min(self.due_at, due)

    def take(self, now: float) -> list[tuple[bytes, tuple[int, ...]]]:
        """Takes the credits out if they are due."""
        if self.due_at is None or now < self.due_at:
            return []
        taken = [(seeder, tuple(sorted(firsts))) for seeder, firsts in self._firsts.items()]
        self.clear()
        return taken

    def clear(self) -> None:
        """Forgets what is to be sent."""
        self._firsts = {}
        self.due_at = None
