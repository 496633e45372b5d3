"""Generated images and small helpers for the tests of chunks; deterministic, nobody else's data."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from chunks.bitmap import Bitmap
from chunks.chunker import cut
from chunks.layout import fixed_parameters
from chunks.recipe import Recipe, RecipeBuilder
from chunks.store import ChunkStore, Download
from protocol.digest import Digest, sha256
from protocol.manifest import ChunkerKind, ChunkerParameters

SMALL_CDC = ChunkerParameters(kind=ChunkerKind.FASTCDC, minimum=64, average=256, maximum=1024)
"""The smallest FastCDC of the specification: many chunks from little data."""
FIXED_1000 = fixed_parameters(1000)


def generated(seed: str, size: int) -> bytes:
    """SHA-256 in counter mode: H(seed || counter as 8 bytes, big-endian), concatenated."""
    blocks = (
        hashlib.sha256(seed.encode() + counter.to_bytes(8, "big")).digest()
        for counter in range(-(-size // 32))
    )
    return b"".join(blocks)[:size]


def recipe_of(data: bytes, parameters: ChunkerParameters = FIXED_1000) -> Recipe:
    builder = RecipeBuilder()
    for chunk in cut(io.BytesIO(data), parameters):
        builder.add(len(chunk), sha256(chunk))
    return builder.build()


def chunk_of(data: bytes, recipe: Recipe, index: int) -> bytes:
    start = recipe.offset(index)
    return data[start : start + recipe.length(index)]


class Sample:
    """An image with its recipe."""

    def __init__(self, data: bytes, parameters: ChunkerParameters = FIXED_1000) -> None:
        self.data = data
        self.parameters = parameters
        self.image: Digest = sha256(data)
        self.recipe = recipe_of(data, parameters)

    def __repr__(self) -> str:
        return f"Sample({len(self.data)} bytes, {self.recipe.chunk_count} chunks)"

    @property
    def indices(self) -> range:
        return range(self.recipe.chunk_count)

    def chunk(self, index: int) -> bytes:
        return chunk_of(self.data, self.recipe, index)

    def begin(self, store: ChunkStore) -> Download:
        return store.begin(self.image, len(self.data), self.recipe)

    def fetch(self, store: ChunkStore) -> Download:
        """Begins or resumes and writes every missing chunk; does not finish."""
        download = self.begin(store)
        for index in self.missing(store):
            store.write_chunk(download, index, self.chunk(index))
        return download

    def install(self, store: ChunkStore) -> None:
        store.finish(self.fetch(store))

    def missing(self, store: ChunkStore) -> list[int]:
        return list(self.have(store).missing())

    def have(self, store: ChunkStore) -> Bitmap:
        return Bitmap.decode(store.have(self.image), self.recipe.chunk_count)

    def file(self, directory: Path) -> Path:
        path = directory / f"{self.image.hex()[:8]}.img"
        path.write_bytes(self.data)
        return path


def sample(seed: str = "a", size: int = 7_500) -> Sample:
    """An image of 1,000-byte chunks with a shorter one at the end."""
    return Sample(generated(seed, size))
