"""Who is served next: the uplink of a node is shared by need, not by how much is asked for.

Participants are the uploads of one node to all its peers, and its relays, which say whether pushes
wait for the uplink. Somebody who asks everybody for everything, again and again, is to cost others
no more than one peer that keeps the rules; who keeps them is to notice nothing.

Goals: whoever was sent less of an object than all of it is served as it comes. All who were sent
one copy more than somebody else who asks take the turn of one peer together, and go one after the
other, the least served first. While pushes wait for the uplink all go one after the other, with
pauses between (docs/spec/exchange.md, X51 to X53). Whatever is free is given away: nobody waits
while nobody else is served. What was sent is counted by authenticated peer, so that a new stream
changes nothing; how many are counted is bounded. Non-goals: rates, and shares among those in need,
which have one read under way each and equal streams.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from protocol.digest import ManifestId
from protocol.exchange_events import PeerId
from protocol.upload_pace import FRAME_BYTES_MIN
from protocol.upload_pages import PageCost, PageLine

ENTRIES_MAX: Final = 32_768
"""Pairs of a peer and an object whose answers are counted: 6 MiB. Of more, the pair that was served
longest ago is forgotten, and counts as new."""
PAUSE_FACTOR: Final = 9
"""While pushes wait a frame that took some time is followed by a pause of so many times that: a
tenth of the time is left to who asks."""
PAUSE_S_MAX: Final = 1.0
"""Longest pause, seconds: an honest peer waits twice as long before it asks somebody else."""
NEED_S: Final = 10.0
"""How long a peer that asked, or was sent something, counts among those who ask, seconds: a frame
of 64 KiB to one of ten peers over 100 KB/s takes so long with the one before it."""
HOLD_S: Final = 5.0
"""Who does not take its frame within this time holds up nobody any more, seconds."""
PUSHED_HOLD_S: Final = 1.0
"""The same while pushes wait."""
CALM_S: Final = 1.0
"""How long no push must wait before a peer gets more than one small frame at once, seconds: between
two pushes there are moments without one, in which all who ask would get seconds of an uplink."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """An object that a peer asks for."""

    manifest_id: ManifestId
    """The manifest it is of."""
    component: int
    """Its position in the manifest."""
    answers: int
    """Chunks and recipe pages of it: what one peer needs at most."""


class Seat:
    """The place of one upload among the others of its node; made by `UploadTurns.seat`."""

    def __init__(self, turns: UploadTurns, peer: PeerId) -> None:
        """Starts with nothing asked."""
        self._turns = turns
        self.peer: Final = peer
        """Whom the upload serves."""

    def is_in_need(self, wish: Wish) -> bool:
        """Whether the peer was sent less of an object than all of it."""
        return self._turns.served(self.peer, wish) < wish.answers

    def begin(self, wish: Wish, *, frame_bytes: int, unsent_bytes: int, now: float) -> int:
        """Asks for a turn.

        Args:
            wish: what would be served.
            frame_bytes: payload that the peer's link is worth.
            unsent_bytes: payload handed over for this peer that has not left.
            now: seconds, monotonic.

        Returns:
            Payload bytes that may be read now; 0: `UploadTurns.due` will name the peer.
        """
        return self._turns.begin(self, wish, frame_bytes, unsent_bytes, now)

    def sent(self, wish: Wish, answers: int) -> None:
        """Notes chunks or a page that leave for the peer."""
        self._turns.count(self.peer, wish, answers)

    def flushed(self, now: float) -> None:
        """Notes that a frame has left."""
        self._turns.flushed(self, now)

    def settle(self, *, is_asking: bool, is_busy: bool, now: float) -> None:
        """Notes how the upload stands: whether requests are open, a read or a frame under way."""
        self._turns.settle(self, is_asking=is_asking, is_busy=is_busy, now=now)

    def leave(self) -> None:
        """Gives the place up: the stream ended. What was sent stays counted."""
        self._turns.leave(self)

    def admits_page(self, wish: Wish, page: PageCost, *, is_source: bool, now: float) -> bool:
        """Whether a request for a page is taken; the arguments are those of `PageLine.admit`."""
        key = (wish.manifest_id, wish.component)
        return self._turns.pages.admit(self.peer, key, page, is_source=is_source, now=now)

    def may_send_pages(self, now: float) -> bool:
        """Whether it is this peer's turn to be sent recipe pages."""
        return self._turns.pages.may_begin(self.peer, now)

    def has_waited_for_pages(self, now: float) -> bool:
        """Whether its turn did not come in time: requests for pages are to be told BUSY."""
        return self._turns.pages.is_over(self.peer, now)

    def begins_page(self) -> None:
        """Notes that a recipe page is being read for this peer."""
        self._turns.pages.begins(self.peer)

    def has_pages(self) -> None:
        """Notes that every page it asked for has left."""
        self._turns.pages.leave(self.peer)


def _never() -> bool:
    return False


