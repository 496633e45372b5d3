"""Patches for tests: pairs of images, patches between them, and patches that lie."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence

import zstandard

from chunks.byte_source import BytesSource
from chunks.patch import PATCH_MAGIC, Segment, encode_patch
from chunks.patch_builder import build_patch
from chunks.patch_plan import plan_patch
from tests.chunks.chunk_images import SMALL_CDC, Sample, generated

HEAD = struct.Struct(">8sQQII")
COPY = struct.Struct(">BQQ")
FRAME = struct.Struct(">BIIB")
RANGE = struct.Struct(">QI")


def pair(size: int = 20_000, *, seed: str = "pair") -> tuple[Sample, Sample]:
    """An image and its successor: something inserted, something altered, something gone."""
    old = generated(seed, size)
    third = size // 3
    new = (
        old[:third]
        + generated(seed + " inserted", 700)
        + old[third : 2 * third - 900]
        + bytes(
            byte ^ (0x11 if number % 97 == 0 else 0)
            for number, byte in enumerate(old[2 * third : 2 * third + 2000])
        )
        + old[2 * third + 2000 :]
    )
    return Sample(old, SMALL_CDC), Sample(new, SMALL_CDC)


def patch_between(old: Sample, new: Sample, *, copy_bytes_min: int = 512) -> bytes:
    """What a publisher would build, with copies as short as these small images need."""
    output = io.BytesIO()
    size = build_patch(
        plan_patch(old.recipe, new.recipe, copy_bytes_min),
        base=BytesSource(old.data),
        target=BytesSource(new.data),
        output=output,
        frames=io.BytesIO(),
    )
    assert size == len(output.getvalue())
    return output.getvalue()


def frame_of(content: bytes, dictionary: bytes = b"") -> bytes:
    """A frame as a publisher makes it."""
    raw = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    context = zstandard.ZstdCompressor(
        level=19, dict_data=raw if dictionary else None, write_checksum=False
    )
    return bytes(context.compress(content))


def copy(length: int, offset: int) -> Segment:
    return Segment(length=length, ranges=((offset, length),), frame=None)


def framed(length: int, *ranges: tuple[int, int]) -> Segment:
    return Segment(length=length, ranges=ranges, frame=(0, 0))


def patch_of(target_bytes: int, base_bytes: int, *segments: tuple[Segment, bytes]) -> bytes:
    """A patch of these segments and frames, by the encoder."""
    head = encode_patch(
        target_bytes=target_bytes,
        base_bytes=base_bytes,
        segments=[(segment, len(frame)) for segment, frame in segments],
    )
    return head + b"".join(frame for _, frame in segments)


def raw_patch(
    entries: Sequence[bytes],
    *,
    target_bytes: int,
    base_bytes: int,
    frames: bytes = b"",
    magic: bytes = PATCH_MAGIC,
    count: int | None = None,
    table_bytes: int | None = None,
) -> bytes:
    """A patch by hand, with anything wrong."""
    table = b"".join(entries)
    head = HEAD.pack(
        magic,
        target_bytes,
        base_bytes,
        len(table) if table_bytes is None else table_bytes,
        len(entries) if count is None else count,
    )
    return head + table + frames
