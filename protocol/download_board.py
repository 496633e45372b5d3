"""What a download still needs, and where each chunk of it stands.

A chunk is *missing* until it is stored. A missing chunk is *free* (to be asked for), *asked* (in
one or more open requests, not overdue), or *buffered* (arrived, not yet verified and written). Sets
of chunks are integers, bit `n` for chunk number `n`: every book here costs by message, not by
chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from protocol.exchange_events import PeerId
from protocol.exchange_flow import OpenRequest
from protocol.exchange_layout import Layout
from protocol.limits import MIB

IN_FLIGHT_BYTES_MAX: Final = 8 * MIB
"""Bytes asked for and not overdue, plus bytes buffered: the memory bound of all downloads that
share one budget, and what a killed process fetches again. Measured over loopback, twice as much was
no faster."""
DUPLICATES_MAX: Final = 2
"""Peers asked for the same chunk at once in the endgame."""


class Allowance(Protocol):
    """What rates permit to be asked for; a host's limits may change between two inputs."""

    def room_bytes(self, peer: PeerId, now: float) -> int:
        """Bytes that may be asked of a peer now; not above zero: none."""
        ...

    def asked(self, peer: PeerId, size_bytes: int, now: float) -> None:
        """Notes that so many bytes are asked of it."""
        ...


