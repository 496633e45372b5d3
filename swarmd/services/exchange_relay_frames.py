"""Relay frames on their way to one peer: control messages before bulk, one push at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.digest import ManifestId
from protocol.limits import KIB

WAITING_BYTES_MAX: Final = 1024 * KIB
"""Bytes of relay messages other than pushes that may wait for a peer; who reads none of them gets
no more, which a relay takes as it takes any loss: members of a relay need no answer."""


@dataclass(frozen=True, slots=True)
class RelayFrame:
    """One frame."""

    parts: Sequence[bytes | memoryview]
    """Its body."""
    manifest_id: ManifestId
    """The manifest it is about: the rule is asked again before it leaves."""
    on_left: Callable[[], None] | None = None
    """Called once the transport took it, or it was dropped: pushes only."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the body."""
        return sum(map(len, self.parts))


class RelayOutbox:
    """Frames that wait for one peer."""

    def __init__(self) -> None:
        """Starts empty."""
        self._control: deque[RelayFrame] = deque()
        self._pushes: deque[RelayFrame] = deque()
        self._control_bytes = 0
        self.dropped_count = 0
        """Control messages that found no room, since the start."""

    def put(self, frame: RelayFrame) -> None:
        """Takes a frame in."""
        if frame.on_left is not None:
            self._pushes.append(frame)
        elif self._control_bytes + frame.size_bytes > WAITING_BYTES_MAX:
            self.dropped_count += 1
        else:
            self._control.append(frame)
            self._control_bytes += frame.size_bytes

    def take_control(self) -> RelayFrame | None:
        """Takes the next control message out."""
        if not self._control:
            return None
        frame = self._control.popleft()
        self._control_bytes -= frame.size_bytes
        return frame

    def take_push(self) -> RelayFrame | None:
        """Takes the next push out."""
        return self._pushes.popleft() if self._pushes else None
