"""Whose recipe pages leave next: a few peers at a time, and BUSY for who would wait long.

When a release is announced all receivers ask the one node that has the recipe, in the same moment.
Served all at once they all have it as late as the last of them could, and it costs an uplink of
5 Mbit/s a second for 16 of them. Served one after the other the first has it at once and passes it
on: who is told BUSY finds somebody else, and the number of sources doubles.

Goals: a few are served by this node, the others by them; a request is begun within `WAIT_S` or
refused, so that nobody waits for a busy node while another is idle; who does not take what it asked
for holds up nobody for long; who asks again for what it was sent waits for all who were sent
nothing; somebody may always wait, so that the uplink is not idle while anybody asks. Where links
are fast nobody notices. Non-goals: rates, and the order of chunks, which is `upload_turns`' matter.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from protocol.digest import ManifestId
from protocol.exchange_events import PeerId
from protocol.limits import KIB

UNDER_WAY_BYTES_MAX: Final = 160 * KIB
"""Pages that may be under way at once while a crowd asks, bytes: four of the largest, a quarter of
a second at 5 Mbit/s. Connections are new and their windows small: a page takes two or three round
trips wherever it comes from, so that with fewer at once none would be complete much sooner."""
LINE_BYTES_MAX: Final = 640 * KIB
"""Pages under way and waited for, bytes; one peer may always be served, and one wait. Where all
that is asked for is no more than this, it is served at once: 16 nodes at 20 Mbit/s took 1.18 bounds
so, and 1.24 with half of it, since who has the recipe later than others misses pushes."""
GATHER_S: Final = 0.05
"""How long what does not fit under way waits whether a crowd asks, seconds."""
CROWD_S: Final = 1.0
"""How long a crowd is one after somebody was told BUSY, seconds."""
WAIT_S: Final = 0.25
"""A request is begun within this time or refused, seconds."""
HOLD_S: Final = 0.5
"""Who takes no page for so long keeps others from their turn no more, seconds: a page takes 0.3 s
at 1 Mbit/s."""
PAGE_BYTES_PER_CHUNK: Final = 36
"""What a page takes for each chunk: a length and a digest."""
ENTRIES_MAX: Final = 4096
"""Pairs of a peer and an object whose pages are counted: below 1 MiB."""


PageOf = tuple[ManifestId, int]
"""An object: (manifest, position in it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageCost:
    """What a page is among the others of its recipe."""

    chunks: int
    """Chunks that it tells of."""
    of_count: int
    """Pages of the recipe."""


@dataclass(slots=True)
class _Stay:
    """A peer in the line."""

    asked_at: float
    size_bytes: int = 0
    """Pages it asked for."""
    begun_at: float | None = None
    """When its turn began; None: it has to wait."""
    moved_at: float = 0.0
    """When something left for it last, or its turn began."""
    is_served: bool = False
    """Whether a page was read for it."""

    @property
    def waits_until(self) -> float:
        """When it is told BUSY, unless it is served by then."""
        return math.inf if self.is_served else self.asked_at + WAIT_S


class PageLine:
    """See the module's docstring; one for each node, shared by its uploads."""

    def __init__(self) -> None:
        """Starts with nobody in it."""
        self._stays: dict[PeerId, _Stay] = {}
        self._given: OrderedDict[tuple[PeerId, ManifestId, int], int] = OrderedDict()
        self._refused_at = -math.inf

    @property
    def has_waiting(self) -> bool:
        """Whether `due` may have something to say."""
        return any(not stay.is_served for stay in self._stays.values())

    @property
    def deadline(self) -> float | None:
        """When to call `due` at the latest; None: nobody waits."""
        stays = self._stays.values()
        if all(stay.is_served for stay in stays):
            return None
        over_at = min(stay.waits_until for stay in stays)
        waiting = next((stay for stay in stays if stay.begun_at is None), None)
        return over_at if waiting is None else min(over_at, self._turn_at(waiting))

    def admit(
        self, peer: PeerId, key: PageOf, page: PageCost, *, is_source: bool, now: float
    ) -> bool:
        """Takes a request for a page; False: it is to be told BUSY.

        Args:
            peer: who asks.
            key: of which object it is.
            page: what it costs.
            is_source: whether this node holds the whole object: others may hold no recipe yet.
            now: seconds, monotonic.
        """
        entry = (peer, *key)
        stay = self._stays.get(peer)
        is_alone = len(self._stays) == (stay is not None)
        given = self._given.get(entry, 0)
        if given >= page.of_count and not is_alone:
            return False  # it had what it needs: no sign of a crowd
        size_bytes = PAGE_BYTES_PER_CHUNK * page.chunks
        line_bytes = size_bytes + sum(each.size_bytes for each in self._stays.values())
        is_next = is_source and stay is None and not self.has_waiting
        limit_bytes = LINE_BYTES_MAX if is_source else UNDER_WAY_BYTES_MAX
        if line_bytes > limit_bytes and not is_alone and not is_next:
            self._refused_at = now
            return False
        if stay is None:
            stay = self._stays[peer] = _Stay(now)
        stay.size_bytes += size_bytes
        self._given[entry] = given + 1
        self._given.move_to_end(entry)
        if len(self._given) > ENTRIES_MAX:
            self._given.popitem(last=False)
        return True

    def may_begin(self, peer: PeerId, now: float) -> bool:
        """Whether a page may be read for a peer now."""
        stay = self._stays.get(peer)
        if stay is None:
            return False
        if stay.begun_at is None and peer == self._next(now):
            self._begin(stay, now)
        return stay.begun_at is not None

    def begins(self, peer: PeerId) -> None:
        """Notes that a page is being read for a peer."""
        stay = self._stays.get(peer)
        if stay is not None:
            stay.is_served = True

    def is_over(self, peer: PeerId, now: float) -> bool:
        """Whether a peer has waited in vain: it is to be told BUSY, and leaves the line."""
        stay = self._stays.get(peer)
        if stay is None or now < stay.waits_until:
            return False
        del self._stays[peer]
        return True

    def moved(self, peer: PeerId, now: float) -> None:
        """Notes that something has left for a peer."""
        stay = self._stays.get(peer)
        if stay is not None:
            stay.moved_at = now

    def leave(self, peer: PeerId) -> None:
        """Notes that a peer has all it asked for, or is gone."""
        self._stays.pop(peer, None)

    def due(self, now: float) -> list[PeerId]:
        """Who is to look again whether its turn has come, or is over."""
        if not self.has_waiting:
            return []
        told = [peer for peer, stay in self._stays.items() if now >= stay.waits_until]
        following = self._next(now)
        if following is not None and following not in told:
            told.append(following)
            # Once it was told it has the turn, whatever else keeps it from using it.
            self._begin(self._stays[following], now)
        return told

    def _begin(self, stay: _Stay, now: float) -> None:
        stay.begun_at = stay.moved_at = now

    def _next(self, now: float) -> PeerId | None:
        """Whose turn begins now."""
        for peer, stay in self._stays.items():
            if stay.begun_at is None:
                return peer if now >= self._turn_at(stay) else None
        return None

    def _turn_at(self, waiting: _Stay) -> float:
        """When the first who waits gets its turn, if nothing leaves before."""
        is_crowd = self._refused_at >= waiting.asked_at - CROWD_S
        gathered_at = math.inf if is_crowd else waiting.asked_at + GATHER_S
        left_bytes = UNDER_WAY_BYTES_MAX - waiting.size_bytes
        begun = [stay for stay in self._stays.values() if stay.begun_at is not None]
        # Those who took something lately count for longest.
        for stay in sorted(begun, key=lambda each: each.moved_at, reverse=True):
            left_bytes -= stay.size_bytes
            if left_bytes < 0:
                return min(gathered_at, stay.moved_at + HOLD_S)
        return waiting.asked_at
