"""The recipe of a component: its chunks in order, under one Merkle root.

Leaf = H(0x00 || CBOR[length, digest]) (docs/spec/chunks.md, section 1), tree as in RFC 6962. The
manifest carries the root, the chunk count and the size; everything in a recipe that came from a
peer is checked against these before memory proportional to it is taken.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Final

from protocol.digest import DIGEST_BYTES, ChunkId, Digest
from protocol.encoding import encode_canonical
from protocol.errors import LocalProtocolError, VerificationError
from protocol.limits import CHUNK_BYTES_MAX, CHUNKS_PER_COMPONENT_MAX, IMAGE_BYTES_MAX
from protocol.merkle import leaf_hash, merkle_root

_ITEM_TYPE: Final = "I"
"""Array type of lengths: unsigned, 4 bytes on every platform CPython supports."""
_OFFSET_TYPE: Final = "Q"
"""Array type of offsets: unsigned, 8 bytes; an image has up to 2^34 bytes."""


def recipe_leaf(length: int, chunk: bytes) -> Digest:
    """Hashes one recipe entry into its Merkle leaf."""
    return leaf_hash(encode_canonical([length, bytes(chunk)]))


def recipe_leaves(lengths: Sequence[int], digests: bytes) -> list[Digest]:
    """Hashes many entries as `recipe_leaf` does, at a tenth of the cost.

    The encoding of [length, digest] is written out: an image of a gibibyte has fifty thousand.
    """
    hash_of, heads = hashlib.sha256, map(_leaf_head, lengths)
    return [
        Digest(hash_of(head + digests[start : start + DIGEST_BYTES]).digest())
        for head, start in zip(heads, range(0, len(digests), DIGEST_BYTES), strict=True)
    ]


def _leaf_head(length: int) -> bytes:
    """What stands before the digest in a leaf's input: RFC 6962's 0x00, and canonical CBOR."""
    if length >= 65536:
        return b"\x00\x82\x1a%b\x58\x20" % length.to_bytes(4, "big")
    if length >= 256:
        return b"\x00\x82\x19%b\x58\x20" % length.to_bytes(2, "big")
    return b"\x00\x82%b\x58\x20" % (bytes((length,)) if length < 24 else bytes((0x18, length)))


class Recipe:
    """Lengths and digests of a component's chunks; immutable, 44 bytes a chunk.

    Thread-safe: nothing changes after construction but caches of equal values.
    """

    def __init__(
        self, lengths: Iterable[int], digests: bytes, *, root: Digest | None = None
    ) -> None:
        """Takes over what is known to be true: own cuts, or verified pages.

        Args:
            lengths: bytes of each chunk.
            digests: their SHA-256 digests, concatenated.
            root: the Merkle root, if the caller has proved it; None: computed when it is needed.

        Raises:
            VerificationError: no chunk or over 2^18, a length of zero or over 1 MiB, a number of
                digests that differs from that of the lengths, or over 16 GiB in all.
        """
        self._lengths = _bounded_lengths(lengths)
        self._digests = bytes(digests)
        if not self._lengths or len(self._digests) != DIGEST_BYTES * len(self._lengths):
            raise VerificationError(
                f"recipe of {len(self._lengths)} lengths and {len(self._digests)} digest bytes"
            )
        self._offsets = array(_OFFSET_TYPE, accumulate(self._lengths, initial=0))
        if root is not None:
            self.root = root
        if self.size_bytes > IMAGE_BYTES_MAX:
            raise VerificationError(f"recipe of {self.size_bytes} bytes, over {IMAGE_BYTES_MAX}")

    @property
    def chunk_count(self) -> int:
        """Chunks, 1 to 2^18."""
        return len(self._lengths)

    @property
    def size_bytes(self) -> int:
        """Bytes of the component as stored."""
        return self._offsets[-1]

    @property
    def lengths(self) -> Sequence[int]:
        """Bytes of each chunk; do not modify."""
        return self._lengths

    @property
    def digests(self) -> bytes:
        """Digests of all chunks, concatenated."""
        return self._digests

    def length(self, index: int) -> int:
        """Bytes of chunk `index`."""
        return self._lengths[self._checked(index)]

    def offset(self, index: int) -> int:
        """Where chunk `index` starts in the image, bytes."""
        return self._offsets[self._checked(index)]

    def digest(self, index: int) -> ChunkId:
        """SHA-256 of chunk `index` as stored."""
        start = self._checked(index) * DIGEST_BYTES
        return ChunkId(self._digests[start : start + DIGEST_BYTES])

    def each_digest(self) -> list[ChunkId]:
        """SHA-256 of every chunk."""
        digests = self._digests
        return [
            ChunkId(digests[start : start + DIGEST_BYTES])
            for start in range(0, len(digests), DIGEST_BYTES)
        ]

    @property
    def offsets(self) -> Sequence[int]:
        """Where each chunk starts, and behind them the image's size; do not modify."""
        return self._offsets

    def index_at(self, offset: int) -> int:
        """Finds the chunk that holds byte `offset` of the image.

        Raises:
            LocalProtocolError: the image has no such byte.
        """
        if not 0 <= offset < self.size_bytes:
            raise LocalProtocolError(f"no byte {offset} in an image of {self.size_bytes}")
        return bisect_right(self._offsets, offset) - 1

    def span_bytes(self, first: int, count: int) -> int:
        """Bytes of `count` chunks from `first` on."""
        return self._offsets[self._checked(first) + count] - self._offsets[first]

    def prefix_count(self, first: int, count: int, size_bytes: int) -> int:
        """How many of `count` chunks from `first` on have at most `size_bytes` together."""
        limit = self._offsets[self._checked(first)] + size_bytes
        return bisect_right(self._offsets, limit, first, first + count + 1) - 1 - first

    def run_count(self, first: int, size_bytes: int) -> int:
        """How many chunks from `first` on have `size_bytes` together.

        Raises:
            LocalProtocolError: there is no such chunk, or no chunk ends there.
        """
        end = self._offsets[self._checked(first)] + size_bytes
        position = bisect_left(self._offsets, end, first)
        if position == first or position >= len(self._offsets) or self._offsets[position] != end:
            raise LocalProtocolError(f"{size_bytes} bytes from chunk {first} end within a chunk")
        return position - first

    def leaves(self, start: int = 0, stop: int | None = None) -> list[Digest]:
        """Leaf hashes of chunks `start` up to, not including, `stop` (default: all)."""
        end = self.chunk_count if stop is None else stop
        if not 0 <= start <= end <= self.chunk_count:
            raise LocalProtocolError(f"no leaves {start} to {end} among {self.chunk_count}")
        digests = self._digests[start * DIGEST_BYTES : end * DIGEST_BYTES]
        return recipe_leaves(self._lengths[start:end], digests)

    @cached_property
    def root(self) -> Digest:
        """The RFC 6962 root that the manifest carries."""
        return merkle_root(self.leaves())

    @cached_property
    def repeats(self) -> dict[ChunkId, array[int]]:
        """Indices of each chunk that stands more than once in the image, ascending."""
        first: dict[ChunkId, int] = {}
        repeats: dict[ChunkId, array[int]] = {}
        chunks = self.each_digest()
        if len(set(chunks)) == self.chunk_count:
            return repeats
        for index, chunk in enumerate(chunks):
            earlier = first.setdefault(chunk, index)
            # Equal digests with other lengths are a recipe no honest publisher makes.
            if earlier != index and self._lengths[earlier] == self._lengths[index]:
                repeats.setdefault(chunk, array(_ITEM_TYPE, [earlier])).append(index)
        return repeats

    def __eq__(self, other: object) -> bool:
        """Compares every length and digest."""
        if not isinstance(other, Recipe):
            return NotImplemented
        return self._lengths == other._lengths and self._digests == other._digests

    def __hash__(self) -> int:
        """Hashes by the digests."""
        return hash(self._digests)

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self._lengths):
            raise LocalProtocolError(f"no chunk {index} in a recipe of {len(self._lengths)}")
        return index


