"""Nodes of the state tree: in memory, as references to a store, and as the bytes of a store's rows.

The tree is binary; a store keeps it in *tiles*: a row holds the inner nodes of four levels below a
depth divisible by four and refers to its leaves and to the tiles below it by number and hash. A
reference is followed only when somebody asks for what is behind it, and what is loaded is hashed
before it is believed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from ledger.state_hash import EMPTY_HASH, inner_hash, leaf_hash, path_bit
from protocol.digest import DIGEST_BYTES, Digest, sha256
from protocol.errors import EncodingError

TILE_LEVELS: Final = 4
"""Levels of inner nodes in one row: 16 children, as in the tree this one is compatible with."""
_NUMBER_BYTES: Final = 6
_REFERENCE_BYTES: Final = _NUMBER_BYTES + DIGEST_BYTES
_EMPTY, _LEAF, _INNER, _TILE = range(4)


class NodeSource(Protocol):
    """A store that holds nodes by number."""

    def load(self, stub: Stub) -> Leaf | Inner:
        """Reads the node behind a reference and checks its hash.

        Raises:
            StorageError: it is damaged, or no longer kept.
        """
        ...

    def scan(self, prefix: bytes, root: Stub) -> Iterator[tuple[bytes, bytes | None]]:
        """Keys that start with `prefix`, ascending, with their values under a root.

        Where the store holds another version by now, the value is None and the key may be newer
        than the root: the tree knows.

        Raises:
            StorageError: a row is damaged.
        """
        ...


class Stub:
    """A reference to a stored node."""

    __slots__ = ("hash", "is_leaf", "number", "source")

    def __init__(self, source: NodeSource, number: int, digest: Digest, is_leaf: bool) -> None:
        """Names the node `number` of a store, whose hash is `digest`."""
        self.source = source
        self.number = number
        self.hash = digest
        self.is_leaf = is_leaf

    def load(self) -> Leaf | Inner:
        """The node itself; raises StorageError if it is damaged or no longer kept."""
        return self.source.load(self)


class Leaf:
    """A key with its value; `stub` refers to its row once it is stored."""

    __slots__ = ("hash", "key", "path", "stub", "value")

    def __init__(self, path: bytes, key: bytes, value: bytes) -> None:
        """Makes a leaf at the path of its key."""
        self.path = path
        self.key = key
        self.value = value
        self.hash = leaf_hash(path, sha256(value))
        self.stub: Stub | None = None


class Inner:
    """A node with two subtrees; `stub` refers to the row that begins with it, if one does."""

    __slots__ = ("hash", "left", "right", "stub")

    def __init__(self, left: Node, right: Node) -> None:
        """Joins two subtrees, at least one of them not empty."""
        self.left = left
        self.right = right
        self.hash = inner_hash(hash_of(left), hash_of(right))
        self.stub: Stub | None = None


Node = Leaf | Inner | Stub | None
"""A subtree; None is an empty one."""


def hash_of(node: Node) -> Digest:
    """Hash of a subtree."""
    return EMPTY_HASH if node is None else node.hash


def resolve(node: Node) -> Leaf | Inner | None:
    """Follows a reference; raises StorageError if what is behind it is damaged."""
    return node.load() if isinstance(node, Stub) else node


def merge(node: Node, leaves: Sequence[Leaf], depth: int) -> Node:
    """Sets `leaves` (ascending, distinct paths, all below this node) in a subtree."""
    if not leaves:
        return node
    known = resolve(node)
    if isinstance(known, Leaf):
        leaves, known = _with_leaf(leaves, known), None
    if known is None and len(leaves) == 1:
        return leaves[0]
    middle = _first_right(leaves, depth)
    left, right = (None, None) if known is None else (known.left, known.right)
    return Inner(merge(left, leaves[:middle], depth + 1), merge(right, leaves[middle:], depth + 1))


def _with_leaf(leaves: Sequence[Leaf], leaf: Leaf) -> Sequence[Leaf]:
    """Adds a leaf that stands in the way, unless a new one replaces it."""
    index = bisect_left(leaves, leaf.path, key=lambda item: item.path)
    if index < len(leaves) and leaves[index].path == leaf.path:
        return leaves
    return [*leaves[:index], leaf, *leaves[index:]]


def _first_right(leaves: Sequence[Leaf], depth: int) -> int:
    """Index of the first leaf whose path has a 1 at `depth`; all share the bits before it."""
    return bisect_left(leaves, 1, key=lambda item: path_bit(item.path, depth))


# Rows of a store.


def encode_leaf(leaf: Leaf) -> bytes:
    """The bytes of a leaf's row: length of the key in two bytes, key, value."""
    return len(leaf.key).to_bytes(2, "big") + leaf.key + leaf.value


