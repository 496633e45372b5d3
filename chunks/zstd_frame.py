"""One zstd frame from an untrusted hand, and nothing else: checked before a byte of it is decoded.

The frame header (RFC 8878, section 3.1.1.1) says how large the content is and how much memory the
window takes; whoever made the frame chose both. A decoder that believes them hands its memory to
strangers: 9.6 kB decode to 300 MiB, and the `max_output_size` of python-zstandard is ignored when
the header states a size. So the header is compared with what the recipe or the patch says first:
exactly the expected size, a window within the bound, no dictionary id, no checksum (a digest
follows), and the one magic number of a zstd frame, which shuts out skippable frames and the formats
before 1.0. What is decoded then cannot be longer; that it is not shorter, that nothing follows the
frame, and that there is one frame only, is checked as well.
"""

from __future__ import annotations

from typing import Final

import zstandard

from protocol.errors import VerificationError
from protocol.limits import KIB

FRAME_MAGIC: Final = bytes.fromhex("28b52ffd")
"""RFC 8878, section 3.1.1: the number 0xFD2FB528, little-endian."""
WINDOW_BYTES_MIN: Final = 1 * KIB
"""The smallest window of the format: no bound below it can be asked for."""


class FrameError(VerificationError):
    """Bytes that should be one zstd frame of a known content size, and are not."""


def check_frame(frame: bytes | memoryview, *, size_bytes: int, window_bytes_max: int) -> None:
    """Refuses a frame whose header does not say what is expected; decodes nothing.

    Args:
        frame: the whole frame, or at least its first 18 bytes.
        size_bytes: what it must decode to.
        window_bytes_max: the largest window it may ask for, at least 1 KiB.

    Raises:
        FrameError: another magic number, a header that is cut off, no content size or another one,
            a larger window, a dictionary id, or a checksum.
    """
    if bytes(frame[: len(FRAME_MAGIC)]) != FRAME_MAGIC:
        raise FrameError("not a zstd frame")
    try:
        header = zstandard.get_frame_parameters(frame)
    except zstandard.ZstdError as error:
        raise FrameError(f"zstd frame header: {error}") from error
    if header.content_size != size_bytes:
        stated = header.content_size
        said = "no content size" if stated == zstandard.CONTENTSIZE_UNKNOWN else f"{stated} bytes"
        raise FrameError(f"zstd frame of {said}, expected {size_bytes}")
    if header.window_size > max(window_bytes_max, WINDOW_BYTES_MIN):
        raise FrameError(f"zstd window of {header.window_size} bytes, at most {window_bytes_max}")
    if header.dict_id or header.has_checksum:
        raise FrameError("zstd frame with a dictionary id or a checksum")


def decode_frame(
    decompressor: zstandard.ZstdDecompressor,
    frame: bytes | memoryview,
    *,
    size_bytes: int,
    window_bytes_max: int,
) -> bytes:
    """Decodes a frame of exactly `size_bytes`; allocates no more than these and the window.

    Args:
        decompressor: a context that no other thread uses meanwhile.
        frame: exactly one frame.
        size_bytes: what it must decode to.
        window_bytes_max: the largest window it may ask for, at least 1 KiB.

    Raises:
        FrameError: as `check_frame` does, or the content is damaged, cut off, of another size, or
            something follows the frame.
    """
    check_frame(frame, size_bytes=size_bytes, window_bytes_max=window_bytes_max)
    try:
        data: bytes = decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FrameError(f"zstd frame: {error}") from error
    if len(data) != size_bytes:
        raise FrameError(f"zstd frame decoded to {len(data)} bytes, expected {size_bytes}")
    return data
