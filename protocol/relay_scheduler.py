"""`RelayScheduler`: which image's push is next when the uplink can take one.

A peer is handed one push at a time, whatever image it is of, and a bounded number of pushes is
under way at once, so that what is sent is decided late. Images have priorities: the highest that
has something to push is served, and a tenth is left to the others, so that none starves.
"""

from __future__ import annotations

from typing import Final

from protocol.digest import ManifestId
from protocol.errors import LocalProtocolError
from protocol.exchange_events import PeerId
from protocol.relay import Relay
from protocol.relay_events import RelayEffect, SendPush

LOWER_SHARE: Final = 10
"""Of so many bytes, one is left to images of lower priority while they have something to push."""
SLOTS_MIN: Final = 2
"""Least number of pushes under way at once."""


class RelayScheduler:
    """See the module's docstring."""

    def __init__(self) -> None:
        """Starts without images."""
        self._relays: dict[ManifestId, tuple[int, Relay]] = {}
        self._order: list[Relay] = []
        self._busy: dict[PeerId, int] = {}
        self._blocked: dict[PeerId, None] = {}
        self._owed_bytes = 0.0

    def add(self, relay: Relay, *, priority: int) -> None:
        """Adds an image; a larger number is more urgent, equal ones take turns.

        Raises:
            LocalProtocolError: it is here already.
        """
        if relay.manifest_id in self._relays:
            raise LocalProtocolError("a manifest is relayed twice")
        self._relays[relay.manifest_id] = (priority, relay)
        self._sort()
        for peer in self._busy:
            relay.set_writable(peer, is_writable=False)

    def remove(self, manifest_id: ManifestId) -> None:
        """Takes an image out; unknown ones are ignored."""
        if self._relays.pop(manifest_id, None) is not None:
            self._sort()

    def _sort(self) -> None:
        entries = sorted(self._relays.values(), key=lambda entry: -entry[0])
        self._order = [relay for _, relay in entries]

    @property
    def open_slots(self) -> int:
        """Pushes that may be started now."""
        wanted = min((relay.slots for relay in self._order if relay.has_work), default=SLOTS_MIN)
        return max(wanted - (len(self._busy) - len(self._blocked)), 0)

    @property
    def is_pressing(self) -> bool:
        """Whether fresh units wait for the uplink: requests should be answered only behind them."""
        return any(relay.is_pressing for relay in self._order)

    @property
    def under_way(self) -> int:
        """Pushes handed out and not reported as sent."""
        return len(self._busy)

    def joined(self, relay: Relay, peer: PeerId) -> None:
        """Tells an image's machine, after a peer joined it, if a push to that peer is under way."""
        if peer in self._busy:
            relay.set_writable(peer, is_writable=False)

    def next_effects(self, now: float) -> list[tuple[Relay, RelayEffect]]:
        """Fills the free slots.

        Returns:
            Effects to be executed in order, with the machine that wants them.
        """
        effects: list[tuple[Relay, RelayEffect]] = []
        while self.open_slots:
            push = self._next(now, effects)
            if push is None:
                break
            self._busy[push.peer] = push.size_bytes
            for relay in self._order:
                relay.set_writable(push.peer, is_writable=False)
        return effects

    def _next(self, now: float, effects: list[tuple[Relay, RelayEffect]]) -> SendPush | None:
        order = self._order
        if len(order) > 1 and self._owed_bytes > 0:
            # The lower ones first for once; the first again if they have nothing.
            order = [*order[1:], order[0]]
        for relay in order:
            push = None
            for effect in relay.next_push(now):
                effects.append((relay, effect))
                if isinstance(effect, SendPush):
                    push = effect
            if push is not None:
                self._account(relay, push)
                return push
        self._owed_bytes = 0.0
        return None

    def _account(self, relay: Relay, push: SendPush) -> None:
        if len(self._order) < 2:
            return
        if relay is self._order[0]:
            # What nobody below could use is not saved up: at most one push's worth.
            self._owed_bytes = min(
                self._owed_bytes + push.size_bytes / (LOWER_SHARE - 1), push.size_bytes
            )
        else:
            self._owed_bytes -= push.size_bytes
            self._rotate(relay)

    def _rotate(self, relay: Relay) -> None:
        """Equals take turns: who was served goes behind the others of its priority."""
        priority = self._relays[relay.manifest_id][0]
        same = [r for r in self._order if self._relays[r.manifest_id][0] == priority]
        if len(same) > 1:
            entry = self._relays.pop(relay.manifest_id)
            self._relays[relay.manifest_id] = entry
            self._sort()

    def push_sent(self, peer: PeerId) -> None:
        """Notes that the transport took the push to a peer, or that it could not be made."""
        if self._busy.pop(peer, None) is None:
            return
        self._blocked.pop(peer, None)
        for relay in self._order:
            relay.set_writable(peer, is_writable=True)

    def push_blocked(self, peer: PeerId) -> None:
        """Notes that the transport makes no progress with a push: it holds no slot any more."""
        if peer in self._busy:
            self._blocked[peer] = None

    def left(self, peer: PeerId) -> None:
        """Notes that a peer's stream ended: what was under way to it never arrives."""
        self._busy.pop(peer, None)
        self._blocked.pop(peer, None)
