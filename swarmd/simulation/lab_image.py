"""Images of a laboratory: random bytes, their chunks and recipe, their name in a manifest."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property

from chunks.layout import fixed_parameters
from chunks.recipe import Recipe
from chunks.recipe_page import RecipePager
from chunks.store import ChunkStore, Download
from protocol.digest import Digest, sha256
from protocol.manifest import Component


@dataclass(frozen=True)
class LabImage:
    """One component's bytes, cut at a fixed size."""

    data: bytes
    """The image."""
    chunk_bytes: int
    """Length of every chunk but the last."""

    @classmethod
    def drawn(cls, chance: random.Random, *, chunk_count: int, chunk_bytes: int) -> LabImage:
        """Draws an image of whole chunks."""
        return cls(chance.randbytes(chunk_count * chunk_bytes), chunk_bytes)

    @cached_property
    def digest(self) -> Digest:
        """SHA-256 of the image."""
        return sha256(self.data)

    @cached_property
    def chunks(self) -> tuple[bytes, ...]:
        """The image in pieces."""
        size = self.chunk_bytes
        return tuple(self.data[start : start + size] for start in range(0, len(self.data), size))

    @cached_property
    def recipe(self) -> Recipe:
        """Lengths and digests of the chunks."""
        digests = b"".join(sha256(chunk) for chunk in self.chunks)
        return Recipe([len(chunk) for chunk in self.chunks], digests)

    @cached_property
    def pages(self) -> tuple[bytes, ...]:
        """The recipe as it travels."""
        pager = RecipePager(self.recipe)
        return tuple(pager.page(number).encode() for number in range(pager.page_count))

    def component(self, name: str = "firmware") -> Component:
        """How a manifest names the image."""
        return Component(
            name=name,
            size=len(self.data),
            digest=self.digest,
            chunker=fixed_parameters(self.chunk_bytes),
            chunk_count=len(self.chunks),
            recipe_root=self.recipe.root,
        )

    def begin(self, store: ChunkStore) -> Download:
        """Begins a download of the image."""
        return store.begin(self.digest, len(self.data), self.recipe)

    def hold(self, store: ChunkStore) -> None:
        """Puts the whole image into a store."""
        download = self.begin(store)
        for index, chunk in enumerate(self.chunks):
            store.write_chunk(download, index, chunk)
        store.finish(download)
