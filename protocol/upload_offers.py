"""What a node that holds everything tells whom, until one copy of it is out: super-seeding.

While one node holds what many lack, each of them asks it for what seems rarest, and none knows what
the others ask for: of 64 peers a dozen are sent the same chunk before those who could pass it on
have told of it, and the last new chunk leaves only after two or three copies have. So such a node
tells each peer a part of its own, and more as that is asked for, as BEP 16 does; when no part is
left it tells everything. Nothing is refused: what is told only steers.

Participants are the uploads of one object to all peers. The goal is that one whole copy leaves
before much leaves twice; not that nobody lies: the part of one that asks for nothing goes to others
at the end, and who shows interest a second time is told everything (docs/spec/exchange.md, X50).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.exchange_events import PeerId
from protocol.runs import NO_CHUNKS, Runs

OPEN_PEERS: Final = 2
"""Peers that are told everything at once: where few ask there is little to divide, and a chunk can
be passed on to few."""
PART_CHUNKS_START: Final = 4
"""Chunks of the first part of a peer: as many as the first window of a request, of chunks of 16
KiB."""
PART_CHUNKS_MAX: Final = 128
"""Most chunks that a peer is told and has not asked for: two requests of 1 MiB, likewise."""
PEERS_MAX: Final = 4096
"""Peers that parts are kept for; whoever comes later is told everything."""


@dataclass(slots=True)
class _Part:
    """What one peer was told."""

    told: int = 0
    """All of it, bit `i` for index `i`."""
    waiting: int = 0
    """What of it the peer has not asked for."""
    size: int = PART_CHUNKS_START
    """Chunks that may wait."""


class Offers:
    """See the module's docstring; for one object, shared by the uploads to all peers."""

    def __init__(self, size: int) -> None:
        """Starts with nothing told.

        Args:
            size: chunks of the object, all of which are held.
        """
        self._size = size
        self._unsent = (1 << size) - 1
        self._next = 0
        self._parts: dict[PeerId, _Part | None] = {}

    @property
    def is_over(self) -> bool:
        """Whether one copy is out: everybody is told everything."""
        return not self._unsent

    def follow(self, peer: PeerId) -> int | None:
        """What a peer that shows interest is told: a set of indices, or None for all."""
        if peer not in self._parts and len(self._parts) >= PEERS_MAX:
            return None
        if self.is_over or peer in self._parts or len(self._parts) < OPEN_PEERS:
            self._parts[peer] = None
            return None
        part = self._parts[peer] = _Part()
        self._enlarge(part)
        return part.told

    def asked(self, peer: PeerId, indices: int) -> Runs:
        """Notes a request; returns what else the peer is to be told."""
        part = self._parts.get(peer)
        if part is None:
            return NO_CHUNKS
        part.waiting &= ~indices
        if not part.waiting:
            part.size = min(2 * part.size, PART_CHUNKS_MAX)
        if 2 * part.waiting.bit_count() > part.size:
            return NO_CHUNKS
        before = part.told
        if self.is_over:
            self._parts[peer] = None
            part.told = (1 << self._size) - 1
        elif not self._enlarge(part) and not part.waiting:
            # Nothing is left to divide: what others have not asked for is anybody's.
            part.told |= self._unsent
        return Runs.of_bits(part.told & ~before)

    def sent(self, indices: int) -> None:
        """Notes chunks that leave for the first or another time."""
        self._unsent &= ~indices

    def _enlarge(self, part: _Part) -> bool:
        """Adds what nobody was told and nobody was sent; whether there was any."""
        wanted = part.size - part.waiting.bit_count()
        fresh = self._unsent >> self._next
        taken = 0
        while fresh and wanted > 0:
            skipped = (fresh & -fresh).bit_length() - 1
            self._next += skipped
            fresh >>= skipped
            count = min((~fresh & (fresh + 1)).bit_length() - 1, wanted)
            taken |= ((1 << count) - 1) << self._next
            self._next += count
            fresh >>= count
            wanted -= count
        part.told |= taken
        part.waiting |= taken
        return bool(taken)
