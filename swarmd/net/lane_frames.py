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
from swarmd.net.lane_records import RECORD_BYTES_MAX

SEND_BYTES: Final = 64 * KIB
"""Small parts copied together at most, and the record that carries them."""
GATHER_BELOW_BYTES: Final = 32 * KIB
"""Parts of a frame below this are copied together: a record for each would cost more than the copy.
Larger parts are encrypted from where they are."""
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
    def certain_bytes(self) -> int:
        """Bytes the socket surely brings before the next step can do anything, after READ; 0: the
        peer may have nothing to say. Certain of an honest peer: others are waited for in vain.
        """
        return self._cipher.certain_bytes(self.missing_bytes)

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
        self._tried: list[memoryview] = []
        self.record_bytes_max = RECORD_BYTES_MAX
        """What is encrypted as one, bytes: the peer can use nothing of it before it has it all."""
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

        What the cipher did not take is tried again as it was: it is encrypted already.
        """
        left_bytes = budget_bytes
        try:
            while self._views:
                if left_bytes <= 0:
                    return Step.MORE
                self._tried = self._tried or self._next_pieces(left_bytes)
                count = self._cipher.send(self._tried)
                if count is None:
                    return Step.WRITE
                self._note(count)
                left_bytes -= count
        except SwarmError as error:
            self.failure = error
            self._views.clear()
        return Step.DONE

    def _next_pieces(self, left_bytes: int) -> list[memoryview]:
        """What goes with the next call: one record, or a short one and what it is the head of."""
        first = self._views[0]
        piece = first[: min(self.record_bytes_max, left_bytes)]
        left_bytes -= len(piece)
        if len(piece) < len(first) or len(first) >= GATHER_BELOW_BYTES or not left_bytes:
            return [piece]
        if len(self._views) == 1:
            return [piece]
        return [piece, self._views[1][: min(self.record_bytes_max, left_bytes)]]

    def _note(self, count: int) -> None:
        self.sent_bytes += count
        self.queued_bytes -= count
        for piece in self._tried:
            view = self._views.popleft()
            if len(piece) < len(view):
                self._views.appendleft(view[len(piece) :])
        self._tried = []


def _gathered(prefix: bytes, parts: Sequence[bytes | memoryview]) -> Iterator[memoryview]:
    """The frame as few views: small parts copied together, up to 64 KiB, large ones as they are.

    The length goes with what is small only: a record that lies within one body is opened where that
    is, while of one that begins before it the rest has to be moved there.
    """
    small, is_first = bytearray(prefix), True
    for part in parts:
        if len(part) < GATHER_BELOW_BYTES:
            small += part
            if len(small) < SEND_BYTES - GATHER_BELOW_BYTES:
                continue
            if is_first:
                yield memoryview(prefix)
                yield memoryview(small)[PREFIX_BYTES:]
            else:
                yield memoryview(small)
        else:
            if small:
                yield memoryview(small)
            yield memoryview(part)
        small, is_first = bytearray(), False
    if small:
        yield memoryview(small)
