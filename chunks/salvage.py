"""Chunks that lie in a download's file although nothing says so, after a process ended at once.

Which chunks are held becomes durable with a checkpoint; what was written since is in the file, or
in the system's cache of it, and only the bits are lost. So the first thing a resumed download does
is to look: places of missing chunks that the file system knows to hold data are read and hashed.
What matches is written again, for a sync that failed before may have left it in the cache alone,
marked clean; then it counts like a chunk that has just come from a peer.

After a power loss the same places may hold anything. It does not match, and is fetched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from chunks.file_backend import FileBackend
from chunks.held_image import OpenFile


def find_written(
    backend: FileBackend, opened: OpenFile, missing: Iterable[int]
) -> Iterator[tuple[int, bytes]]:
    """Yields missing chunks that the file holds nevertheless, with their bytes, verified.

    Args:
        backend: the file operations.
        opened: the download's file, leased by the caller.
        missing: indices, ascending.

    Raises:
        OSError: the file cannot be searched; one that cannot be read is passed over.
    """
    ranges = iter(backend.data_ranges(opened.descriptor))
    start, end = next(ranges, (0, 0))
    for index in missing:
        offset = opened.recipe.offset(index)
        while end <= offset:
            after = next(ranges, None)
            if after is None:
                return
            start, end = after
        if start < offset + opened.recipe.length(index):
            data = opened.read_verified(backend, index)
            if data is not None:
                yield index, data
