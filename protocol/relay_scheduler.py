"""`RelayScheduler`: which image's push is next when the uplink can take one.

A peer is handed one push at a time, whatever image it is of, and a bounded number of pushes is
under way at once, so that what is sent is decided late. Images have priorities: the highest that
has something to push is served, and a twentieth is left to the others, so that none starves.
"""

from __future__ import annotations

from typing import Final

from protocol.digest import ManifestId
from protocol.errors import LocalProtocolError
from protocol.exchange_events import PeerId
from protocol.relay import Relay
from protocol.relay_events import RelayEffect, SendPush

LOWER_SHARE: Final = 20
"""Of so many bytes, one is left to images of lower priority while they have something to push: an
urgent one of 8 MiB took 1.29 to 1.34 bounds, and 1.32 to 1.37 with a tenth left; alone 1.17."""
SLOTS_MIN: Final = 2
"""Least number of pushes under way at once."""
LOWER_SLOTS: Final = 1
"""Pushes of lower priority under way at once while one of higher priority is being relayed."""
HOLD_S: Final = 0.1
"""Images of lower priority wait while one of higher priority is being relayed, unless it had
nothing to push for so long, seconds: what would start in a gap of a few milliseconds shares the
uplink with the urgent push behind it."""


class RelayScheduler:
    """See the module's docstring."""

    def __init__(self) -> None:
        """Starts without images."""
        self._relays: dict[ManifestId, tuple[int, Relay]] = {}
        self._groups: list[list[Relay]] = []
        self._all: list[Relay] = []
        self._busy: dict[PeerId, int] = {}
        self._blocked: dict[PeerId, None] = {}
        self._owed_bytes = 0.0
        self._urgent_at = 0.0
        self._lower_busy: dict[PeerId, None] = {}

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
        groups: dict[int, list[Relay]] = {}
        for priority, relay in self._relays.values():
            groups.setdefault(priority, []).append(relay)
        self._groups = [groups[priority] for priority in sorted(groups, reverse=True)]
        self._all = [relay for _, relay in self._relays.values()]

    @property
    def open_slots(self) -> int:
        """Pushes that may be started now."""
        wanted = min((relay.slots for relay in self._all if relay.has_work), default=SLOTS_MIN)
        return max(wanted - (len(self._busy) - len(self._blocked)), 0)

    @property
    def _has_open_slot(self) -> bool:
        # Whatever images want, it is not less: their wishes are looked at only beyond.
        return len(self._busy) - len(self._blocked) < SLOTS_MIN or self.open_slots > 0

    @property
    def is_pressing(self) -> bool:
        """Whether fresh units wait for the uplink: requests should be answered only behind them."""
        return any(relay.is_pressing for relay in self._all)

    @property
    def under_way(self) -> int:
        """Pushes handed out and not reported as sent."""
        return len(self._busy)

    def joined(self, relay: Relay, peer: PeerId) -> None:
        """Tells an image's machine, after a peer joined it, if a push to that peer is under way."""
        if peer in self._busy:
            relay.set_writable(peer, is_writable=False)

    @property
    def under_way_bytes(self) -> int:
        """Bytes of pushes handed out and not reported as sent or as blocked."""
        return sum(size for peer, size in self._busy.items() if peer not in self._blocked)

    def next_effects(
        self, now: float, room_bytes: int | None = None, *, is_idle: bool = True
    ) -> list[tuple[Relay, RelayEffect]]:
        """Fills the free slots.

        Args:
            now: seconds, monotonic.
            room_bytes: what the uplink has room for; the last push may be larger than what is left
                of it. None: no limit.
            is_idle: whether the uplink is about to have nothing to send, as far as is known.

        Returns:
            Effects to be executed in order, with the machine that wants them.
        """
        effects: list[tuple[Relay, RelayEffect]] = []
        left_bytes = room_bytes
        for relay in self._all:
            relay.set_uplink_idle(is_idle=is_idle)
        while self._has_open_slot and (left_bytes is None or left_bytes > 0):
            push = self._next(now, effects)
            if push is None:
                break
            if left_bytes is not None:
                left_bytes -= push.size_bytes
            self._busy[push.peer] = push.size_bytes
            for relay in self._all:
                relay.set_writable(push.peer, is_writable=False)
        return effects

    def _next(self, now: float, effects: list[tuple[Relay, RelayEffect]]) -> SendPush | None:
        urgent, lower = self._split()
        has_room = not lower or len(self._lower_busy) < LOWER_SLOTS
        if self._owed_bytes > 0 and has_room:
            # The lower ones first for once; the urgent again if they have nothing.
            push = self._next_of(lower, now, effects)
            if push is not None:
                self._owed_bytes -= push.size_bytes
                self._lower_busy[push.peer] = None
                return push
        push = self._next_of(urgent, now, effects)
        if push is not None:
            self._urgent_at = now
            if lower:
                # What nobody below could use is not saved up: at most one push's worth.
                owed = self._owed_bytes + push.size_bytes / (LOWER_SHARE - 1)
                self._owed_bytes = min(owed, push.size_bytes)
            return push
        if not has_room:
            return None
        if now < self._urgent_at + HOLD_S:
            for group in lower:
                for relay in group:
                    relay.held_until = self._urgent_at + HOLD_S
            return None
        push = self._next_of(lower, now, effects)
        if push is not None:
            self._lower_busy[push.peer] = None
        return push

    def _split(self) -> tuple[list[list[Relay]], list[list[Relay]]]:
        """The most urgent images that are being relayed, and those of lower priority."""
        if len(self._groups) == 1:
            return self._groups, []
        for position, group in enumerate(self._groups):
            if any(relay.is_active for relay in group):
                return self._groups[: position + 1], self._groups[position + 1 :]
        return self._groups, []

    def _next_of(
        self, groups: list[list[Relay]], now: float, effects: list[tuple[Relay, RelayEffect]]
    ) -> SendPush | None:
        """The first push of these images; of equal ones, whoever was served goes behind."""
        for group in groups:
            for relay in tuple(group):
                for effect in relay.next_push(now):
                    effects.append((relay, effect))
                    if isinstance(effect, SendPush):
                        group.remove(relay)
                        group.append(relay)
                        return effect
        return None

    def push_sent(self, peer: PeerId) -> None:
        """Notes that the transport took the push to a peer, or that it could not be made."""
        if self._busy.pop(peer, None) is None:
            return
        self._blocked.pop(peer, None)
        self._lower_busy.pop(peer, None)
        for relay in self._all:
            relay.set_writable(peer, is_writable=True)

    def push_blocked(self, peer: PeerId) -> None:
        """Notes that the transport makes no progress with a push: it holds no slot any more."""
        if peer in self._busy:
            self._blocked[peer] = None

    def left(self, peer: PeerId) -> None:
        """Notes that a peer's stream ended: what was under way to it never arrives."""
        self._busy.pop(peer, None)
        self._blocked.pop(peer, None)
        self._lower_busy.pop(peer, None)
