"""The step machines of one lane: frames in, frames out, over a cipher that never blocks.

A `step` does as much as its budget and the socket allow and says what to wait for. It neither waits
nor raises, so it can run in a worker thread or in place, and be tested over a socket pair. The two
machines share one cipher; whoever hosts them runs one step at a time.

A frame is a length of 4 bytes (big-endian) and as many bytes of body: docs/spec/exchange.md, X3.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Final

from protocol.errors import LocalProtocolError, RemoteProtocolError, SwarmError
from protocol.framing import PREFIX_BYTES
from protocol.limits import KIB
from swarmd.net.lane_buffers import FrameBuffers
from swarmd.net.lane_cipher import LaneCipher

SEND_BYTES: Final = 64 * KIB
"""Most bytes handed to the cipher in one call: four records, so that what is counted as unsent is
true to 64 KiB while a call costs little beside encrypting."""
GATHER_BELOW_BYTES: Final = 32 * KIB
"""Parts of a frame below this are copied together: a record and a system call for each would cost
more than the copy. Larger parts are sent from where they are."""
READY_FRAMES_MAX: Final = 256
"""Frames cut in one step: a step's bytes as frames of one byte would take 100 MB of objects."""


class Step(Enum):
    """What the host of a machine does next."""

    READ = "read"
    """Wait until the socket has bytes."""
    WRITE = "write"
    """Wait until the socket takes bytes."""
    MORE = "more"
    """Step again: the budget is spent, not the work."""
    DONE = "done"
    """Nothing is left to do: all was sent, or the stream has ended or failed."""


class FrameReceiver:
    """Cuts what a cipher receives into frames, each in a buffer of its own.

    The buffer of a frame is had when its length is known and handed over whole, so a byte is moved
    once, by the cipher.
    """

    def __init__(self, cipher: LaneCipher, buffers: FrameBuffers, *, frame_bytes_max: int) -> None:
        """`frame_bytes_max` bounds one body, bytes."""
        self._buffers = buffers
        self._cipher = cipher
        self._frame_bytes_max = frame_bytes_max
        self._prefix = bytearray(PREFIX_BYTES)
        self._body: memoryview | None = None
        self._view = memoryview(self._prefix)
        self._filled = 0
        self._ready: deque[memoryview] = deque()
        self.received_bytes = 0
        """Bytes received in all, prefixes included."""
        self.is_ended = False
        """Whether nothing more comes; `failure` says whether that is as it should be."""
        self.failure: SwarmError | None = None
        """Why it ended: `RemoteProtocolError` for broken framing, else `TransportError`."""

    @property
    def missing_bytes(self) -> int:
        """Bytes certain to come before the next frame is complete; 0 between frames."""
        if self._body is None:
            return PREFIX_BYTES - self._filled if self._filled else 0
        return len(self._body) - self._filled

    @property
    def body_bytes(self) -> int:
        """Bytes of the body under way; 0 while its length is not known."""
        return 0 if self._body is None else len(self._body)

    @property
    def has_frame(self) -> bool:
        """Whether `take` has one."""
        return bool(self._ready)

    def take(self) -> memoryview | None:
        """The oldest complete frame, or None. It does not change while anybody has it."""
        return self._ready.popleft() if self._ready else None

    def step(self, budget_bytes: int) -> Step:
        """Receives about `budget_bytes`, `READY_FRAMES_MAX` at most; returns READ, MORE or DONE."""
        try:
            return self._receive(budget_bytes)
        except SwarmError as error:
            self.failure = error
            self.is_ended = True
            return Step.DONE

    def _receive(self, budget_bytes: int) -> Step:
        if self.is_ended:
            return Step.DONE
        left_bytes = budget_bytes
        while left_bytes > 0 and len(self._ready) < READY_FRAMES_MAX:
            count = self._cipher.recv_into(self._view[self._filled :])
            if count is None:
                return Step.READ
            if count == 0:
                self._end()
                return Step.DONE
            self.received_bytes += count
            left_bytes -= count
            self._filled += count
            if self._filled == len(self._view):
                self._turn()
        return Step.MORE

    def _end(self) -> None:
        self.is_ended = True
        if self._filled or self._body is not None:
            raise RemoteProtocolError("lane ended inside a frame")

    def _turn(self) -> None:
        """Goes from a complete prefix to its body, or from a complete body to the next prefix."""
        self._filled = 0
        if self._body is not None:
            self._ready.append(self._body.toreadonly())
            self._body = None
            self._view = memoryview(self._prefix)
            return
        size = int.from_bytes(self._prefix, "big")
        if not 0 < size <= self._frame_bytes_max:
            raise RemoteProtocolError(
                f"frame of {size} bytes, allowed 1 to {self._frame_bytes_max}"
            )
        self._body = self._view = self._buffers.make(size)


class FrameSender:
    """Hands the parts of one frame at a time to a cipher."""

    def __init__(self, cipher: LaneCipher, *, frame_bytes_max: int) -> None:
        """`frame_bytes_max` bounds one body, bytes."""
        self._cipher = cipher
        self._frame_bytes_max = frame_bytes_max
        self._views: deque[memoryview] = deque()
        self._tried_bytes = 0
        self.queued_bytes = 0
        """Bytes of the frame that the cipher has not taken yet."""
        self.sent_bytes = 0
        """Bytes the cipher took in all, prefixes included."""
        self.failure: SwarmError | None = None
        """Why nothing can be sent any more."""

    def put(self, parts: Sequence[bytes | memoryview]) -> None:
        """Takes the next frame; the parts must stay unchanged until `step` returned DONE.

        Raises:
            LocalProtocolError: a frame is under way, or this one is empty or too long.
        """
        size = sum(len(part) for part in parts)
        if self._views:
            raise LocalProtocolError("a frame is under way on this lane")
        if not 0 < size <= self._frame_bytes_max:
            raise LocalProtocolError(f"frame of {size} bytes, allowed 1 to {self._frame_bytes_max}")
        self._views.extend(_gathered(size.to_bytes(PREFIX_BYTES, "big"), parts))
        self.queued_bytes = PREFIX_BYTES + size

    def step(self, budget_bytes: int) -> Step:
        """Sends at most `budget_bytes`, or what the last step began; returns WRITE, MORE or DONE.

        What the cipher did not take is tried again as it was: part of it may be encrypted already.
        """
        left_bytes = budget_bytes
        try:
            while self._views:
                if left_bytes <= 0:
                    return Step.MORE
                view = self._views[0]
                tried_bytes = self._tried_bytes or min(SEND_BYTES, left_bytes, len(view))
                count = self._cipher.send(view[:tried_bytes])
                self._tried_bytes = tried_bytes if count is None else 0
                if count is None:
                    return Step.WRITE
                self._note(view, count)
                left_bytes -= count
        except SwarmError as error:
            self.failure = error
            self._views.clear()
        return Step.DONE

    def _note(self, view: memoryview, count: int) -> None:
        self.sent_bytes += count
        self.queued_bytes -= count
        if count == len(view):
            self._views.popleft()
        else:
            self._views[0] = view[count:]


def _gathered(prefix: bytes, parts: Sequence[bytes | memoryview]) -> Iterator[memoryview]:
    """The frame as few views: small parts copied together, up to 64 KiB, large ones as they are."""
    small = bytearray(prefix)
    for part in parts:
        if len(part) < GATHER_BELOW_BYTES:
            small += part
            if len(small) < SEND_BYTES - GATHER_BELOW_BYTES:
                continue
            yield memoryview(small)
        else:
            if small:
                yield memoryview(small)
            yield memoryview(part)
        small = bytearray()
    if small:
        yield memoryview(small)
