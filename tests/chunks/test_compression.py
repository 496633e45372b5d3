"""Chunks as zstd frames: what pays, what is remembered, and frames that lie."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from chunks.compression import (
    CACHE_BYTES_MAX,
    IMAGES_MAX,
    SAMPLE_CHUNKS,
    ChunkPacker,
    ChunkUnpacker,
    pays,
)
from chunks.zstd_frame import FRAME_MAGIC, FrameError, check_frame
from protocol.digest import Digest, sha256
from protocol.limits import CHUNK_BYTES_MAX, KIB, MIB
from tests.support.strategies import many

IMAGE = Digest(sha256(b"image"))
OTHER = Digest(sha256(b"another image"))


def text(size: int, seed: int = 1) -> bytes:
    """Bytes that compress to about a half."""
    return bytes(random.Random(seed).choices(b"abcdefghijklmnop", k=size))


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def pack(data: bytes, packer: ChunkPacker | None = None, image: Digest = IMAGE) -> bytes | None:
    return (packer or ChunkPacker()).pack(data, image=image, chunk=Digest(sha256(data)))


def frame_of(data: bytes) -> bytes:
    frame = pack(data)
    assert frame is not None
    return frame


@pytest.mark.slow
@many
@given(data=st.binary(min_size=1, max_size=9000), times=st.integers(2, 8))
def test_what_was_packed_comes_back(data: bytes, times: int) -> None:
    plain = data * times
    frame = pack(plain)
    if frame is not None:
        assert pays(len(plain), len(frame))
        assert ChunkUnpacker().unpack(memoryview(frame), len(plain)) == plain


@pytest.mark.slow
def test_the_largest_chunk_comes_back() -> None:
    plain = text(CHUNK_BYTES_MAX)
    assert ChunkUnpacker().unpack(frame_of(plain), len(plain)) == plain


@pytest.mark.parametrize("size", [1, 100, 16 * KIB])
def test_noise_is_sent_as_it_is(size: int) -> None:
    assert pack(noise(size)) is None


# Frames that lie ---------------------------------------------------------------------------------


def bomb(size: int) -> bytes:
    return zstandard.ZstdCompressor(level=19, write_checksum=False).compress(bytes(size))


@pytest.mark.slow
def test_a_bomb_takes_no_memory_whatever_its_header_says() -> None:
    full = bomb(64 * MIB)
    assert len(full) < 4 * KIB
    liar = relabelled(full, 16 * KIB)
    unpacker = ChunkUnpacker()
    tracemalloc.start()
    try:
        for frame in (full, liar):
            with pytest.raises(FrameError):
                unpacker.unpack(frame, 16 * KIB)
        assert tracemalloc.get_traced_memory()[1] < 256 * KIB
    finally:
        tracemalloc.stop()


def test_the_binding_would_let_the_bomb_off_by_itself() -> None:
    """Why the header is read first: the bound given to the library is not obeyed."""
    full = bomb(4 * MIB)
    context = zstandard.ZstdDecompressor(max_window_size=CHUNK_BYTES_MAX)
    assert len(context.decompress(full, max_output_size=1000)) > 1000


def relabelled(frame: bytes, size: int) -> bytes:
    """The same blocks behind a header that states another content size, in one segment."""
    body = frame[zstandard.frame_header_size(frame) :]
    return FRAME_MAGIC + bytes([0b1010_0000]) + size.to_bytes(4, "little") + body


@pytest.mark.parametrize("size", [1, 15_999, 16_001, 20_000, CHUNK_BYTES_MAX])
def test_a_header_that_lies_about_the_size_is_refused(size: int) -> None:
    frame = frame_of(text(16_000))
    unpacker = ChunkUnpacker()
    with pytest.raises(FrameError, match="expected"):
        unpacker.unpack(frame, size)
    with pytest.raises(FrameError):
        unpacker.unpack(relabelled(frame, size), size)
    assert unpacker.unpack(relabelled(frame, 16_000), 16_000) == text(16_000)


def windowed(log: int) -> bytes:
    """A frame whose header asks for a window of 2^log bytes."""
    parameters = zstandard.ZstdCompressionParameters(
        window_log=log, write_content_size=True, write_checksum=False
    )
    context = zstandard.ZstdCompressor(compression_params=parameters)
    stream = context.compressobj()  # a stream of unknown size states its whole window
    return bytes(stream.compress(text(5000)) + stream.flush())


def stated(descriptor: int, window: bytes, size: bytes) -> bytes:
    return FRAME_MAGIC + bytes([descriptor]) + window + size + bytes.fromhex("0b0000") + b"x" * 9


@pytest.mark.parametrize(
    "frame",
    [
        windowed(20),  # no content size
        windowed(27),
        stated(0b1000_0000, bytes([(31 - 10) << 3]), (16_000).to_bytes(4, "little")),
        stated(0b1000_0000, bytes([0xFF]), (16_000).to_bytes(4, "little")),
        stated(0b1000_0000, bytes([(21 - 10) << 3]), (16_000).to_bytes(4, "little")),
        stated(0b1010_0100, b"", (16_000).to_bytes(4, "little")),  # checksum
        stated(0b1010_0001, b"\x07", (16_000).to_bytes(4, "little")),  # dictionary id
        stated(0b1010_1000, b"", (16_000).to_bytes(4, "little")),  # reserved bit
        FRAME_MAGIC,
        b"",
        b"x",
        bytes.fromhex("502a4d18") + (16_000).to_bytes(4, "little") + bytes(16_000),  # skippable
        bytes.fromhex("27b52ffd") + frame_of(text(16_000))[4:],  # the format of version 0.7
        bytes.fromhex("37a430ec") + bytes(100),  # a dictionary
    ],
)
def test_other_headers_are_refused(frame: bytes) -> None:
    with pytest.raises(FrameError):
        check_frame(frame, size_bytes=16_000, window_bytes_max=CHUNK_BYTES_MAX)
    with pytest.raises(FrameError):
        ChunkUnpacker().unpack(frame, 16_000)


SKIPPABLE = bytes.fromhex("502a4d18") + (3).to_bytes(4, "little") + b"abc"


@pytest.mark.parametrize(
    "damage",
    [
        lambda frame: frame[:-1],
        lambda frame: frame[: len(frame) // 2],
        lambda frame: frame[:9],
        lambda frame: frame + b"x",
        lambda frame: frame + frame,
        lambda frame: frame + SKIPPABLE,
        lambda frame: SKIPPABLE + frame,
        lambda frame: b"\n" + frame,
    ],
)
def test_one_whole_frame_and_nothing_else(damage: Callable[[bytes], bytes]) -> None:
    frame = frame_of(text(16_000))
    with pytest.raises(FrameError):
        ChunkUnpacker().unpack(damage(frame), 16_000)


@many
@given(data=st.data())
def test_damage_is_refused_or_caught_by_the_digest(data: st.DataObject) -> None:
    frame = bytearray(frame_of(text(3000)))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        plain = ChunkUnpacker().unpack(bytes(frame), 3000)
    except FrameError:
        return
    assert len(plain) == 3000


@many
@given(tail=st.binary(max_size=60))
def test_any_bytes_are_refused_or_have_the_length_asked_for(tail: bytes) -> None:
    for frame in (tail, FRAME_MAGIC + tail, stated(0b1010_0000, b"", bytes(4))[:9] + tail):
        with suppress(FrameError):
            assert len(ChunkUnpacker().unpack(frame, 200)) == 200


def test_a_refused_frame_leaves_the_context_usable() -> None:
    unpacker, plain = ChunkUnpacker(), text(9000)
    for broken in (b"", bomb(MIB), frame_of(plain)[:-5]):
        with pytest.raises(FrameError):
            unpacker.unpack(broken, 9000)
        assert unpacker.unpack(frame_of(plain), 9000) == plain


# What pays ---------------------------------------------------------------------------------------


def test_a_chunk_is_packed_once_for_all_peers() -> None:
    packer, plain = ChunkPacker(), text(9000)
    first = pack(plain, packer)
    assert pack(plain, packer) is first
    assert pack(plain, packer, OTHER) is first  # another image with the same chunk
    assert (packer.statistics().packed, packer.statistics().reused) == (1, 2)


@pytest.mark.slow
def test_an_image_that_does_not_compress_is_left_alone_but_looked_at_now_and_then() -> None:
    packer = ChunkPacker()
    for number in range(10 * SAMPLE_CHUNKS):
        assert pack(noise(2000, number), packer) is None
    tried = packer.statistics().packed
    assert SAMPLE_CHUNKS <= tried <= 3 * SAMPLE_CHUNKS
    assert packer.statistics().skipped == 10 * SAMPLE_CHUNKS - tried
    # Its second half does compress, which is found out within some tries.
    frames = [pack(text(2000, number), packer) for number in range(30 * SAMPLE_CHUNKS)]
    assert all(frames[-SAMPLE_CHUNKS:])
    assert pack(text(2000, -1), packer, OTHER) is not None  # images are judged one by one


def test_the_cache_keeps_its_bound_and_forgets_the_oldest() -> None:
    packer = ChunkPacker(cache_bytes_max=20_000)
    for number in range(40):
        pack(text(4000, number), packer)
        assert packer.statistics().cached_bytes <= 20_000
    pack(text(4000, 39), packer)
    assert packer.statistics().reused == 1
    pack(text(4000, 0), packer)
    assert packer.statistics().packed == 41
    assert ChunkPacker(cache_bytes_max=0).pack(text(900), image=IMAGE, chunk=OTHER) is not None
    assert CACHE_BYTES_MAX <= 16 * MIB


def test_judgements_are_bounded() -> None:
    packer = ChunkPacker()
    for number in range(IMAGES_MAX + 10):
        pack(text(100, number), packer, Digest(sha256(b"%d" % number)))
    assert len(packer._judgements) == IMAGES_MAX


@pytest.mark.slow
def test_threads_share_a_packer() -> None:
    packer = ChunkPacker()
    plains = [text(3000, number % 20) for number in range(200)]
    with ThreadPoolExecutor(4) as threads:
        frames = list(threads.map(lambda plain: pack(plain, packer), plains))
    for plain, frame in zip(plains, frames, strict=True):
        assert frame is not None
        assert ChunkUnpacker().unpack(frame, len(plain)) == plain
