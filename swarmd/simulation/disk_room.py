"""How much a full disk still takes: the model behind `full-disk` on every level.

Stores allocate whole images before they write into them (docs/spec/chunks.md). A file system that
keeps such promises refuses new images only; one that promises nothing refuses writes, too.
"""

from __future__ import annotations

from swarmd.simulation.scenario import Takes


class DiskRoom:
    """The room of one disk; at first there is enough. It outlives the node that uses it."""

    def __init__(self) -> None:
        """Has room for everything."""
        self._left_bytes: int | None = None
        self._takes = Takes.FREE

    @property
    def is_full(self) -> bool:
        """Whether somebody filled it, and did not leave it since."""
        return self._left_bytes is not None

    @property
    def left_bytes(self) -> int | None:
        """What it takes beyond what it holds and promised; None: enough."""
        return self._left_bytes

    @property
    def is_promising(self) -> bool:
        """Whether what was allocated can be written."""
        return self._left_bytes is None or self._takes is Takes.FREE

    def fill(self, left_bytes: int, takes: Takes) -> None:
        """Has somebody take all but so much.

        Args:
            left_bytes: what images may still take.
            takes: whether what they were promised is gone, too.
        """
        self._left_bytes = left_bytes
        self._takes = takes

    def clear(self) -> None:
        """Has them leave: there is enough again."""
        self._left_bytes = None

    def allocate(self, size_bytes: int) -> bool:
        """Whether an image of that size gets its room."""
        if self._left_bytes is None:
            return True
        if size_bytes > self._left_bytes:
            return False
        if self._takes is Takes.FREE:
            self._left_bytes -= size_bytes
        return True

    def fits(self, size_bytes: int) -> bool:
        """Whether so much, which was allocated, can be written."""
        return self._left_bytes is None or self.is_promising or size_bytes <= self._left_bytes

    def write(self, size_bytes: int) -> int:
        """How many bytes of that many, which were allocated, can be written."""
        if self.is_promising:
            return size_bytes
        assert self._left_bytes is not None, "a disk with enough room keeps its promises"
        written_bytes = min(size_bytes, self._left_bytes)
        self._left_bytes -= written_bytes
        return written_bytes

    def free(self, size_bytes: int) -> None:
        """Takes back the room of an image that is deleted."""
        if self._left_bytes is not None and self._takes is Takes.FREE:
            self._left_bytes += size_bytes
