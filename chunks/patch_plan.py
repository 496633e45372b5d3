"""Which parts of an image a patch copies, and which parts of the base the rest resembles.

Two recipes tell it without looking at a byte: chunks that both have are copies, and what changed
between two such chunks most likely was between them in the base as well. Deterministic; the numbers
below were measured on pairs of root file systems (benchmarks/updates.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from chunks.patch import (
    FRAME_BASE_BYTES_MAX,
    FRAME_RANGES_MAX,
    Range,
    Segment,
)
from chunks.recipe import Recipe
from protocol.limits import KIB, MIB

FRAME_AIM_BYTES: Final = 4 * MIB
"""Target bytes of a frame: with windows on both sides its dictionary stays within the bound."""
SLACK_BYTES: Final = 256 * KIB
"""How far a window reaches beyond what it stands for: bytes inserted or removed shift the rest."""
COPY_BYTES_MIN: Final = 256 * KIB
"""Shorter copies become part of a frame, which costs some bytes each and lets the changes on both
sides share a frame: 2.5 % instead of 2.9 % with copies from 64 KiB on."""


@dataclass(frozen=True, slots=True)
class _Run:
    """Chunks of the target that are a run in the base, too, or are all unknown there."""

    offset: int
    """In the target."""
    length: int
    """Bytes."""
    base_offset: int | None
    """Where the base has them; None: nowhere."""


@dataclass(slots=True)
class _Frame:
    """A frame that is being put together."""

    offset: int
    """In the target."""
    length: int = 0
    """Bytes so far."""
    windows: list[tuple[int, int]] = field(default_factory=list)
    """(start, end) in the base, possibly outside it: what the bytes so far resemble."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSegment:
    """A segment before its frame is made."""

    offset: int
    """In the target."""
    segment: Segment
    """The copy, or the frame with an unknown place."""


def plan_patch(
    base: Recipe, target: Recipe, copy_bytes_min: int = COPY_BYTES_MIN
) -> tuple[PlannedSegment, ...]:
    """Divides the target into copies and frames.

    Args:
        base: recipe of the image the patch applies to.
        target: recipe of the image it makes.
        copy_bytes_min: shorter copies become part of a frame; more makes a shorter table.
    """
    runs = tuple(_runs(base, target))
    after = _next_known(runs, base.size_bytes)
    planned: list[PlannedSegment] = []
    frame: _Frame | None = None
    before = 0
    for run, behind in zip(runs, after, strict=True):
        if run.base_offset is not None and run.length >= copy_bytes_min:
            if frame is not None:
                planned.append(_close(frame, base.size_bytes))
                frame = None
            copy = Segment(length=run.length, ranges=((run.base_offset, run.length),), frame=None)
            planned.append(PlannedSegment(offset=run.offset, segment=copy))
        else:
            for piece in _pieces(run, before, behind, frame.length if frame else 0):
                if frame is not None and frame.length >= FRAME_AIM_BYTES:
                    planned.append(_close(frame, base.size_bytes))
                    frame = None
                frame = frame or _Frame(piece.offset)
                frame.length += piece.length
                frame.windows.extend(piece.windows)
        if run.base_offset is not None:
            before = run.base_offset + run.length
    if frame is not None:
        planned.append(_close(frame, base.size_bytes))
    return tuple(planned)


def _runs(base: Recipe, target: Recipe) -> Iterator[_Run]:
    """Divides the target; a run goes on in the base for as long as it can."""
    first: dict[bytes, int] = {}
    for index in range(base.chunk_count):
        first.setdefault(base.digest(index), index)
    start = 0
    previous: int | None = None
    for index in range(target.chunk_count):
        found = _find(base, first, target.digest(index), previous)
        goes_on = found is previous is None or (
            found is not None and previous is not None and found == previous + 1
        )
        if index and not goes_on:
            yield _run(base, target, start, index, previous)
            start = index
        previous = found
    yield _run(base, target, start, target.chunk_count, previous)


def _find(base: Recipe, first: dict[bytes, int], digest: bytes, previous: int | None) -> int | None:
    """Where the base has a chunk: behind the one before it, if it is there, too."""
    behind = base.chunk_count if previous is None else previous + 1
    if behind < base.chunk_count and base.digest(behind) == digest:
        return behind
    return first.get(digest)


def _run(base: Recipe, target: Recipe, start: int, stop: int, last: int | None) -> _Run:
    """The target's chunks from `start` up to `stop`, the last of which the base has at `last`."""
    offset = target.offset(start)
    end = target.size_bytes if stop == target.chunk_count else target.offset(stop)
    origin = None if last is None else base.offset(last - (stop - 1 - start))
    return _Run(offset, end - offset, origin)


def _next_known(runs: Sequence[_Run], base_bytes: int) -> list[int]:
    """For each run, where in the base the next known one begins."""
    after: list[int] = []
    behind = base_bytes
    for run in reversed(runs):
        after.append(behind)
        if run.base_offset is not None:
            behind = run.base_offset
    return after[::-1]


def _pieces(run: _Run, before: int, behind: int, filled: int) -> Iterator[_Frame]:
    """Cuts a run at the sizes of frames, of which the first has `filled` bytes already.

    A known run resembles itself. An unknown one is looked for twice: as far behind the known run
    before it as it is in the target, and as far before the next one.
    """
    done = 0
    while done < run.length:
        room = FRAME_AIM_BYTES - filled if filled < FRAME_AIM_BYTES else FRAME_AIM_BYTES
        length = min(run.length - done, room)
        if run.base_offset is not None:
            windows = [(run.base_offset + done, run.base_offset + done + length)]
        else:
            first, last = before + done, behind - (run.length - done - length)
            windows = [(first, first + length), (last - length, last)]
        yield _Frame(run.offset + done, length, windows)
        done, filled = done + length, FRAME_AIM_BYTES


def _close(frame: _Frame, base_bytes: int) -> PlannedSegment:
    slack = SLACK_BYTES
    ranges = _widen(frame.windows, slack, base_bytes)
    while slack and sum(length for _, length in ranges) > FRAME_BASE_BYTES_MAX:
        slack //= 2
        ranges = _widen(frame.windows, slack, base_bytes)
    if len(ranges) > FRAME_RANGES_MAX:
        longest = sorted(ranges, key=lambda each: (-each[1], each[0]))[:FRAME_RANGES_MAX]
        ranges = sorted(longest)
    segment = Segment(length=frame.length, ranges=_bounded(ranges), frame=(0, 0))
    return PlannedSegment(offset=frame.offset, segment=segment)


def _widen(windows: Sequence[tuple[int, int]], slack: int, base_bytes: int) -> list[Range]:
    """Windows as ranges of the base: widened, within it, ascending, joined where they meet."""
    ranges: list[Range] = []
    for start, end in sorted(windows):
        first, last = max(0, start - slack), min(base_bytes, end + slack)
        if first >= last:
            continue
        if ranges and first <= ranges[-1][0] + ranges[-1][1]:
            offset, length = ranges[-1]
            ranges[-1] = (offset, max(length, last - offset))
        else:
            ranges.append((first, last - first))
    return ranges


def _bounded(ranges: Sequence[Range]) -> tuple[Range, ...]:
    """Cuts off what is too much even without slack."""
    kept: list[Range] = []
    left = FRAME_BASE_BYTES_MAX
    for offset, length in ranges:
        if left:
            kept.append((offset, min(length, left)))
            left -= kept[-1][1]
    return tuple(kept)