class UploadTurns:
    """See the module's docstring; one for each node, shared by its uploads."""

    def __init__(self, is_pushing: Callable[[], bool] = _never) -> None:
        """Starts with nobody served.

        Args:
            is_pushing: whether pushes wait for the uplink now; cheap, and asked often.
        """
        self._is_pushing = is_pushing
        self.pages: Final = PageLine()
        """Whose recipe pages leave next."""
        self._served: OrderedDict[tuple[PeerId, ManifestId, int], int] = OrderedDict()
        self._asking: dict[Seat, tuple[int, float]] = {}
        self._waiting: dict[Seat, Wish] = {}
        self._holder: Seat | None = None
        self._is_begun = False
        self._held_at = 0.0
        self._next_at = 0.0
        self._pushed_at = -CALM_S

    @property
    def has_waiting(self) -> bool:
        """Whether anybody waits for its turn, so that `due` may have something to say."""
        return bool(self._waiting) or self.pages.has_waiting

    @property
    def deadline(self) -> float | None:
        """When to call `due` at the latest."""
        pages_at = self.pages.deadline
        if not self._waiting:
            return pages_at
        turn_at = self._next_at if self._holder is None else self._held_until
        return turn_at if pages_at is None else min(pages_at, turn_at)

    def seat(self, peer: PeerId) -> Seat:
        """A place for the upload to an authenticated peer."""
        return Seat(self, peer)

    def due(self, now: float) -> list[PeerId]:
        """Takes out the peers whose turn has come, each to be told by `TurnCame`."""
        asking_pages = self.pages.due(now)
        if not self._waiting:
            return asking_pages
        if self._holder is not None and now >= self._held_until:
            self._release(now)
        called: list[Seat] = []
        if not self._is_pushing_at(now):
            called = [seat for seat in self._waiting if self._is_free(seat, now)]
            for seat in called:
                del self._waiting[seat]
        if self._waiting and self._holder is None and now >= self._next_at:
            first = min(self._waiting, key=self._order)
            del self._waiting[first]
            self._take(first, now)
            called.append(first)
        return asking_pages + [seat.peer for seat in called if seat.peer not in asking_pages]

    # Seats ---------------------------------------------------------------------------------------

    def served(self, peer: PeerId, wish: Wish) -> int:
        """Chunks and pages of an object that a peer was sent."""
        return self._served.get((peer, wish.manifest_id, wish.component), 0)

    def begin(self, seat: Seat, wish: Wish, frame_bytes: int, unsent_bytes: int, now: float) -> int:
        """See `Seat.begin`."""
        self._asking[seat] = (self.served(seat.peer, wish) // wish.answers, now)
        if not self._is_pushing_at(now) and self._is_free(seat, now):
            is_calm = now >= self._pushed_at + CALM_S
            if is_calm or not unsent_bytes:
                self._waiting.pop(seat, None)
                return frame_bytes if is_calm else min(frame_bytes, FRAME_BYTES_MIN)
        if unsent_bytes:
            return 0  # asked again when they have left
        if self._holder is None and not self._waiting and now >= self._next_at:
            self._take(seat, now)
        if self._holder is seat and not self._is_begun:
            self._is_begun = True
            return min(frame_bytes, FRAME_BYTES_MIN)
        self._waiting[seat] = wish
        return 0

    def count(self, peer: PeerId, wish: Wish, answers: int) -> None:
        """See `Seat.sent`."""
        key = (peer, wish.manifest_id, wish.component)
        self._served[key] = self._served.pop(key, 0) + answers
        if len(self._served) > ENTRIES_MAX:
            self._served.popitem(last=False)

    def flushed(self, seat: Seat, now: float) -> None:
        """See `Seat.flushed`."""
        if seat in self._asking:
            self._asking[seat] = (self._asking[seat][0], now)
        self.pages.moved(seat.peer, now)

    def settle(self, seat: Seat, *, is_asking: bool, is_busy: bool, now: float) -> None:
        """See `Seat.settle`."""
        if is_busy:
            return
        if self._holder is seat and (self._is_begun or not is_asking):
            self._release(now)
        if not is_asking:
            self._waiting.pop(seat, None)

    def leave(self, seat: Seat) -> None:
        """See `Seat.leave`."""
        self._asking.pop(seat, None)
        self._waiting.pop(seat, None)
        self.pages.leave(seat.peer)
        if self._holder is seat:
            self._holder = None

    def _is_pushing_at(self, now: float) -> bool:
        """Whether pushes wait; where none waits there is no pause."""
        is_pushing = self._is_pushing()
        if is_pushing:
            self._pushed_at = now
        else:
            self._next_at = min(self._next_at, now)
        return is_pushing

    @property
    def _held_until(self) -> float:
        return self._held_at + (PUSHED_HOLD_S if self._is_pushing() else HOLD_S)

    def _is_free(self, seat: Seat, now: float) -> bool:
        """Whether a seat queues for nothing: nobody who asks was sent fewer copies."""
        copies = self._asking[seat][0]
        return copies == 0 or not any(
            fewer < copies and now < moved_at + NEED_S for fewer, moved_at in self._asking.values()
        )

    def _order(self, seat: Seat) -> tuple[int, int]:
        """By whole copies, then by what was sent of the next."""
        return self._asking[seat][0], self.served(seat.peer, self._waiting[seat])

    def _take(self, seat: Seat, now: float) -> None:
        self._holder, self._is_begun, self._held_at = seat, False, now

    def _release(self, now: float) -> None:
        """Frees the one turn; while pushes wait, after a pause."""
        taken_s = now - self._held_at if self._is_begun else 0.0
        self._holder = None
        self._next_at = now + min(PAUSE_FACTOR * taken_s, PAUSE_S_MAX)