class ByteBudget:
    """Bytes in flight that several downloads may use together."""

    __slots__ = (
        "allowance",
        "limit_bytes",
        "used_bytes",
    )

    def __init__(
        self, limit_bytes: int = IN_FLIGHT_BYTES_MAX, allowance: Allowance | None = None
    ) -> None:
        """Starts unused; without an allowance no rate is kept."""
        self.allowance: Final = allowance
        """What rates permit."""
        self.limit_bytes: Final = limit_bytes
        """The bound."""
        self.used_bytes = 0
        """What is asked for or buffered now; late arrivals may pass the bound only by what fits."""

    @property
    def room_bytes(self) -> int:
        """What may still be asked for; not above zero: nothing."""
        return self.limit_bytes - self.used_bytes

    def room_for(self, peer: PeerId, wanted_bytes: int, now: float) -> int:
        """What of so many bytes may be asked of a peer now; not above zero: nothing.

        While much is in flight it is all or nothing: else every answer would free room for one
        request of its size, and requests that were small once would stay small.
        """
        if self.used_bytes and self.room_bytes < min(wanted_bytes, self.limit_bytes // 8):
            return 0
        room_bytes = min(wanted_bytes, self.room_bytes)
        if self.allowance is None:
            return room_bytes
        return min(room_bytes, self.allowance.room_bytes(peer, now))

    def asked(self, peer: PeerId, size_bytes: int, now: float) -> None:
        """Notes that a peer is asked for so many bytes."""
        self.used_bytes += size_bytes
        if self.allowance is not None:
            self.allowance.asked(peer, size_bytes, now)


@dataclass(slots=True)
class _Arrival:
    """Chunks of one message that wait to be written."""

    peer: PeerId
    numbers: int
    size_bytes: int
    counts_bytes: bool = True
    """Whether the budget still holds their bytes."""


class ChunkBoard:
    """The chunks of one download. Entries exist only for what is asked or buffered."""

    __slots__ = (
        "_arrivals",
        "_asked",
        "_asked_twice",
        "_budget",
        "_buffered",
        "_free",
        "_gated",
        "_layout",
        "_missing",
        "_overdue",
        "_requests",
        "has_freed",
    )

    def __init__(self, layout: Layout, budget: ByteBudget) -> None:
        """Starts with every component unprepared: nothing is missing yet, nothing is free."""
        self._layout = layout
        self._budget = budget
        self._missing = 0
        self._free = 0
        self._gated = 0
        self._buffered = 0
        # Numbers in at least one, and in two, of the open requests that are not overdue: more
        # than two never ask for one chunk (DUPLICATES_MAX).
        self._asked = 0
        self._asked_twice = 0
        self._requests: dict[int, OpenRequest] = {}
        self._overdue: dict[int, OpenRequest] = {}
        self._arrivals: list[_Arrival] = []
        self.has_freed = False
        """Whether chunks became free since somebody last set this to False."""

    @property
    def free(self) -> int:
        """Missing chunks that nobody is being asked for and somebody may be."""
        return self._free & ~self._gated if self._gated else self._free

    @property
    def missing(self) -> int:
        """Chunks of prepared components that are not stored."""
        return self._missing

    @property
    def has_overdue(self) -> bool:
        """Whether any request is overdue: its chunks may be free, and a peer still owes them."""
        return bool(self._overdue)

    @property
    def is_full(self) -> bool:
        """Whether there is no room for any request, at whatever peer."""
        return self._budget.used_bytes >= self._budget.limit_bytes

    def room_for(self, peer: PeerId, wanted_bytes: int, now: float) -> int:
        """What of so many bytes may be asked of a peer now; not above zero: nothing."""
        return self._budget.room_for(peer, wanted_bytes, now)

    def prepare(self, component: int, held: int) -> None:
        """Adds a component's chunks, without those in `held` (by index), as missing and free."""
        offset = self._layout.offset(component)
        needed = self._layout.mask(component) & ~(held << offset)
        self._missing |= needed
        self._free |= needed
        self.has_freed = True

    def lost(self, numbers: int) -> None:
        """Makes stored chunks missing again."""
        fresh = numbers & ~self._missing
        self._missing |= fresh
        self._free |= fresh
        self.has_freed = True

    def gate(self, numbers: int) -> None:
        """Lets chunks not be asked for until `permit`: they are expected without asking."""
        self._gated |= numbers

    def permit(self, numbers: int) -> None:
        """Lets chunks be asked for again."""
        self._gated &= ~numbers
        self.has_freed = True

    def is_component_stored(self, component: int) -> bool:
        """Whether nothing of a prepared component is missing, nor still being written."""
        mask = self._layout.mask(component)
        return not self._missing & mask and not self._buffered & mask

    def opened(self, request: OpenRequest) -> None:
        """Notes that the request's chunks are being asked for."""
        pending = request.pending
        self._requests[request.request_id] = request
        self._budget.asked(request.peer, request.pending_bytes, request.sent_at)
        again = self._asked & pending
        if again:
            self._asked_twice |= again
        self._asked |= pending
        self._free &= ~pending

    def overdue(self, request: OpenRequest) -> None:
        """Frees the chunks of a request whose deadline passed; it stays open."""
        request.is_overdue = True
        self._overdue[request.request_id] = request
        self._budget.used_bytes -= request.pending_bytes
        self._no_longer_asked(request.pending)

    def answered(self, request: OpenRequest, numbers: int, size_bytes: int) -> None:
        """Takes answered chunks out of a request; those not buffered since become free.

        Args:
            request: the request.
            numbers: which of its chunks.
            size_bytes: their bytes.
        """
        request.pending = 0 if numbers == request.pending else request.pending & ~numbers
        request.pending_bytes -= size_bytes
        if not request.pending:
            self._requests.pop(request.request_id, None)
            if request.is_overdue:
                self._overdue.pop(request.request_id, None)
        if not request.is_overdue:
            self._budget.used_bytes -= size_bytes
            self._no_longer_asked(numbers)
        else:
            self._refree(numbers)

    def abandoned(self, request: OpenRequest) -> None:
        """Ends a request that will not be answered."""
        self.answered(request, request.pending, request.pending_bytes)

    def bytes_of(self, numbers: int) -> int:
        """Bytes of a set of chunks of prepared components."""
        return sum(
            self._layout.bytes_of(component, indices)
            for component, indices in self._layout.runs_by_component(numbers)
        )

    def buffer(self, numbers: int, request: OpenRequest, size_bytes: int) -> int:
        """Takes arrived chunks for writing; `answered` must follow for the same numbers.

        Args:
            numbers: what came.
            request: in answer to what.
            size_bytes: its bytes.

        Returns:
            Those to be written. The others must be dropped: stored or buffered already, or late
            and out of room (what came in time has its room since it was asked for).
        """
        useful = numbers & self._missing & ~self._buffered
        if not useful or (request.is_overdue and self._budget.room_bytes < size_bytes):
            return 0
        if useful != numbers:
            size_bytes = self.bytes_of(useful)
        self._budget.used_bytes += size_bytes
        self._arrivals.append(_Arrival(request.peer, useful, size_bytes))
        self._buffered |= useful
        self._free &= ~useful
        return useful

    def stored(self, written: int, gained: int) -> list[tuple[OpenRequest, int]]:
        """Notes that chunks are stored.

        Args:
            written: chunks that were buffered.
            gained: others that became stored with them; if buffered, they stay so until their own
                write is answered.

        Returns:
            Open requests that still ask for some of them, with the numbers: to be cancelled.
        """
        if written:
            self._unbuffer(written)
        numbers = written | gained if gained else written
        self._missing &= ~numbers
        self._free &= ~numbers
        if not self._overdue and not numbers & self._asked:
            return []
        return [
            (request, common)
            for request in self._requests.values()
            if (common := request.pending & numbers)
        ]

    def unbuffer(self, numbers: int) -> PeerId | None:
        """Takes back arrived chunks that were not stored; they are missing and free again.

        Returns:
            Who sent the first of them; None if none was buffered.
        """
        sender = self._unbuffer(numbers)
        self._refree(numbers)
        return sender

    def _unbuffer(self, numbers: int) -> PeerId | None:
        numbers &= self._buffered
        self._buffered ^= numbers
        sender: PeerId | None = None
        for arrival in tuple(self._arrivals):
            if not numbers:
                break
            common = arrival.numbers & numbers
            if not common:
                continue
            sender = arrival.peer if sender is None else sender
            is_whole = common == arrival.numbers
            numbers &= ~common
            arrival.numbers &= ~common
            size_bytes = arrival.size_bytes if is_whole else self.bytes_of(common)
            arrival.size_bytes -= size_bytes
            if arrival.counts_bytes:
                self._budget.used_bytes -= size_bytes
            if not arrival.numbers:
                self._arrivals.remove(arrival)
        return sender

    def duplicable(self, now: float) -> int:
        """Chunks worth asking an idle peer for although others were asked: the endgame.

        Those asked of fewer than `DUPLICATES_MAX` peers, whose answers are late: half of the
        patience with each is gone, which is at least twice the expected time.
        """
        once = twice = patient = 0
        for request in self._requests.values():
            twice |= once & request.pending
            once |= request.pending
            if not request.sent_at + request.deadline_at <= 2 * now:
                patient |= request.pending
        return self._missing & once & ~twice & ~patient & ~self._buffered

    def clear(self) -> None:
        """Forgets what is needed and returns the budget; open requests and senders stay known."""
        self._missing = self._free = 0
        for request in self._requests.values():
            if not request.is_overdue:
                self.overdue(request)
        for arrival in self._arrivals:
            if arrival.counts_bytes:
                self._budget.used_bytes -= arrival.size_bytes
                arrival.counts_bytes = False

    def _no_longer_asked(self, numbers: int) -> None:
        """Takes numbers of one request that was not overdue out of the count."""
        if self._asked_twice:
            once = numbers & ~self._asked_twice
            self._asked_twice &= ~numbers
            self._asked &= ~once
        else:
            self._asked &= ~numbers
        self._refree(numbers)

    def _refree(self, numbers: int) -> None:
        # Mostly they were buffered just before: that is seen by one look.
        freed = numbers & ~self._buffered
        freed = freed and freed & self._missing & ~self._asked
        if freed:
            self._free |= freed
            self.has_freed = True
