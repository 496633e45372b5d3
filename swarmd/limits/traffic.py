"""What may be sent to a peer and asked of it now: the buckets of one node.

Participants: this node, its peers of the same site and those beyond it. Goal: no rate of `Rates` is
passed by more than 5 % over 10 s, counted as bytes of images or as bytes on the wire. Non-goals:
ledger, gossip and whatever else keeps a node current; their bounds are protocol constants.

A byte counts in the bucket of its direction for all peers of its kind and, beyond the site, in the
peer's own. Peers whose place is not known count as beyond the site. Time is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import Enum
from typing import Final

from protocol.exchange_events import PeerId
from swarmd.limits.bucket import TokenBucket
from swarmd.limits.rates import Rates

PEERS_MAX: Final = 4096
"""Peers with buckets of their own; the one unheard for longest is forgotten first."""
_HEADERS_SHARE: Final = 32
"""TCP and IP take about a 22nd of full packets. A 32nd is counted, so that image bytes stay 3 %
below a rate and bytes on the wire pass it by 1.5 %."""


class Direction(Enum):
    """Which way bytes go."""

    UP = "up"
    """From this node."""
    DOWN = "down"
    """To it."""


class Traffic:
    """See the module's docstring."""

    def __init__(self, rates: Rates, now: float) -> None:
        """Starts with full buckets. `now`: monotonic seconds."""
        self._rates = rates
        self._site = {way: TokenBucket(self._lan_rate(way), now) for way in Direction}
        self._world = {way: TokenBucket(self._rate(way), now) for way in Direction}
        self._peers: dict[tuple[Direction, PeerId], TokenBucket] = {}
        self._near: dict[PeerId, None] = {}
        self.counted_bytes = dict.fromkeys(Direction, 0)
        """Image bytes sent and asked for, without headers."""

    @property
    def rates(self) -> Rates:
        """What holds now."""
        return self._rates

    def set_rates(self, rates: Rates, now: float) -> None:
        """Changes what holds; what was saved or owed is kept."""
        self._rates = rates
        for way in Direction:
            self._site[way].set_rate(self._lan_rate(way), now)
            self._world[way].set_rate(self._rate(way), now)
        for (way, _), bucket in self._peers.items():
            bucket.set_rate(self._peer_rate(way), now)

    def place(self, peer: PeerId, *, is_near: bool) -> None:
        """Notes whether a peer is on the same site."""
        self._near.pop(peer, None)
        if is_near:
            self._near[peer] = None
            while len(self._near) > PEERS_MAX:
                del self._near[next(iter(self._near))]

    def room_bytes(self, way: Direction, peer: PeerId, now: float) -> float:
        """Image bytes that may go now; infinite without limits, not above zero: none."""
        room = min(bucket.room_bytes(now) for bucket in self._buckets(way, peer, now))
        return room if math.isinf(room) else room * _HEADERS_SHARE / (_HEADERS_SHARE + 1)

    def take(self, way: Direction, peer: PeerId, size_bytes: int, now: float) -> None:
        """Counts image bytes that go."""
        self.counted_bytes[way] += size_bytes
        for bucket in self._buckets(way, peer, now):
            bucket.take(_on_wire(size_bytes), now)

    def ready_at(self, way: Direction, peer: PeerId, size_bytes: int, now: float) -> float:
        """When that many bytes, or as many as can be saved up, may go."""
        wanted = _on_wire(size_bytes)
        return max(bucket.ready_at(wanted, now) for bucket in self._buckets(way, peer, now))

    def own_ready_at(self, way: Direction, peer: PeerId, size_bytes: int, now: float) -> float:
        """When they may go as far as only this peer's own rate is concerned."""
        if self.is_near(peer) or self._peer_rate(way) is None:
            return now
        return self._own_bucket(way, peer, now).ready_at(_on_wire(size_bytes), now)

    def is_near(self, peer: PeerId) -> bool:
        """Whether a peer is on the same site, as noted last."""
        return peer in self._near

    def slowest(self, way: Direction, peer: PeerId) -> int | None:
        """The least of the rates that hold for a peer, bytes per second; None: no limit."""
        if peer in self._near:
            return self._lan_rate(way)
        rates = [rate for rate in (self._rate(way), self._peer_rate(way)) if rate is not None]
        return min(rates, default=None)

    def _buckets(self, way: Direction, peer: PeerId, now: float) -> Iterator[TokenBucket]:
        if peer in self._near:
            yield self._site[way]
            return
        yield self._world[way]
        if self._peer_rate(way) is not None:
            yield self._own_bucket(way, peer, now)

    def _own_bucket(self, way: Direction, peer: PeerId, now: float) -> TokenBucket:
        bucket = self._peers.pop((way, peer), None)
        if bucket is None:
            bucket = TokenBucket(self._peer_rate(way), now)
        self._peers[way, peer] = bucket
        while len(self._peers) > 2 * PEERS_MAX:
            del self._peers[next(iter(self._peers))]
        return bucket

    def _rate(self, way: Direction) -> int | None:
        return self._rates.up if way is Direction.UP else self._rates.down

    def _peer_rate(self, way: Direction) -> int | None:
        return self._rates.peer_up if way is Direction.UP else self._rates.peer_down

    def _lan_rate(self, way: Direction) -> int | None:
        return self._rates.lan_up if way is Direction.UP else self._rates.lan_down


def _on_wire(size_bytes: int) -> int:
    """Bytes with what carries them."""
    return size_bytes + size_bytes // _HEADERS_SHARE
