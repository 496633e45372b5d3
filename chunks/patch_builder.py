"""Makes patch objects: what a publisher does once, so that every gateway fetches less.

Each frame is compressed by zstd at a high level with the base ranges that the plan names as its
dictionary of raw content. The compressor's window covers both, or it would not look at the
dictionary's beginning; the frame itself states no more than its own content, because a decoder may
refer to the whole dictionary as long as less than a window was decoded (RFC 8878, section 5).

Memory: about 200 MiB at level 19, most of it the compressor's tables, for the frame and once more
for its dictionary; it does not depend on the image's size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO, Final

import zstandard

from chunks.patch import (
    TABLE_BYTES_MAX,
    ByteSource,
    PatchError,
    Segment,
    encode_patch,
    table_bytes,
)
from chunks.patch_plan import COPY_BYTES_MIN, PlannedSegment, plan_patch
from chunks.recipe import Recipe
from protocol.limits import MIB

LEVEL: Final = 19
"""zstd level: 5 MB/s a core, 18 % smaller than level 12."""
LEVEL_LONG: Final = 12
"""Level where that would take minutes: 25 MB/s."""
LONG_BYTES: Final = 256 * MIB
"""Bytes in frames from which on the lower level is taken."""
TRIAL_LEVEL: Final = 3
"""Level of the trial: 100 MB/s, and it finds what a dictionary has in common with a frame."""
TRIAL_FRAMES: Final = 4
"""Frames that are tried, spread over the image."""
_TRIAL_NUMERATOR: Final = 97
_TRIAL_DENOMINATOR: Final = 100
_WINDOW_LOG_MIN: Final = 17
"""Smallest window of the compressor, 128 KiB: below it nothing is gained."""


def build_patch(
    plan: Sequence[PlannedSegment],
    *,
    base: ByteSource,
    target: ByteSource,
    output: IO[bytes],
    frames: IO[bytes],
) -> int:
    """Writes a patch object; the same inputs and the same zstd give the same bytes.

    Args:
        plan: as `fitting_plan` makes it from the two recipes.
        base: the image it applies to.
        target: the image it makes.
        output: receives the object.
        frames: a file for intermediate data, empty, open for writing and reading.

    Returns:
        Bytes written to `output`.

    Raises:
        StorageError: a source cannot be read.
        OSError: an output cannot be written.
    """
    content = sum(each.segment.length for each in plan if each.segment.frame is not None)
    level = LEVEL if content < LONG_BYTES else LEVEL_LONG
    made: list[tuple[Segment, int]] = []
    for planned in plan:
        frame = _frame(planned, base, target, level)
        frames.write(frame)
        made.append((planned.segment, len(frame)))
    head = encode_patch(target_bytes=target.size_bytes, base_bytes=base.size_bytes, segments=made)
    output.write(head)
    frames.seek(0)
    written = len(head)
    for block in _blocks(frames):
        output.write(block)
        written += len(block)
    return written


def is_promising(plan: Sequence[PlannedSegment], *, base: ByteSource, target: ByteSource) -> bool:
    """Whether some frame out of a few gets smaller, so that the whole is worth its time.

    Images that were compressed or encrypted as a whole have nothing in common with their last
    version; finding that out at the high level would take a publisher minutes for each GiB.

    Raises:
        StorageError: a source cannot be read.
    """
    framed = [each for each in plan if each.segment.frame is not None]
    step = max(1, len(framed) // TRIAL_FRAMES)
    return not framed or any(
        len(_frame(each, base, target, TRIAL_LEVEL)) * _TRIAL_DENOMINATOR
        < each.segment.length * _TRIAL_NUMERATOR
        for each in framed[step // 2 :: step][:TRIAL_FRAMES]
    )


def fitting_plan(base: Recipe, target: Recipe) -> tuple[PlannedSegment, ...]:
    """The plan with the shortest copies whose table keeps its bound.

    Raises:
        PatchError: no plan does; the format's bounds exclude it.
    """
    copy_bytes_min = COPY_BYTES_MIN
    while copy_bytes_min <= 2 * target.size_bytes + COPY_BYTES_MIN:
        plan = plan_patch(base, target, copy_bytes_min)
        if table_bytes(each.segment for each in plan) <= TABLE_BYTES_MAX:
            return plan
        copy_bytes_min *= 2
    raise PatchError(f"no patch table for {target.size_bytes} bytes within {TABLE_BYTES_MAX}")


def _frame(planned: PlannedSegment, base: ByteSource, target: ByteSource, level: int) -> bytes:
    segment = planned.segment
    if segment.frame is None:
        return b""
    content = target.read(planned.offset, segment.length)
    dictionary = b"".join(base.read(*each) for each in segment.ranges)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        source_size=len(content),
        dict_size=len(dictionary),
        window_log=max(_WINDOW_LOG_MIN, (len(content) + len(dictionary)).bit_length()),
        write_content_size=True,
        write_checksum=False,
        write_dict_id=False,
    )
    raw = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    context = zstandard.ZstdCompressor(
        dict_data=raw if dictionary else None, compression_params=parameters
    )
    frame: bytes = context.compress(content)
    return frame


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    while block := file.read(MIB):
        yield block
