"""What the uplink has room for, and how fast each link sends, while a relay hands out pushes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from protocol.exchange_events import PeerId
from swarmd.net.uplink_window import LOOK_S, PathState, UplinkWindow

PACED_S: Final = 0.25
"""Links are paced for so long after the last look at them, seconds: what else they send once there
are no pushes has the uplink to itself."""


class PushLink(Protocol):
    """A link, as far as what it sends concerns the uplink."""

    @property
    def peer(self) -> PeerId:
        """Whose it is."""
        ...

    def path(self) -> PathState | None:
        """What the system knows of its connection; None where it does not tell."""
        ...

    def pace(self, bytes_per_s: int | None) -> None:
        """Has it send no faster; None: no limit."""
        ...


class RelayUplink:
    """See the module's docstring; looks at the links when asked and when its deadline has come."""

    def __init__(self, links: Iterable[PushLink]) -> None:
        """Starts without knowing anything.

        Args:
            links: all there are, each time they are iterated.
        """
        self._links = links
        self._window = UplinkWindow()
        self._look_at: float | None = None
        self._paced_until: float | None = None

    @property
    def deadlines(self) -> tuple[float | None, float | None]:
        """When pushes should be handed out again, and when `wake` has something to do, seconds."""
        return self._look_at, self._paced_until

    def handed_out(self, size_bytes: int) -> None:
        """Counts a push."""
        self._window.handed_out(size_bytes)

    @property
    def is_drained(self) -> bool:
        """Whether the uplink is about to be idle, or nothing is known of it."""
        return not self._window.is_known or self._window.is_drained

    def room_bytes(self, waiting_bytes: int, now: float) -> int | None:
        """What the uplink has room for; where there is none, a look is due again soon.

        Args:
            waiting_bytes: of pushes handed out and not taken by a connection yet.
            now: monotonic seconds.

        Returns:
            Bytes; None if the system says nothing of any connection, so that there is nothing to
            go by.
        """
        if self._window.is_due(now):
            paths = {link.peer: path for link in self._links if (path := link.path()) is not None}
            self._window.seen(paths, waiting_bytes, now)
            self._set_pace(self._window.pace(), now)
        if not self._window.is_known:
            return None
        room_bytes = self._window.room_bytes
        if room_bytes > 0:
            self._look_at = None
        elif self._look_at is None or self._look_at <= now:
            self._look_at = now + LOOK_S
        return room_bytes

    def wake(self, now: float) -> None:
        """Ends the pacing of links that were not looked at for long."""
        if self._paced_until is not None and self._paced_until <= now:
            self._set_pace(None, now)

    def _set_pace(self, bytes_per_s: int | None, now: float) -> None:
        self._paced_until = None if bytes_per_s is None else now + PACED_S
        for link in self._links:
            link.pace(bytes_per_s)
