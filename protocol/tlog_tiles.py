"""The log as static files: tiles of hashes and bundles of entries (c2sp.org/tlog-tiles).

A tile holds up to 256 hashes of one level of an RFC 6962 tree, eight levels apart from the next. A
full tile never changes; the right edge consists of partial ones. The reading side believes nothing
but the checkpoint: every tile is authenticated from the root down before a hash of it is used.
Rules: docs/spec/tlog.md, T20 to T27.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.digest import DIGEST_BYTES, Digest
from protocol.errors import EncodingError, LocalProtocolError, VerificationError
from protocol.merkle import EMPTY_ROOT, leaf_hash, merkle_root, node_hash
from protocol.tlog import Checkpoint

TILE_HEIGHT: Final = 8
"""Levels of the tree that one tile spans."""
TILE_WIDTH: Final = 1 << TILE_HEIGHT
"""Hashes of a full tile, and entries of a full bundle."""
TILE_BYTES_MAX: Final = TILE_WIDTH * DIGEST_BYTES
"""A full tile, bytes."""
ENTRY_BYTES_MAX: Final = 2**16 - 1
"""Longest entry of a bundle: its length takes two bytes."""
BUNDLE_BYTES_MAX: Final = TILE_WIDTH * (2 + ENTRY_BYTES_MAX)
"""A full bundle of the longest entries, bytes."""
TILE_LEVEL_MAX: Final = 7
"""Highest level of a tree of up to 2^63 entries."""
TILES_KEPT_MAX: Final = 64
"""Tiles that a reader keeps: 512 KiB."""


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """Names one tile."""

    level: int
    """0: leaf hashes; each further level spans 256 times as many entries."""
    index: int
    """Position within the level, from 0."""
    width: int
    """Hashes in it, 1 to 256."""

    @property
    def path(self) -> str:
        """Where it is found below a log's prefix."""
        return f"tile/{self.level}/{_index_path(self.index, self.width)}"

    @property
    def bundle_path(self) -> str:
        """Where the entries under a tile of level 0 are found."""
        if self.level:
            raise LocalProtocolError(f"no entry bundle at level {self.level}")
        return f"tile/entries/{_index_path(self.index, self.width)}"


def _index_path(index: int, width: int) -> str:
    """The index in elements of three digits, all but the last behind an x."""
    digits = str(index)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    parts = [digits[start : start + 3] for start in range(0, len(digits), 3)]
    path = "/".join([*(f"x{part}" for part in parts[:-1]), parts[-1]])
    return path if width == TILE_WIDTH else f"{path}.p/{width}"


def tiles_of(size: int, *, since: int = 0) -> Iterator[Tile]:
    """All tiles of a tree, level by level from 0 and left to right within each.

    Args:
        size: entries of the tree.
        since: leave out tiles that the tree of this many entries had already.
    """
    for level in range(TILE_LEVEL_MAX + 1):
        shift = TILE_HEIGHT * level
        count, known = size >> shift, since >> shift
        if count == 0:
            return
        for index in range(known >> TILE_HEIGHT, (count + TILE_WIDTH - 1) >> TILE_HEIGHT):
            width = min(TILE_WIDTH, count - (index << TILE_HEIGHT))
            if width > known - (index << TILE_HEIGHT):
                yield Tile(level, index, width)


def encode_tile(hashes: Sequence[bytes]) -> bytes:
    """A tile's bytes: its hashes one after the other."""
    if not 1 <= len(hashes) <= TILE_WIDTH:
        raise LocalProtocolError(f"tile of {len(hashes)} hashes")
    return b"".join(hashes)


def decode_tile(data: bytes, width: int) -> tuple[Digest, ...]:
    """Reads a tile of known width.

    Raises:
        EncodingError: of another length.
    """
    if len(data) != width * DIGEST_BYTES:
        raise EncodingError(f"tile of {len(data)} bytes, expected {width} hashes")
    return tuple(
        Digest(data[start : start + DIGEST_BYTES]) for start in range(0, len(data), DIGEST_BYTES)
    )


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """An entry bundle's bytes: each entry behind its length, two bytes, big-endian."""
    if not 1 <= len(entries) <= TILE_WIDTH or any(len(e) > ENTRY_BYTES_MAX for e in entries):
        raise LocalProtocolError(f"bundle of {len(entries)} entries, or one of over 65,535 bytes")
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def decode_bundle(data: bytes, width: int) -> tuple[bytes, ...]:
    """Reads an entry bundle of known width.

    Raises:
        EncodingError: truncated, or not of `width` entries.
    """
    entries: list[bytes] = []
    position = 0
    while position < len(data) and len(entries) < width:
        end = position + 2 + int.from_bytes(data[position : position + 2], "big")
        if position + 2 > len(data) or end > len(data):
            raise EncodingError("entry bundle: truncated")
        entries.append(data[position + 2 : end])
        position = end
    if position != len(data) or len(entries) != width:
        raise EncodingError(f"entry bundle of {len(entries)} or more entries, expected {width}")
    return tuple(entries)