def decode_leaf(data: bytes) -> Leaf:
    """Reads a leaf's row.

    Raises:
        EncodingError: it is cut off.
    """
    end = 2 + int.from_bytes(data[:2], "big")
    if len(data) < end or len(data) < 2:
        raise EncodingError("row of a leaf is cut off")
    key = data[2:end]
    return Leaf(sha256(key), key, data[end:])


def encode_tile(parts: Sequence[Stub | Inner | None]) -> bytes:
    """The bytes of a tile's row.

    Args:
        parts: its nodes, parents before children and left before right; an `Inner` announces two
            more parts, everything else is an end.
    """
    row = bytearray()
    for part in parts:
        if part is None:
            row.append(_EMPTY)
        elif isinstance(part, Stub):
            row.append(_LEAF if part.is_leaf else _TILE)
            row += part.number.to_bytes(_NUMBER_BYTES, "big") + part.hash
        else:
            row.append(_INNER)
    return bytes(row)


def decode_tile(data: bytes, source: NodeSource) -> Inner:
    """Reads a tile's row.

    Raises:
        EncodingError: it is cut off, too long, too deep, or no inner node.
    """
    node, end = _decode_part(data, 0, source, 0)
    if end != len(data) or not isinstance(node, Inner):
        raise EncodingError(f"row of a tile: {len(data)} bytes, {end} expected")
    return node


def _decode_part(data: bytes, at: int, source: NodeSource, level: int) -> tuple[Node, int]:
    kind = data[at] if at < len(data) else -1
    at += 1
    if kind == _INNER and level < TILE_LEVELS:
        left, at = _decode_part(data, at, source, level + 1)
        right, at = _decode_part(data, at, source, level + 1)
        return Inner(left, right), at
    if kind == _EMPTY:
        return None, at
    if kind in (_LEAF, _TILE) and len(data) >= at + _REFERENCE_BYTES:
        number = int.from_bytes(data[at : at + _NUMBER_BYTES], "big")
        digest = Digest(data[at + _NUMBER_BYTES : at + _REFERENCE_BYTES])
        return Stub(source, number, digest, kind == _LEAF), at + _REFERENCE_BYTES
    raise EncodingError(f"row of a tile: part {kind} at byte {at - 1}")


def encode_reference(stub: Stub | None) -> bytes:
    """The bytes by which a store remembers a root."""
    return encode_tile([stub])


def decode_reference(data: bytes, source: NodeSource) -> Stub | None:
    """Reads a root's reference.

    Raises:
        EncodingError: malformed.
    """
    node, end = _decode_part(data, 0, source, TILE_LEVELS)
    if end != len(data) or isinstance(node, (Inner, Leaf)):
        raise EncodingError("root reference is malformed")
    return node


