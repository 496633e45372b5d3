"""Pages of a recipe: how it travels, 1,024 leaves at a time, each page verifiable by itself.

A page's leaves are an aligned subtree of the recipe's tree, so its range proof (the subtree hashes
outside the page) is the audit path of the page's root in the tree over all page roots: at most 8
hashes. Page count, leaves per page and proof length all follow from the manifest's chunk count, so
a page that was not asked for in this shape is refused before anything is kept of it.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from itertools import chain
from typing import Final

from chunks.recipe import Recipe, recipe_leaves
from protocol.digest import DIGEST_BYTES, Digest
from protocol.encoding import Fields, decode_canonical, encode_canonical
from protocol.errors import EncodingError, LocalProtocolError, VerificationError
from protocol.limits import (
    CHUNK_BYTES_MAX,
    CHUNKS_PER_COMPONENT_MAX,
    IMAGE_BYTES_MAX,
    RECIPE_PAGE_LEAVES,
)
from protocol.merkle import inclusion_proof, merkle_root, verify_inclusion

RECIPE_PAGES_MAX: Final = CHUNKS_PER_COMPONENT_MAX // RECIPE_PAGE_LEAVES
"""Pages of the largest recipe: 256."""
RECIPE_PROOF_HASHES_MAX: Final = (RECIPE_PAGES_MAX - 1).bit_length()
"""Hashes of the longest range proof: 8."""
LENGTH_BYTES: Final = 4
"""Bytes of a packed length, big-endian."""
RECIPE_PAGE_BYTES_MAX: Final = (
    RECIPE_PAGE_LEAVES * (LENGTH_BYTES + DIGEST_BYTES)
    + RECIPE_PROOF_HASHES_MAX * (DIGEST_BYTES + 2)
    + 32
)
"""Encoded page: leaves, proof, and 32 bytes for the heads of map, index, strings and array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipePage:
    """Some consecutive chunks of a recipe with the proof that they stand there."""

    page_index: int
    """The page holds chunks from `1024 * page_index` on; 0 to 255."""
    lengths: tuple[int, ...]
    """Bytes of each chunk, 1 to 1 MiB; 1,024 of them, fewer only on the last page."""
    digests: bytes
    """SHA-256 digests of the chunks, concatenated."""
    proof: tuple[Digest, ...]
    """Range proof: roots of the sibling subtrees, page side first, up to 8."""

    def __post_init__(self) -> None:
        """Refuses a page whose parts cannot belong together."""
        if not 0 <= self.page_index < RECIPE_PAGES_MAX:
            raise EncodingError(f"recipe page {self.page_index}, at most {RECIPE_PAGES_MAX - 1}")
        if not 1 <= len(self.lengths) <= RECIPE_PAGE_LEAVES:
            raise EncodingError(f"recipe page of {len(self.lengths)} chunks")
        if len(self.digests) != DIGEST_BYTES * len(self.lengths):
            raise EncodingError(
                f"recipe page of {len(self.lengths)} lengths, {len(self.digests)} digest bytes"
            )
        if not 1 <= min(self.lengths) <= max(self.lengths) <= CHUNK_BYTES_MAX:
            raise EncodingError(f"recipe page with a chunk outside 1 to {CHUNK_BYTES_MAX} bytes")
        if len(self.proof) > RECIPE_PROOF_HASHES_MAX:
            raise EncodingError(f"range proof of {len(self.proof)} hashes")

    @property
    def size_bytes(self) -> int:
        """Bytes of all chunks on the page."""
        return sum(self.lengths)

    @property
    def root(self) -> Digest:
        """Root of the page's own subtree."""
        return merkle_root(recipe_leaves(self.lengths, self.digests))

    def encode(self) -> bytes:
        """The wire form (docs/spec/chunks.md, section 2)."""
        packed = struct.pack(f">{len(self.lengths)}I", *self.lengths)
        return encode_canonical(
            {0: self.page_index, 1: packed, 2: self.digests, 3: list(self.proof)}
        )


