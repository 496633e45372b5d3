"""Buffers that received frames are put into, used again when nobody looks at them any more.

A fresh buffer for each frame would have the kernel map and clear its pages again and again: a third
of what receiving costs. A frame is handed out as a view; Python itself says whether any view is
left, as a `bytearray` that is looked at cannot be resized. So nobody has to give a buffer back,
and one that somebody keeps is never touched.

What records are kept in between socket and cipher comes from buffers, too, but is given back: it is
nobody else's.

Shared by the lanes of a node, and by their threads: each operation on the queues is atomic.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from protocol.limits import KIB, MIB

SMALL_BYTES: Final = 32 * KIB
"""Shorter frames have a buffer of their own size: the allocator keeps such at hand."""
BUFFER_BYTES: Final = 1 * MIB + 8 * KIB
"""The largest frame of chunks with its head (exchange.md, X3). What a shorter frame leaves over
of a buffer that was never full has no memory behind it. Longer frames have one of their own."""
POOL_BYTES_MAX: Final = 20 * MIB
"""Memory of all buffers that are kept: what the exchange may have in flight (exchange.md, X44), and
what is being received. Buffers beside the pool come from and return to the heaps of many threads,
which costs their memory several times over."""
LOOKS_MAX: Final = 4
"""Buffers that are looked at before another one is made, those handed out longest ago first."""
RECORD_BUFFER_BYTES: Final = 384 * KIB
"""The largest record twice over a part: one that is received with what is read ahead, or one that
is sent with a smaller one before it."""
RECORD_BUFFERS_MAX: Final = 8
"""Buffers for records that are kept, 3 MiB: those of the steps under way, of which each processor
has one, and some for what sockets have taken in part."""


class FrameBuffers:
    """The pool."""

    def __init__(self) -> None:
        """Starts empty."""
        self._buffers: deque[bytearray] = deque()

    def __len__(self) -> int:
        """Buffers kept, used or not."""
        return len(self._buffers)

    def make(self, size_bytes: int) -> memoryview:
        """A writable view of that many bytes, the caller's until it and its slices are gone."""
        if not SMALL_BYTES <= size_bytes <= BUFFER_BYTES:
            return memoryview(bytearray(size_bytes))
        for _ in range(min(LOOKS_MAX, len(self._buffers))):
            try:
                buffer = self._buffers.popleft()
            except IndexError:
                break
            is_free = _is_free(buffer)
            view = memoryview(buffer) if is_free else None
            self._buffers.append(buffer)
            if view is not None:
                return view[:size_bytes]
        buffer = bytearray(BUFFER_BYTES)
        view = memoryview(buffer)
        if len(self._buffers) < POOL_BYTES_MAX // BUFFER_BYTES:
            self._buffers.append(buffer)
        return view[:size_bytes]

    def clear(self) -> None:
        """Forgets every buffer; those in use live as long as their views."""
        self._buffers.clear()


class RecordBuffers:
    """Buffers for records; the one given back last is taken first, as it is in the cache."""

    def __init__(self) -> None:
        """Starts empty."""
        self._buffers: list[bytearray] = []

    def __len__(self) -> int:
        """Buffers that wait to be taken."""
        return len(self._buffers)

    def take(self, size_bytes: int) -> bytearray:
        """A buffer of at least that many bytes, the caller's until it is given back."""
        if not SMALL_BYTES < size_bytes <= RECORD_BUFFER_BYTES:
            return bytearray(size_bytes)
        try:
            return self._buffers.pop()
        except IndexError:
            return bytearray(RECORD_BUFFER_BYTES)

    def give(self, buffer: bytearray) -> None:
        """Takes a buffer back that nobody looks at any more; forgets it if others are enough."""
        if len(buffer) == RECORD_BUFFER_BYTES and len(self._buffers) < RECORD_BUFFERS_MAX:
            self._buffers.append(buffer)


def _is_free(buffer: bytearray) -> bool:
    """Whether no view of the buffer is left; the size is the same afterwards."""
    try:
        buffer.pop()
    except BufferError:
        return False
    buffer.append(0)
    return True
