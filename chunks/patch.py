"""Patch objects: how a publisher says in few bytes what one image is, given another one.

Format and rules: docs/spec/updates.md, section 2. A patch cuts the target into segments, in order.
A segment is a copy of a range of the base, or one zstd frame of at most 8 MiB whose dictionary is
the named ranges of the base, at most 8 MiB of them, one after the other. So any part of the target
can be made with a working set that does not depend on the image's size: a frame, its dictionary and
its content.

Nothing here is believed: the table is bounded and checked before it is kept, a frame is decoded
only if its header states the size that the table says, and whoever writes the bytes into an image
checks each chunk against the recipe. A patch that breaks a rule, or makes other bytes than the
recipe says, convicts its publisher and never the peer that passed it on.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Protocol

import zstandard

from chunks.zstd_frame import FrameError, decode_frame
from protocol.errors import LocalProtocolError, VerificationError
from protocol.limits import IMAGE_BYTES_MAX, KIB, MIB

PATCH_MAGIC: Final = b"SWPATCH1"
"""First bytes of every patch object; the digit is the version of the format."""
FRAME_CONTENT_BYTES_MAX: Final = 8 * MIB
"""Target bytes of one frame."""
FRAME_BASE_BYTES_MAX: Final = 8 * MIB
"""Base bytes that one frame names. The ranges, the decoder's copy of them and the content make 24
MiB, a frame of the largest size included 32."""
FRAME_RANGES_MAX: Final = 16
"""Ranges that one frame names."""
TABLE_BYTES_MAX: Final = 512 * KIB
"""Segment table: 2,048 frames of 8 MiB with 16 ranges each, which is 16 GiB, take 404 KiB."""
BASE_WORK_FACTOR: Final = 2
"""All frames together name at most this many times the target's size, and `BASE_WORK_BYTES`, of
the base: a short patch cannot ask for endless reading."""
BASE_WORK_BYTES: Final = 64 * MIB
"""See `BASE_WORK_FACTOR`; lets small images have whole dictionaries."""

_HEAD: Final = struct.Struct(">8sQQII")
_COPY: Final = struct.Struct(">BQQ")
_FRAME: Final = struct.Struct(">BIIB")
_RANGE: Final = struct.Struct(">QI")
_COPY_KIND: Final = 1
_FRAME_KIND: Final = 2

Range = tuple[int, int]
"""(offset, length), bytes."""


class PatchError(VerificationError):
    """A patch object that breaks the format or makes other bytes: its publisher's fault."""