class RecipeBuilder:
    """Collects chunks while an image is cut."""

    def __init__(self) -> None:
        self._lengths = array(_ITEM_TYPE)
        self._digests = bytearray()

    @property
    def chunk_count(self) -> int:
        """Chunks so far."""
        return len(self._lengths)

    def add(self, length: int, chunk: bytes) -> None:
        """Appends a chunk of `length` bytes with its digest."""
        self._lengths.append(length)
        self._digests += chunk

    def build(self) -> Recipe:
        """Makes the recipe; `VerificationError` as in `Recipe`."""
        return Recipe(self._lengths, bytes(self._digests))


def _bounded_lengths(lengths: Iterable[int]) -> array[int]:
    if (
        isinstance(lengths, array)
        and 1 <= len(lengths) <= CHUNKS_PER_COMPONENT_MAX
        and 1 <= min(lengths) <= max(lengths) <= CHUNK_BYTES_MAX
    ):
        return array(_ITEM_TYPE, lengths)
    return array(_ITEM_TYPE, _one_by_one(lengths))


def _one_by_one(lengths: Iterable[int]) -> Iterator[int]:
    for index, length in enumerate(lengths):
        if index >= CHUNKS_PER_COMPONENT_MAX:
            raise VerificationError(f"recipe of over {CHUNKS_PER_COMPONENT_MAX} chunks")
        if not 1 <= length <= CHUNK_BYTES_MAX:
            raise VerificationError(
                f"chunk {index} of {length} bytes, allowed are 1 to {CHUNK_BYTES_MAX}"
            )
        yield length