def decode_recipe_page(data: bytes) -> RecipePage:
    """Reads a page from a peer; says nothing yet about its truth (`verify_page` does).

    Raises:
        EncodingError: not the canonical encoding of a page within all bounds.
    """
    fields = Fields(decode_canonical(data, bytes_max=RECIPE_PAGE_BYTES_MAX), "recipe page")
    packed = fields.bytes(1, maximum=RECIPE_PAGE_LEAVES * LENGTH_BYTES)
    if len(packed) % LENGTH_BYTES:
        raise EncodingError(f"recipe page: {len(packed)} bytes are no list of lengths")
    page = RecipePage(
        page_index=fields.uint(0, maximum=RECIPE_PAGES_MAX - 1),
        lengths=struct.unpack(f">{len(packed) // LENGTH_BYTES}I", packed),
        digests=fields.bytes(2, maximum=RECIPE_PAGE_LEAVES * DIGEST_BYTES),
        proof=fields.digests(3, maximum=RECIPE_PROOF_HASHES_MAX),
    )
    fields.finish()
    return page


def page_count(chunk_count: int) -> int:
    """Pages of a recipe of `chunk_count` chunks."""
    return -(-chunk_count // RECIPE_PAGE_LEAVES)


def page_leaf_count(page_index: int, chunk_count: int) -> int:
    """Chunks on page `page_index` of a recipe of `chunk_count` chunks."""
    return min(RECIPE_PAGE_LEAVES, chunk_count - page_index * RECIPE_PAGE_LEAVES)


def make_page(recipe: Recipe, page_index: int) -> RecipePage:
    """Makes one page; hashes the whole recipe, so use `make_pages` or `RecipePager` for several.

    Raises:
        LocalProtocolError: the recipe has no such page.
    """
    return RecipePager(recipe).page(page_index)


def make_pages(recipe: Recipe) -> tuple[RecipePage, ...]:
    """Makes all pages of a recipe."""
    pager = RecipePager(recipe)
    return tuple(pager.page(index) for index in range(pager.page_count))


class RecipePager:
    """Serves the pages of one recipe, hashing it once; keeps 32 bytes a page."""

    def __init__(self, recipe: Recipe) -> None:
        """Hashes the recipe."""
        self._recipe = recipe
        self._roots = [
            merkle_root(recipe.leaves(*_page_bounds(index, recipe.chunk_count)))
            for index in range(page_count(recipe.chunk_count))
        ]

    @property
    def page_count(self) -> int:
        """Pages, 1 to 256."""
        return len(self._roots)

    @property
    def root(self) -> Digest:
        """The recipe's root."""
        return merkle_root(self._roots)

    def page(self, page_index: int) -> RecipePage:
        """Makes page `page_index`.

        Raises:
            LocalProtocolError: there is no such page.
        """
        proof = inclusion_proof(self._roots, page_index)
        start, stop = _page_bounds(page_index, self._recipe.chunk_count)
        return RecipePage(
            page_index=page_index,
            lengths=tuple(self._recipe.lengths[start:stop]),
            digests=self._recipe.digests[start * DIGEST_BYTES : stop * DIGEST_BYTES],
            proof=proof,
        )


def verify_page(page: RecipePage, root: Digest, chunk_count: int) -> None:
    """Checks that a page belongs to the recipe a manifest names.

    Args:
        page: as decoded.
        root: the manifest's recipe root.
        chunk_count: the manifest's chunk count.

    Raises:
        VerificationError: no such page, another number of chunks, or a proof that does not lead
            to `root`.
    """
    pages = page_count(chunk_count)
    if not 0 <= page.page_index < pages:
        raise VerificationError(f"recipe page {page.page_index} of {pages}")
    expected = page_leaf_count(page.page_index, chunk_count)
    if len(page.lengths) != expected:
        raise VerificationError(
            f"recipe page {page.page_index} of {len(page.lengths)} chunks, expected {expected}"
        )
    verify_inclusion(page.root, index=page.page_index, size=pages, proof=page.proof, root=root)


class RecipeAssembler:
    """Collects pages, in any order and from anyone, into the recipe a manifest names.

    Not thread-safe; pure. Keeps only verified pages, so memory is bounded by the manifest's count.
    """

    def __init__(
        self,
        *,
        root: Digest,
        chunk_count: int,
        size_bytes: int,
        chunk_bytes_max: int = CHUNK_BYTES_MAX,
    ) -> None:
        """Starts with no page.

        Args:
            root: the manifest's recipe root.
            chunk_count: the manifest's chunk count.
            size_bytes: the component's size.
            chunk_bytes_max: the maximum of the component's chunker parameters.

        Raises:
            LocalProtocolError: numbers no valid manifest carries.
        """
        if not 1 <= chunk_count <= CHUNKS_PER_COMPONENT_MAX or not (
            chunk_count <= size_bytes <= IMAGE_BYTES_MAX
        ):
            raise LocalProtocolError(f"no recipe has {chunk_count} chunks in {size_bytes} bytes")
        self._root = root
        self._chunk_count = chunk_count
        self._size_bytes = size_bytes
        self._chunk_bytes_max = chunk_bytes_max
        self._pages: dict[int, RecipePage] = {}
        self._bytes_known = 0

    @property
    def page_count(self) -> int:
        """Pages of the whole recipe."""
        return page_count(self._chunk_count)

    @property
    def is_complete(self) -> bool:
        """Whether every page is here."""
        return len(self._pages) == self.page_count

    def missing(self) -> tuple[int, ...]:
        """Indices of the pages still needed, ascending."""
        return tuple(i for i in range(self.page_count) if i not in self._pages)

    def add(self, page: RecipePage) -> bool:
        """Verifies a page and keeps it.

        Returns:
            Whether it was new.

        Raises:
            VerificationError: the page is not of this recipe (blame its sender), or it is and
                contradicts the manifest's sizes (blame the publisher: no page will mend it).
        """
        verify_page(page, self._root, self._chunk_count)
        if page.page_index in self._pages:
            return False
        if max(page.lengths) > self._chunk_bytes_max:
            raise RecipeContradictionError(
                f"chunk of {max(page.lengths)} bytes, the manifest says {self._chunk_bytes_max}"
            )
        known = self._bytes_known + page.size_bytes
        unknown_chunks = (
            self._chunk_count
            - len(page.lengths)
            - sum(len(kept.lengths) for kept in self._pages.values())
        )
        # Every chunk still unknown has at least one byte.
        if known + unknown_chunks > self._size_bytes or (
            unknown_chunks == 0 and known != self._size_bytes
        ):
            raise RecipeContradictionError(
                f"recipe of {known} bytes and {unknown_chunks} more chunks, "
                f"the manifest says {self._size_bytes} bytes"
            )
        self._pages[page.page_index] = page
        self._bytes_known = known
        return True

    def recipe(self) -> Recipe:
        """Gives the complete recipe.

        Raises:
            LocalProtocolError: pages are missing.
        """
        if not self.is_complete:
            raise LocalProtocolError(f"{len(self.missing())} recipe pages are missing")
        ordered = [self._pages[index] for index in range(self.page_count)]
        return Recipe(
            array("I", chain.from_iterable(page.lengths for page in ordered)),
            b"".join(page.digests for page in ordered),
            root=self._root,
        )


class RecipeContradictionError(VerificationError):
    """A recipe leads to the manifest's root but contradicts its sizes: the publisher's fault."""


def _page_bounds(page_index: int, chunk_count: int) -> tuple[int, int]:
    start = page_index * RECIPE_PAGE_LEAVES
    return start, start + page_leaf_count(page_index, chunk_count)