class NodeWriter:
    """Collects the rows that one or more new versions of a tree need in a store.

    Nothing of the trees changes until `settle`, which the caller does once the rows are durable:
    then the new nodes are referred to by number and memory holds no more of them than a cache.
    """

    def __init__(self, source: NodeSource, first_number: int) -> None:
        """Numbers new rows from `first_number` on."""
        self._source = source
        self.next_number = first_number
        """Number of the next new row."""
        self.tiles: list[tuple[int, bytes]] = []
        """New tiles: number and row."""
        self.leaves: list[tuple[int, Leaf]] = []
        """New leaves: number and leaf; of equal keys the last one counts."""
        self._fresh: dict[int, Stub] = {}
        self._settled: list[tuple[Leaf | Inner, Stub]] = []
        self._cuts: list[tuple[Inner, bool, Stub]] = []
        self._replaced: dict[int, None] = {}
        self._kept: dict[int, None] = {}
        self._stale: dict[int, None] = {}

    def write(self, root: Node, old: Node) -> tuple[Stub | None, tuple[int, ...]]:
        """Collects what a version adds to an older one.

        Args:
            root: the new version's root.
            old: root of the version it grew from: stored, or written by this writer before.

        Returns:
            The reference to the root, and numbers of rows that only the older version needs.
        """
        self._replaced, self._kept, self._stale = {}, {}, {}
        stub = self._reference(root, old, 0)
        gone = [number for number in self._replaced if number not in self._kept]
        return stub, (*self._stale, *gone)

    def settle(self) -> Iterator[tuple[int, Leaf | Inner]]:
        """Lets nodes know where they are stored; yields numbers with tiles' first nodes, leaves."""
        for node, stub in self._settled:
            node.stub = stub
            yield stub.number, node
        for parent, is_right, stub in self._cuts:
            if is_right:
                parent.right = stub
            else:
                parent.left = stub

    def _stub_of(self, node: Node) -> Stub | None:
        """The reference to a node that is stored here already."""
        if node is None:
            return None
        stub = node if isinstance(node, Stub) else node.stub or self._fresh.get(id(node))
        assert stub is None or stub.source is self._source, "a tree belongs to one store"
        return stub

    def _assign(self, node: Leaf | Inner) -> Stub:
        stub = Stub(self._source, self.next_number, node.hash, isinstance(node, Leaf))
        self.next_number += 1
        self._fresh[id(node)] = stub
        self._settled.append((node, stub))
        return stub

    def _reference(self, node: Node, old: Node, depth: int) -> Stub | None:
        """Refers to a leaf, a gap, or the subtree below a tile's first node; writes what is new."""
        known = self._stub_of(node)
        old_stub = self._stub_of(old)
        if known is not None:
            if known.is_leaf:
                self._kept[known.number] = None
                self._replace(old_stub)
            return known
        found = resolve(node)
        if found is None:
            return None
        stub = self._assign(found)
        if isinstance(found, Leaf):
            self._replace(old_stub)
            self.leaves.append((stub.number, found))
            return stub
        before = None
        if old_stub is not None and not old_stub.is_leaf:
            self._stale[old_stub.number] = None
            before = resolve(old)
        else:
            self._replace(old_stub)
        parts: list[Stub | Inner | None] = [found]
        self._collect(found, before if isinstance(before, Inner) else None, depth, parts)
        self.tiles.append((stub.number, encode_tile(parts)))
        return stub

    def _replace(self, old: Stub | None) -> None:
        if old is not None and old.is_leaf:
            self._replaced[old.number] = None

    def _collect(
        self, inner: Inner, old: Inner | None, depth: int, parts: list[Stub | Inner | None]
    ) -> None:
        """Adds the children of an inner node to its tile, old ones beside them."""
        for is_right, child in ((False, inner.left), (True, inner.right)):
            before = None if old is None else (old.right if is_right else old.left)
            if isinstance(child, Inner) and (depth + 1) % TILE_LEVELS:
                if not isinstance(before, Inner):
                    self._replace(self._stub_of(before))
                    before = None
                parts.append(child)
                self._collect(child, before, depth + 1, parts)
                continue
            stub = self._reference(child, before, depth + 1)
            parts.append(stub)
            if stub is not None and child is not stub:
                self._cuts.append((inner, is_right, stub))