class ByteSource(Protocol):
    """Bytes that can be read anywhere, such as a file or an image in a store."""

    @property
    def size_bytes(self) -> int:
        """How many there are."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Reads exactly `length` bytes.

        Raises:
            StorageError: they cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A run of target bytes: a copy of one range of the base, or a frame."""

    length: int
    """Target bytes, 1 or more."""
    ranges: tuple[Range, ...]
    """Of the base: the range to copy, or the frame's dictionary, ascending and apart."""
    frame: Range | None
    """Where in the patch object the frame is; None: a copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchTable:
    """What a patch object is made of; every bound was checked."""

    target_bytes: int
    """Size of the image it makes."""
    base_bytes: int
    """Size of the image it applies to."""
    segments: tuple[Segment, ...]
    """In the order of the target."""


def encode_patch(
    *, target_bytes: int, base_bytes: int, segments: Sequence[tuple[Segment, int]]
) -> bytes:
    """Encodes a patch's head and table; the frames follow in order.

    Args:
        target_bytes: size of the image it makes.
        base_bytes: size of the image it applies to.
        segments: each with the length of its frame, 0 for a copy; where `Segment.frame` says the
            frame is, is ignored.

    Raises:
        PatchError: a bound is passed, or the parts do not fit together.
    """
    table = b"".join(_entry(segment, frame_bytes) for segment, frame_bytes in segments)
    head = _HEAD.pack(PATCH_MAGIC, target_bytes, base_bytes, len(table), len(segments))
    _read_table(head + table, len(head + table) + sum(length for _, length in segments))
    return head + table


def _entry(segment: Segment, frame_bytes: int) -> bytes:
    if segment.frame is None:
        ((offset, _),) = segment.ranges
        return _COPY.pack(_COPY_KIND, segment.length, offset)
    head = _FRAME.pack(_FRAME_KIND, segment.length, frame_bytes, len(segment.ranges))
    return head + b"".join(_RANGE.pack(*each) for each in segment.ranges)


def table_bytes(segments: Iterable[Segment]) -> int:
    """Length of the table of these segments."""
    return sum(
        _COPY.size if segment.frame is None else _FRAME.size + len(segment.ranges) * _RANGE.size
        for segment in segments
    )


def read_patch(source: ByteSource, *, target_bytes: int, base_bytes: int) -> PatchTable:
    """Reads a patch object's head and table, at most 512 KiB.

    Args:
        source: the patch object.
        target_bytes: size of the component.
        base_bytes: size of the base, as it is held.

    Raises:
        PatchError: it breaks a rule, or is about images of other sizes.
        StorageError: the source cannot be read.
    """
    if source.size_bytes < _HEAD.size:
        raise PatchError(f"patch of {source.size_bytes} bytes has no head")
    head = source.read(0, _HEAD.size)
    size = _HEAD.unpack(head)[3]
    if size > min(TABLE_BYTES_MAX, source.size_bytes - _HEAD.size):
        raise PatchError(f"patch table of {size} bytes, at most {TABLE_BYTES_MAX}")
    table = _read_table(head + source.read(_HEAD.size, size), source.size_bytes)
    if (table.target_bytes, table.base_bytes) != (target_bytes, base_bytes):
        raise PatchError(
            f"patch from {table.base_bytes} to {table.target_bytes} bytes, "
            f"expected from {base_bytes} to {target_bytes}"
        )
    return table


def _read_table(data: bytes, patch_bytes: int) -> PatchTable:
    """Reads head and table of a patch object of `patch_bytes`."""
    magic, target_bytes, base_bytes, size, count = _HEAD.unpack_from(data)
    if magic != PATCH_MAGIC:
        raise PatchError("not a patch object of this version")
    if not (1 <= target_bytes <= IMAGE_BYTES_MAX and 1 <= base_bytes <= IMAGE_BYTES_MAX):
        raise PatchError(f"patch from {base_bytes} to {target_bytes} bytes")
    if len(data) != _HEAD.size + size or size > TABLE_BYTES_MAX:
        raise PatchError(f"patch table of {size} bytes, at most {TABLE_BYTES_MAX}")
    segments: list[Segment] = []
    position, frames_at = _HEAD.size, len(data)
    target_left = target_bytes
    work_left = BASE_WORK_FACTOR * target_bytes + BASE_WORK_BYTES
    while position < len(data):
        segment, position = _read_segment(data, position, frames_at)
        _check_segment(segment, base_bytes)
        if segment.frame is not None:
            frames_at += segment.frame[1]
            work_left -= sum(length for _, length in segment.ranges)
        target_left -= segment.length
        if target_left < 0 or work_left < 0 or frames_at > patch_bytes:
            raise PatchError("patch segments exceed the target, the patch or the reading allowed")
        segments.append(segment)
    if target_left or frames_at != patch_bytes or len(segments) != count:
        raise PatchError(
            f"patch of {len(segments)} segments, {target_left} bytes short of the target and "
            f"{patch_bytes - frames_at} bytes too long"
        )
    return PatchTable(target_bytes=target_bytes, base_bytes=base_bytes, segments=tuple(segments))


def _read_segment(data: bytes, position: int, frames_at: int) -> tuple[Segment, int]:
    """Reads one entry of the table; returns it and where the next one begins."""
    try:
        if data[position] == _COPY_KIND:
            _, length, offset = _COPY.unpack_from(data, position)
            copy = Segment(length=length, ranges=((offset, length),), frame=None)
            return copy, position + _COPY.size
        kind, length, frame_bytes, count = _FRAME.unpack_from(data, position)
        if kind != _FRAME_KIND or count > FRAME_RANGES_MAX:
            raise PatchError(f"patch segment of kind {kind} with {count} ranges")
        position += _FRAME.size
        ranges: list[Range] = []
        for number in range(count):
            offset, size = _RANGE.unpack_from(data, position + number * _RANGE.size)
            ranges.append((offset, size))
    except struct.error as error:
        raise PatchError("patch table is cut off") from error
    segment = Segment(length=length, ranges=tuple(ranges), frame=(frames_at, frame_bytes))
    return segment, position + count * _RANGE.size


def _check_segment(segment: Segment, base_bytes: int) -> None:
    if segment.length < 1:
        raise PatchError("empty patch segment")
    end = -1
    for offset, length in segment.ranges:
        if length < 1 or offset <= end or offset + length > base_bytes:
            raise PatchError(f"patch names {length} bytes at {offset} of a base of {base_bytes}")
        end = offset + length
    if segment.frame is None:
        return
    named = sum(length for _, length in segment.ranges)
    if segment.length > FRAME_CONTENT_BYTES_MAX or named > FRAME_BASE_BYTES_MAX:
        raise PatchError(f"patch frame of {segment.length} bytes from {named}")
    if not 1 <= segment.frame[1] <= frame_bytes_max(segment.length):
        raise PatchError(f"{segment.frame[1]} bytes for a frame of {segment.length}")


def frame_bytes_max(content_bytes: int) -> int:
    """The longest frame allowed for so much content: zstd's own bound, rounded up."""
    return content_bytes + content_bytes // 256 + 128


