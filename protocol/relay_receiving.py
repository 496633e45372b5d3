"""The receiving side of a relay: which pushes are welcome, and what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from protocol.exchange_events import ExchangeOffenceError, Offence, PeerId
from protocol.limits import MIB
from protocol.relay_events import TakePush
from protocol.relay_gate import PullGate
from protocol.relay_members import Member
from protocol.relay_messages import (
    PUSH_PAYLOAD_BYTES_MAX,
    Complaint,
    Push,
    PushFlag,
    Run,
)
from protocol.relay_state import RelayState

PENDING_BYTES_PEER_MAX: Final = 2 * MIB
"""Pushed bytes of one peer that may wait for verification."""
PENDING_BYTES_MAX: Final = 16 * MIB
"""Pushed bytes of all peers that may wait for verification, for one manifest."""


@dataclass(slots=True, eq=False)
class PendingPush:
    """A push whose chunks are being verified."""

    peer: PeerId
    """Who sent it."""
    run: Run
    """Its chunks."""
    size_bytes: int
    """Their bytes."""
    flags: PushFlag
    """What to do with it."""
    delegates: tuple[bytes, ...]
    """Whom to pass it to."""


class Receiving:
    """See the module's docstring."""

    def __init__(self, state: RelayState, gate: PullGate) -> None:
        """Starts with nothing pending."""
        self._state = state
        self._gate = gate
        self._pending: dict[int, list[PendingPush]] = {}
        self.pending_bytes = 0
        """Bytes that wait for verification."""
        self.duplicate_bytes = 0
        """Pushed bytes that were here already, since the start."""
        self.dropped_bytes = 0
        """Pushed bytes that found no room or were not wanted any more, since the start."""
        self.pushed_bytes = 0
        """Pushed bytes that were taken for verification, since the start."""

    def take(self, member: Member, push: Push, now: float) -> PendingPush | None:
        """Judges a push.

        Returns:
            What is to be relayed at once because every chunk is here already; None otherwise.

        Raises:
            ExchangeOffenceError: the push breaks the rules; nothing has changed.
        """
        self._check(member, push)
        state, number = self._state, push.object_number
        if number not in state.roles:
            self.dropped_bytes += _payload_bytes(push)
            return None  # said READY once and no more: they crossed
        run = (state.layout.offset(number) + push.chunks[0].index, len(push.chunks))
        entry = PendingPush(member.peer, run, state.size_of(run), push.flags, push.delegates)
        member.known.add(*run)
        if entry.size_bytes > PUSH_PAYLOAD_BYTES_MAX:
            # Packed it fitted a frame. Unpacked, as it may be kept here, it could not be passed on.
            self.dropped_bytes += entry.size_bytes
            self._gate.open(run)
            return None
        self._gate.pushed(number, run, now)
        if state.have.covers(*run):
            self.duplicate_bytes += entry.size_bytes
            return entry
        if not state.receives(number) or not self._has_room(member, entry.size_bytes):
            self.dropped_bytes += entry.size_bytes
            self._gate.open(run)
            return None
        member.pending_bytes += entry.size_bytes
        self.pending_bytes += entry.size_bytes
        self.pushed_bytes += entry.size_bytes
        for chunk in range(run[0], run[0] + run[1]):
            self._pending.setdefault(chunk, []).append(entry)
        state.effects.append(TakePush(peer=member.peer, push=push))
        return None

    def _has_room(self, member: Member, size_bytes: int) -> bool:
        return (
            member.pending_bytes + size_bytes <= PENDING_BYTES_PEER_MAX
            and self.pending_bytes + size_bytes <= PENDING_BYTES_MAX
        )

    def _check(self, member: Member, push: Push) -> None:
        """Refuses what no order of honest messages explains."""
        state, number = self._state, push.object_number
        if number >= state.layout.component_count:
            raise ExchangeOffenceError(Offence.MALFORMED, f"push of object {number}")
        if number not in member.told_ready:
            raise ExchangeOffenceError(Offence.UNSOLICITED, "pushes were never welcome")
        last = push.chunks[-1].index
        if last >= state.layout.chunk_count_of(number):
            raise ExchangeOffenceError(Offence.MALFORMED, f"push of chunk {last}")
        for chunk in push.chunks:
            length = state.layout.length(number, chunk.index)
            wrong = len(chunk.data) >= length if chunk.is_compressed else len(chunk.data) != length
            if wrong:
                raise ExchangeOffenceError(
                    Offence.WRONG_LENGTH,
                    f"pushed chunk {chunk.index} has {len(chunk.data)} bytes, expected {length}",
                )

    def gained(self, runs: Sequence[Run]) -> list[PendingPush]:
        """Notes verified chunks; returns the pushes that are complete by them."""
        if not self._pending:
            return []
        complete: dict[PendingPush, None] = {}
        for first, count in runs:
            for chunk in range(first, first + count):
                for entry in self._pending.get(chunk, ()):
                    if self._state.have.covers(*entry.run):
                        complete[entry] = None
        for entry in complete:
            self._drop(entry)
        return list(complete)

    def lost(self, first: int, count: int) -> None:
        """Drops the pushes that hold chunks which did not match or found no room."""
        chunks = range(first, first + count) if count < len(self._pending) else list(self._pending)
        entries = [
            entry
            for chunk in chunks
            if first <= chunk < first + count
            for entry in self._pending.get(chunk, ())
        ]
        for entry in dict.fromkeys(entries):
            self.dropped_bytes += entry.size_bytes
            self._drop(entry)
            self._gate.open(entry.run)

    def refused(self, culprit: PeerId, number: int, first: int) -> None:
        """A chunk did not match: complains to those who gave its sender units to relay."""
        self.lost(first, 1)
        self._gate.open((first, 1))
        message = Complaint(manifest_id=self._state.manifest_id, culprit=culprit)
        for member in self._state.members:
            if number in member.seeded and member.peer != culprit:
                self._state.send(member, message)

    def _drop(self, entry: PendingPush) -> None:
        first, count = entry.run
        for chunk in range(first, first + count):
            entries = self._pending.get(chunk, [])
            if entry in entries:
                entries.remove(entry)
            if not entries:
                self._pending.pop(chunk, None)
        self.pending_bytes -= entry.size_bytes
        member = self._state.members.find(entry.peer)
        if member is not None:
            member.pending_bytes = max(member.pending_bytes - entry.size_bytes, 0)

    def clear(self) -> None:
        """Forgets what waits."""
        self._pending.clear()
        self.pending_bytes = 0
        for member in self._state.members:
            member.pending_bytes = 0


def _payload_bytes(push: Push) -> int:
    return sum(len(chunk.data) for chunk in push.chunks)
