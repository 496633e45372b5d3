"""Cut points: the library against the specification, vectors, bounds, streaming."""

from __future__ import annotations

import hashlib
import io
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunks.chunker import cut
from chunks.layout import (
    DEFAULT_IMAGE_BYTES_MAX,
    check_parameters,
    default_parameters,
    fixed_parameters,
)
from protocol.errors import PolicyError
from protocol.limits import IMAGE_BYTES_MAX, MIB
from protocol.manifest import DEFAULT_CHUNKER, LARGE_CHUNKER, ChunkerKind, ChunkerParameters
from tests.chunks.chunk_images import SMALL_CDC, generated
from tests.chunks.fastcdc_reference import cut_lengths

VECTORS = Path(__file__).parents[1] / "vectors" / "chunks"


def fastcdc(minimum: int, average: int, maximum: int) -> ChunkerParameters:
    return ChunkerParameters(
        kind=ChunkerKind.FASTCDC, minimum=minimum, average=average, maximum=maximum
    )


def library_lengths(data: bytes, parameters: ChunkerParameters) -> list[int]:
    chunks = [bytes(chunk) for chunk in cut(io.BytesIO(data), parameters)]
    assert b"".join(chunks) == data
    return [len(chunk) for chunk in chunks]


@st.composite
def parameters(draw: st.DrawFn) -> ChunkerParameters:
    average = 2 ** draw(st.integers(8, 11))
    minimum = draw(st.integers(32, average // 2)) * 2
    maximum = draw(st.integers(max(512, average // 2), 2_048)) * 2
    return fastcdc(minimum, average, maximum)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 12_000), st.integers(0, 1_000), st.integers(1, 256), parameters())
def test_the_library_cuts_as_specified(
    size: int, seed: int, alphabet: int, chosen: ChunkerParameters
) -> None:
    data = bytes(value % alphabet for value in generated(f"cut {seed}", size))
    assert library_lengths(data, chosen) == cut_lengths(
        data, chosen.minimum, chosen.average, chosen.maximum
    )


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=5_000))
def test_the_library_cuts_any_bytes_as_specified(data: bytes) -> None:
    assert library_lengths(data, SMALL_CDC) == cut_lengths(data, 64, 256, 1024)


@pytest.mark.slow
@pytest.mark.parametrize("bits", range(8, 19))
def test_every_mask_of_the_table(bits: int) -> None:
    average = 2**bits
    chosen = fastcdc(max(64, average // 4), average, max(1024, average * 4))
    data = generated(f"bits {bits}", 3 * average)
    assert library_lengths(data, chosen) == cut_lengths(
        data, chosen.minimum, chosen.average, chosen.maximum
    )


def vectors() -> list[dict[str, object]]:
    loaded = json.loads((VECTORS / "cuts.json").read_text())
    assert isinstance(loaded, list)
    return loaded


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: str(vector["name"]))
def test_vectors(vector: dict[str, object]) -> None:
    data = generated(str(vector["seed"]), int(str(vector["size"])))
    if vector["repeat"]:
        data *= int(str(vector["repeat"]))
    kind, minimum, average, maximum = vector["parameters"]  # type: ignore[misc]
    chosen = ChunkerParameters(
        kind=ChunkerKind(kind), minimum=minimum, average=average, maximum=maximum
    )
    assert hashlib.sha256(data).hexdigest() == vector["image"]
    assert library_lengths(data, chosen) == vector["lengths"]


def test_an_insertion_moves_only_nearby_cuts() -> None:
    data = generated("shift", 200_000)
    changed = data[:100_000] + b"inserted" + data[100_000:]
    before = {bytes(chunk) for chunk in cut(io.BytesIO(data), SMALL_CDC)}
    after = [bytes(chunk) for chunk in cut(io.BytesIO(changed), SMALL_CDC)]
    assert sum(chunk not in before for chunk in after) <= 5


class _Trickle:
    """Gives what a slow pipe would: one to seven bytes at a time."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def readinto(self, buffer: memoryview, /) -> int:
        part = self._data[self._offset : self._offset + min(len(buffer), self._offset % 7 + 1)]
        buffer[: len(part)] = part
        self._offset += len(part)
        return len(part)


@pytest.mark.parametrize("chosen", [SMALL_CDC, fixed_parameters(1_000)])
def test_short_reads_change_nothing(chosen: ChunkerParameters) -> None:
    data = generated("trickle", 20_000)
    assert [len(c) for c in cut(_Trickle(data), chosen)] == library_lengths(data, chosen)


@given(st.integers(0, 3_000), st.integers(1, 1_200))
def test_fixed_cuts(size: int, chunk_bytes: int) -> None:
    lengths = library_lengths(bytes(size), fixed_parameters(chunk_bytes))
    assert sum(lengths) == size
    assert all(length == chunk_bytes for length in lengths[:-1])


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [DEFAULT_CHUNKER, fixed_parameters(MIB)])
def test_memory_is_bounded_whatever_the_length(chosen: ChunkerParameters) -> None:
    class Endless:
        left = 64 * MIB

        def readinto(self, buffer: memoryview, /) -> int:
            count = min(len(buffer), self.left)
            self.left -= count
            return count

    tracemalloc.start()
    try:
        assert sum(len(chunk) for chunk in cut(Endless(), chosen)) == 64 * MIB
        assert tracemalloc.get_traced_memory()[1] < 3 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("minimum", "average", "maximum", "rule"),
    [
        (64, 128, 1024, "chunker.average"),
        (64, 2**19, 2**20, "chunker.average"),
        (62, 256, 1024, "chunker.bounds"),
        (64, 256, 1022, "chunker.bounds"),
        (65, 256, 1024, "chunker.odd"),
        (64, 256, 1025, "chunker.odd"),
    ],
)
def test_parameters_outside_the_specification(
    minimum: int, average: int, maximum: int, rule: str
) -> None:
    with pytest.raises(PolicyError) as caught:
        # Refused before anything is read.
        cut(io.BytesIO(b""), fastcdc(minimum, average, maximum))
    assert caught.value.rule == rule


def test_the_defaults_are_within_the_specification() -> None:
    for chosen in (DEFAULT_CHUNKER, LARGE_CHUNKER, fixed_parameters(1), fixed_parameters(MIB)):
        check_parameters(chosen)


def test_default_parameters() -> None:
    assert default_parameters(1) is DEFAULT_CHUNKER
    assert default_parameters(DEFAULT_IMAGE_BYTES_MAX) is DEFAULT_CHUNKER
    assert default_parameters(DEFAULT_IMAGE_BYTES_MAX + 1) is LARGE_CHUNKER
    assert DEFAULT_CHUNKER.average == 16 * 1024
    for size in (0, -1, IMAGE_BYTES_MAX + 1):
        with pytest.raises(PolicyError):
            default_parameters(size)