class PatchReader:
    """Makes parts of the target from a patch and its base; for one thread.

    Reading forwards decodes each frame once. Holds one decoded frame, at most 8 MiB.
    """

    def __init__(self, table: PatchTable, *, patch: ByteSource, base: ByteSource) -> None:
        """Reads nothing yet.

        Args:
            table: of this patch, read for this base.
            patch: the patch object.
            base: the image it applies to.
        """
        self._table = table
        self._patch = patch
        self._base = base
        self._starts = [0, *accumulate(segment.length for segment in table.segments)]
        self._decoded: tuple[int, bytes] = (-1, b"")

    def read(self, offset: int, length: int) -> bytes:
        """Makes target bytes.

        Args:
            offset: of the first one.
            length: how many, 1 or more; a chunk's worth.

        Raises:
            LocalProtocolError: outside the target.
            PatchError: a frame is not what the table says.
            StorageError: the base or the patch cannot be read.
        """
        if length < 1 or not 0 <= offset <= self._table.target_bytes - length:
            raise LocalProtocolError(f"{length} bytes at {offset} of {self._table.target_bytes}")
        parts: list[bytes] = []
        number = bisect_right(self._starts, offset) - 1
        while length:
            inside = offset - self._starts[number]
            size = min(length, self._table.segments[number].length - inside)
            parts.append(self._part(number, inside, size))
            offset, length, number = offset + size, length - size, number + 1
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _part(self, number: int, offset: int, length: int) -> bytes:
        segment = self._table.segments[number]
        if segment.frame is None:
            return self._base.read(segment.ranges[0][0] + offset, length)
        if self._decoded[0] != number:
            self._decoded = (-1, b"")  # the last frame goes before the next one comes
            self._decoded = (number, self._decode(segment, segment.frame))
        return self._decoded[1][offset : offset + length]

    def _decode(self, segment: Segment, frame: Range) -> bytes:
        context = decompressor(self._base.read(*each) for each in segment.ranges)
        try:
            return decode_frame(
                context,
                self._patch.read(*frame),
                size_bytes=segment.length,
                window_bytes_max=FRAME_CONTENT_BYTES_MAX,
            )
        except FrameError as error:
            raise PatchError(f"patch frame: {error}") from error


def decompressor(ranges: Iterable[bytes]) -> zstandard.ZstdDecompressor:
    """A decoder whose dictionary is these bytes, as raw content, one after the other."""
    dictionary = b"".join(ranges)
    if not dictionary:
        return zstandard.ZstdDecompressor(max_window_size=FRAME_CONTENT_BYTES_MAX)
    return zstandard.ZstdDecompressor(
        dict_data=zstandard.ZstdCompressionDict(
            dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT
        ),
        max_window_size=FRAME_CONTENT_BYTES_MAX,
    )
