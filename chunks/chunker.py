"""Cuts a stream of bytes into chunks, by FastCDC or at fixed sizes.

The cut points are part of the format: docs/spec/chunks.md states the algorithm byte by byte, the
tests hold an independent implementation of it against this library call, and vectors pin it.
Memory is bounded by two times the maximum chunk, whatever the length of the stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from pyfastcdc import FastCDC

from chunks.layout import check_parameters
from protocol.manifest import ChunkerKind, ChunkerParameters

FASTCDC_NORMALISATION: Final = 1
"""Normalised chunking level of the paper: one mask bit more before the average, one less after."""


class ByteSource(Protocol):
    """Where a chunker reads from, such as a file opened in binary mode."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fills `buffer` from its start; returns the bytes read, 0 only at the end."""
        ...


def cut(source: ByteSource, parameters: ChunkerParameters) -> Iterator[memoryview]:
    """Cuts everything `source` still has to give.

    Args:
        source: read to its end; short reads are fine.
        parameters: as in the manifest.

    Yields:
        Each chunk's bytes, never empty. A view is valid only until the next one is asked for.

    Raises:
        PolicyError: the parameters are outside the specification; raised before any reading.
    """
    check_parameters(parameters)
    if parameters.kind is ChunkerKind.FIXED:
        return _cut_fixed(source, parameters.maximum)
    return _cut_fastcdc(source, parameters)


def cut_block(block: memoryview, parameters: ChunkerParameters, *, is_last: bool) -> list[int]:
    """Cuts a part of a stream that begins where a chunk begins.

    A cut depends on the bytes from the chunk's start up to the maximum length, so it is certain
    once that many are there; what lies behind the last certain cut comes again with what follows.

    Args:
        block: bytes of the stream.
        parameters: checked ones.
        is_last: whether the stream ends with the block.

    Returns:
        Where each chunk ends; all of the block if it is the last.
    """
    if parameters.kind is ChunkerKind.FIXED:
        ends = list(range(parameters.maximum, len(block) + 1, parameters.maximum))
        if is_last and len(block) % parameters.maximum:
            ends.append(len(block))
        return ends
    ends = []
    for chunk in _fastcdc(parameters).cut_buf(block):
        if not is_last and chunk.offset + parameters.maximum > len(block):
            break
        ends.append(chunk.offset + chunk.length)
    return ends


def _fastcdc(parameters: ChunkerParameters) -> FastCDC:
    return FastCDC(
        parameters.average,
        min_size=parameters.minimum,
        max_size=parameters.maximum,
        normalized_chunking=FASTCDC_NORMALISATION,
    )


def _cut_fastcdc(source: ByteSource, parameters: ChunkerParameters) -> Iterator[memoryview]:
    for chunk in _fastcdc(parameters).cut_stream(source):
        yield chunk.data


def _cut_fixed(source: ByteSource, size: int) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(size))
    while True:
        filled = 0
        while filled < size and (count := source.readinto(buffer[filled:])):
            filled += count
        if filled:
            yield buffer[:filled]
        if filled < size:
            return