class TiledLog:
    """Reads a log of static files and believes only what its checkpoint commits to."""

    def __init__(self, checkpoint: Checkpoint, read: Callable[[str], bytes]) -> None:
        """Reads the right edge of the tree and checks that it leads to the root.

        Args:
            checkpoint: the verified head.
            read: gives the bytes behind a path such as `tile/0/000`; bounds what it reads by
                `BUNDLE_BYTES_MAX`, and its errors pass through.

        Raises:
            VerificationError: the tiles do not lead to the checkpoint's root.
        """
        self._read = read
        self._size = checkpoint.size
        self._kept: dict[Tile, tuple[Digest, ...]] = {}
        self._edge = {
            tile: decode_tile(read(tile.path), tile.width)
            for tile in tiles_of(self._size)
            if tile.width < TILE_WIDTH and tile.index == self._size >> (8 * (tile.level + 1))
        }
        root = self._edge_root()
        if root != checkpoint.root:
            raise VerificationError(
                f"tiles lead to root {root.hex()[:8]}, the checkpoint says "
                f"{checkpoint.root.hex()[:8]}"
            )

    def _edge_root(self) -> Digest:
        """The root over the perfect subtrees at the right edge, from right to left."""
        root: Digest | None = None
        for tile in sorted(self._edge):
            hashes, end = self._edge[tile], tile.width
            while end:
                start = end & (end - 1)
                part = merkle_root(hashes[start:end])
                root = part if root is None else node_hash(part, root)
                end = start
        return EMPTY_ROOT if root is None else root

    @property
    def size(self) -> int:
        """Entries of the log."""
        return self._size

    def hashes(self, tile: Tile) -> tuple[Digest, ...]:
        """The authenticated hashes of a tile.

        Raises:
            VerificationError: what was read is not what the tile above names.
            LocalProtocolError: the log has no such tile.
        """
        known = self._edge.get(tile) or self._kept.get(tile)
        if known is not None:
            return known
        if tile.width != TILE_WIDTH or (tile.index + 1) << (8 * (tile.level + 1)) > self._size:
            raise LocalProtocolError(f"a log of {self._size} entries has no {tile.path}")
        read = decode_tile(self._read(tile.path), TILE_WIDTH)
        expected = self.subtree(TILE_HEIGHT * (tile.level + 1), tile.index)
        if merkle_root(read) != expected:
            raise VerificationError(f"{tile.path} is not what the tile above it names")
        if len(self._kept) >= TILES_KEPT_MAX:
            self._kept.pop(next(iter(self._kept)))
        self._kept[tile] = read
        return read

    def subtree(self, level: int, index: int) -> Digest:
        """Root of the complete subtree over entries [index 2^level, (index + 1) 2^level)."""
        tile_level, inner = divmod(level, TILE_HEIGHT)
        first = index << inner
        position = first & (TILE_WIDTH - 1)
        hashes = self.hashes(self._tile(tile_level, first >> TILE_HEIGHT))
        return merkle_root(hashes[position : position + (1 << inner)])

    def _tile(self, level: int, index: int) -> Tile:
        width = (self._size >> (TILE_HEIGHT * level)) - (index << TILE_HEIGHT)
        return Tile(level, index, min(max(width, 0), TILE_WIDTH))

    def entries(self, index: int) -> tuple[bytes, ...]:
        """The authenticated entries of bundle `index`.

        Raises:
            VerificationError: an entry is not what its leaf hash says.
            LocalProtocolError: the log has no such bundle.
        """
        tile = self._tile(0, index)
        hashes = self.hashes(tile)
        entries = decode_bundle(self._read(tile.bundle_path), tile.width)
        if tuple(leaf_hash(entry) for entry in entries) != hashes:
            raise VerificationError(f"{tile.bundle_path} holds other entries than its tile says")
        return entries

    def inclusion_proof(self, index: int) -> tuple[Digest, ...]:
        """The audit path of an entry (RFC 6962, 2.1.1), leaf side first.

        Raises:
            LocalProtocolError: there is no such entry.
        """
        if not 0 <= index < self._size:
            raise LocalProtocolError(f"no entry {index} in a log of {self._size}")
        path: list[Digest] = []
        start, end = 0, self._size
        while end - start > 1:
            split = start + (1 << (end - start - 1).bit_length() - 1)
            if index < split:
                path.append(self._range_root(split, end))
                end = split
            else:
                path.append(self._range_root(start, split))
                start = split
        return tuple(reversed(path))

    def _range_root(self, start: int, end: int) -> Digest:
        """Root over entries [start, end), where `start` is aligned as in an audit path."""
        parts: list[Digest] = []
        while start < end:
            level = (end - start).bit_length() - 1
            parts.append(self.subtree(level, start >> level))
            start += 1 << level
        root = parts.pop()
        while parts:
            root = node_hash(parts.pop(), root)
        return root
