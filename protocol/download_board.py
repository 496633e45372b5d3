"""What a download still needs, and where each chunk of it stands.

A chunk is *missing* until it is stored. A missing chunk is *free* (to be asked for), *asked* (in
one or more open requests, not overdue), or *buffered* (arrived, not yet verified and written). Sets
of chunks are integers, bit `n` for chunk number `n`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final

from protocol.bitfield import bits_of
from protocol.exchange_events import PeerId
from protocol.exchange_flow import OpenRequest
from protocol.exchange_layout import Layout
from protocol.limits import MIB

IN_FLIGHT_BYTES_MAX: Final = 16 * MIB
"""Bytes asked for and not overdue, plus bytes buffered: the memory bound of all downloads that
share one budget."""
DUPLICATES_MAX: Final = 2
"""Peers asked for the same chunk at once in the endgame."""


class ByteBudget:
    """Bytes in flight that several downloads may use together."""

    def __init__(self, limit_bytes: int = IN_FLIGHT_BYTES_MAX) -> None:
        """Starts unused."""
        self.limit_bytes: Final = limit_bytes
        """The bound."""
        self.used_bytes = 0
        """What is asked for or buffered now; late arrivals may pass the bound only by what fits."""

    @property
    def room_bytes(self) -> int:
        """What may still be asked for; not above zero: nothing."""
        return self.limit_bytes - self.used_bytes


class ChunkBoard:
    """The chunks of one download. Entries exist only for what is asked or buffered."""

    def __init__(self, layout: Layout, budget: ByteBudget) -> None:
        """Starts with every component unprepared: nothing is missing yet, nothing is free."""
        self._layout = layout
        self._budget = budget
        self._missing = 0
        self._free = 0
        self._gated = 0
        self._asked: dict[int, list[OpenRequest]] = {}
        self._buffered: dict[int, tuple[PeerId, int]] = {}

    @property
    def free(self) -> int:
        """Missing chunks that nobody is being asked for and somebody may be."""
        return self._free & ~self._gated

    @property
    def missing(self) -> int:
        """Chunks of prepared components that are not stored."""
        return self._missing

    @property
    def room_bytes(self) -> int:
        """Bytes that may be asked for now; not above zero: none."""
        return self._budget.room_bytes

    def prepare(self, component: int, held: int) -> None:
        """Adds a component's chunks, without those in `held` (by index), as missing and free."""
        offset = self._layout.offset(component)
        needed = self._layout.mask(component) & ~(held << offset)
        self._missing |= needed
        self._free |= needed

    def lost(self, numbers: int) -> None:
        """Makes stored chunks missing again."""
        fresh = numbers & ~self._missing
        self._missing |= fresh
        self._free |= fresh

    def gate(self, numbers: int) -> None:
        """Lets chunks not be asked for until `permit`: they are expected without asking."""
        self._gated |= numbers

    def permit(self, numbers: int) -> None:
        """Lets chunks be asked for again."""
        self._gated &= ~numbers

    def is_component_stored(self, component: int) -> bool:
        """Whether nothing of a prepared component is missing, nor still being written."""
        if self._missing & self._layout.mask(component):
            return False
        return not any(self._layout.component_of(n) == component for n in self._buffered)

    def opened(self, request: OpenRequest) -> None:
        """Notes that the request's chunks are being asked for."""
        for number, length in request.pending.items():
            self._asked.setdefault(number, []).append(request)
            self._budget.used_bytes += length
        self._free &= ~bits_of(request.pending)

    def overdue(self, request: OpenRequest) -> None:
        """Frees the chunks of a request whose deadline passed; it stays open."""
        request.is_overdue = True
        self._budget.used_bytes -= request.pending_bytes
        self._refree(request.pending)

    def answered(self, request: OpenRequest, numbers: Sequence[int]) -> None:
        """Takes answered chunks out of a request; those not buffered since become free."""
        for number in numbers:
            length = request.pending.pop(number)
            if not request.is_overdue:
                self._budget.used_bytes -= length
            holders = self._asked[number]
            holders.remove(request)
            if not holders:
                del self._asked[number]
        self._refree(numbers)

    def abandoned(self, request: OpenRequest) -> None:
        """Ends a request that will not be answered."""
        self.answered(request, tuple(request.pending))

    def buffer(self, number: int, request: OpenRequest, length: int) -> bool:
        """Takes an arrived chunk for writing; `answered` must follow for the same number.

        Returns:
            False if it must be dropped: stored or buffered already, or late and out of room (what
            came in time has its room since it was asked for).
        """
        if not self._missing >> number & 1 or number in self._buffered:
            return False
        if request.is_overdue and self._budget.room_bytes < length:
            return False
        self._buffered[number] = (request.peer, length)
        self._budget.used_bytes += length
        if self._free >> number & 1:
            self._free &= ~(1 << number)
        return True

    def stored(self, written: Sequence[int], gained: Sequence[int]) -> dict[OpenRequest, list[int]]:
        """Notes that chunks are stored.

        Args:
            written: chunks that were buffered.
            gained: others that became stored with them.

        Returns:
            Open requests that still ask for some of them, with the numbers: to be cancelled.
        """
        losers: dict[OpenRequest, list[int]] = {}
        for number in written:
            entry = self._buffered.pop(number, None)
            if entry is not None:
                self._budget.used_bytes -= entry[1]
        for number in chain(written, gained):
            for request in self._asked.get(number, ()):
                losers.setdefault(request, []).append(number)
        stored = bits_of(chain(written, gained))
        self._missing &= ~stored
        self._free &= ~stored
        return losers

    def unbuffer(self, number: int) -> PeerId | None:
        """Takes back an arrived chunk that was not stored; it is missing and free again.

        Returns:
            Who sent it; None if it was not buffered.
        """
        entry = self._buffered.pop(number, None)
        if entry is None:
            return None
        self._budget.used_bytes -= entry[1]
        self._refree((number,))
        return entry[0]

    def duplicable(self, now: float) -> int:
        """Chunks worth asking an idle peer for although others were asked: the endgame.

        Those asked of fewer than `DUPLICATES_MAX` peers, whose answers are late: half of the
        patience with each is gone, which is at least twice the expected time.
        """
        return self._missing & bits_of(
            number
            for number, requests in self._asked.items()
            if number not in self._buffered
            and len(requests) < DUPLICATES_MAX
            and all(request.sent_at + request.deadline_at <= 2 * now for request in requests)
        )

    def clear(self) -> None:
        """Forgets what is needed and returns the budget; open requests and senders stay known."""
        self._missing = self._free = 0
        open_requests = {r.request_id: r for requests in self._asked.values() for r in requests}
        for request in open_requests.values():
            if not request.is_overdue:
                self.overdue(request)
        for number, (peer, length) in self._buffered.items():
            self._budget.used_bytes -= length
            self._buffered[number] = (peer, 0)

    def _refree(self, numbers: Iterable[int]) -> None:
        freed = [
            number
            for number in numbers
            if number not in self._buffered
            and all(request.is_overdue for request in self._asked.get(number, ()))
        ]
        if freed:
            self._free |= bits_of(freed) & self._missing
