"""The state tree: a persistent sparse Merkle tree, hash-compatible with JMT over SHA-256.

A key lives at the path SHA-256(key), most significant bit first. A leaf stands at the shallowest
depth where no other key shares its prefix; an empty subtree has a fixed placeholder hash. Nodes are
immutable and shared: an update of k keys makes O(k log n) new nodes, and every older version stays
valid, which is what several unfinalized blocks at once need.

Hash rules (Jellyfish Merkle tree, SHA-256 variant): inner = H("JMT::IntrnalNode" || left || right),
leaf = H("JMT::LeafNode" || H(key) || H(value)), empty = "SPARSE_MERKLE_PLACEHOLDER_HASH__".
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ledger.state_hash import DEPTH_MAX, EMPTY_HASH, inner_hash, leaf_hash, path_bit
from protocol.digest import Digest, sha256
from protocol.encoding import (
    Fields,
    Value,
    as_array,
    as_bytes,
    as_digest,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError, VerificationError
from protocol.limits import KIB

KEY_BYTES_MAX: Final = 256
"""Longest state key, bytes."""
VALUE_BYTES_MAX: Final = 16 * KIB
"""Longest state value, bytes."""
PROOF_BYTES_MAX: Final = 32 * KIB
"""Encoded proof: the longest value, and a sibling for each of 256 levels."""


class _Leaf:
    __slots__ = ("hash", "key", "path", "value")

    def __init__(self, path: bytes, key: bytes, value: bytes) -> None:
        self.path = path
        self.key = key
        self.value = value
        self.hash = leaf_hash(path, sha256(value))


class _Inner:
    __slots__ = ("hash", "left", "right")

    def __init__(self, left: _Node, right: _Node) -> None:
        self.left = left
        self.right = right
        self.hash = inner_hash(_hash_of(left), _hash_of(right))


_Node = _Leaf | _Inner | None


def _hash_of(node: _Node) -> Digest:
    return EMPTY_HASH if node is None else node.hash


def _merge(node: _Node, leaves: Sequence[_Leaf], depth: int) -> _Node:
    """Sets `leaves` (ascending, distinct paths, all below this node) in a subtree."""
    if not leaves:
        return node
    if isinstance(node, _Leaf):
        leaves, node = _with_leaf(leaves, node), None
    if node is None and len(leaves) == 1:
        return leaves[0]
    middle = _first_right(leaves, depth)
    left, right = (None, None) if node is None else (node.left, node.right)
    return _Inner(
        _merge(left, leaves[:middle], depth + 1), _merge(right, leaves[middle:], depth + 1)
    )


def _with_leaf(leaves: Sequence[_Leaf], leaf: _Leaf) -> Sequence[_Leaf]:
    """Adds a leaf that stands in the way, unless a new one replaces it."""
    index = bisect_left(leaves, leaf.path, key=lambda item: item.path)
    if index < len(leaves) and leaves[index].path == leaf.path:
        return leaves
    return [*leaves[:index], leaf, *leaves[index:]]


def _first_right(leaves: Sequence[_Leaf], depth: int) -> int:
    """Index of the first leaf whose path has a 1 at `depth`; all share the bits before it."""
    return bisect_left(leaves, 1, key=lambda item: path_bit(item.path, depth))


class StateTree:
    """One version of the key-value state; versions share their unchanged nodes."""

    __slots__ = ("_root",)

    def __init__(self) -> None:
        """Makes the empty tree."""
        self._root: _Node = None

    @property
    def root(self) -> Digest:
        """Root hash; headers commit to it."""
        return _hash_of(self._root)

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        leaf = self._walk(sha256(key), [])
        return leaf.value if leaf is not None and leaf.key == key else None

    def update(self, writes: Mapping[bytes, bytes]) -> StateTree:
        """Sets keys and returns the new version; this one is unchanged.

        Args:
            writes: keys of at most 256 bytes, values of at most 16 KiB.
        """
        for key, value in writes.items():
            assert len(key) <= KEY_BYTES_MAX, f"state key of {len(key)} bytes"
            assert len(value) <= VALUE_BYTES_MAX, f"state value of {len(value)} bytes"
        leaves = [_Leaf(sha256(key), key, value) for key, value in writes.items()]
        leaves.sort(key=lambda leaf: leaf.path)
        tree = StateTree()
        tree._root = _merge(self._root, leaves, 0)
        return tree

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys with their values, in the order of their paths."""
        pending: list[_Node] = [self._root]
        while pending:
            node = pending.pop()
            if isinstance(node, _Leaf):
                yield node.key, node.value
            elif node is not None:
                pending += (node.right, node.left)

    def prove(self, key: bytes) -> StateProof:
        """Builds the proof that a key has its value, or that it is absent."""
        path = sha256(key)
        siblings: list[Digest] = []
        leaf = self._walk(path, siblings)
        siblings.reverse()
        if leaf is None:
            return StateProof(key=key, value=None, siblings=tuple(siblings))
        if leaf.path == path:
            return StateProof(key=key, value=leaf.value, siblings=tuple(siblings))
        other = (Digest(leaf.path), sha256(leaf.value))
        return StateProof(key=key, value=None, siblings=tuple(siblings), other=other)

    def _walk(self, path: bytes, siblings: list[Digest]) -> _Leaf | None:
        """Goes down to the leaf or gap at `path`; collects siblings, root side first."""
        node, depth = self._root, 0
        while isinstance(node, _Inner):
            if path_bit(path, depth):
                siblings.append(_hash_of(node.left))
                node = node.right
            else:
                siblings.append(_hash_of(node.right))
                node = node.left
            depth += 1
        return node


@dataclass(frozen=True, slots=True, kw_only=True)
class StateProof:
    """Shows the value of a key, or its absence, under a state root."""

    key: bytes
    """The key in question, at most 256 bytes."""
    value: bytes | None
    """Its value; None: absent."""
    siblings: tuple[Digest, ...]
    """Sibling hashes, leaf side first, empty subtrees included; at most 256."""
    other: tuple[Digest, Digest] | None = None
    """For absence: path and value hash of the leaf that stands where the key would; None: a gap."""

    def root(self) -> Digest:
        """Recomputes the root that this proof implies.

        Raises:
            VerificationError: the parts do not fit each other.
        """
        path, depth = sha256(self.key), len(self.siblings)
        if depth > DEPTH_MAX:
            raise VerificationError(f"state proof of {depth} levels, at most {DEPTH_MAX}")
        value = self._terminal(path)
        for level, sibling in enumerate(self.siblings):
            if path_bit(path, depth - 1 - level):
                value = inner_hash(sibling, value)
            else:
                value = inner_hash(value, sibling)
        return value

    def _terminal(self, path: bytes) -> Digest:
        """Hash of what stands at the end of the path: the leaf, another leaf, or nothing."""
        if self.value is not None:
            if self.other is not None:
                raise VerificationError("state proof shows a value and another leaf")
            return leaf_hash(path, sha256(self.value))
        if self.other is None:
            return EMPTY_HASH
        other_path, value_hash = self.other
        if other_path == path or not _share_prefix(other_path, path, len(self.siblings)):
            raise VerificationError("state proof of absence names a leaf from elsewhere")
        return leaf_hash(other_path, value_hash)

    def verify(self, root: bytes) -> bytes | None:
        """Checks the proof against a trusted root and returns the value (None: absent).

        Raises:
            VerificationError: it does not lead to `root`, or its parts do not fit.
        """
        actual = self.root()
        if actual != root:
            raise VerificationError(
                f"state proof leads to {actual.hex()[:8]}, expected root {root.hex()[:8]}"
            )
        return self.value

    def to_value(self) -> Value:
        """The wire form: {0: key, 1: value, 2: depth, 3: empty bitmap, 4: siblings, ? 5: other}."""
        bitmap = bytearray((len(self.siblings) + 7) // 8)
        for level, sibling in enumerate(self.siblings):
            if sibling == EMPTY_HASH:
                bitmap[level >> 3] |= 0x80 >> (level & 7)
        value: dict[int | str, Value] = {
            0: self.key,
            1: self.value,
            2: len(self.siblings),
            3: bytes(bitmap),
            4: [sibling for sibling in self.siblings if sibling != EMPTY_HASH],
        }
        if self.other is not None:
            value[5] = list(self.other)
        return value

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical(self.to_value())

    @classmethod
    def from_value(cls, value: Value) -> StateProof:
        """Reads the wire form; each proof has exactly one.

        Raises:
            EncodingError: malformed, out of bounds, or an empty sibling that is spelled out.
        """
        fields = Fields(value, "state proof")
        key = fields.bytes(0, maximum=KEY_BYTES_MAX)
        known = fields.value(1)
        siblings = _read_siblings(
            fields.uint(2, maximum=DEPTH_MAX),
            fields.bytes(3, maximum=DEPTH_MAX // 8),
            fields.digests(4, maximum=DEPTH_MAX),
        )
        other = fields.optional(5, lambda field: _read_other(fields.value(field)))
        if fields.finish():
            raise EncodingError("state proof: extensions are not allowed")
        return cls(
            key=key,
            value=None if known is None else as_bytes(known, "value", maximum=VALUE_BYTES_MAX),
            siblings=siblings,
            other=other,
        )


def _share_prefix(one: bytes, other: bytes, bits: int) -> bool:
    difference = int.from_bytes(one, "big") ^ int.from_bytes(other, "big")
    return difference.bit_length() <= DEPTH_MAX - bits


def _read_siblings(depth: int, bitmap: bytes, present: Sequence[Digest]) -> tuple[Digest, ...]:
    if len(bitmap) != (depth + 7) // 8:
        raise EncodingError(f"state proof: bitmap of {len(bitmap)} bytes for {depth} levels")
    bits = int.from_bytes(bitmap, "big")
    if bits & ((1 << (8 * len(bitmap) - depth)) - 1):
        raise EncodingError("state proof: bitmap has bits beyond the depth")
    if len(present) != depth - bits.bit_count():
        raise EncodingError("state proof: bitmap and siblings differ in number")
    if EMPTY_HASH in present:
        raise EncodingError("state proof: an empty sibling is spelled out")
    remaining = iter(present)
    return tuple(
        EMPTY_HASH if bitmap[level >> 3] << (level & 7) & 0x80 else next(remaining)
        for level in range(depth)
    )


def _read_other(value: Value) -> tuple[Digest, Digest]:
    path, value_hash = as_array(value, "other leaf", size=2)
    return as_digest(path, "other leaf's path"), as_digest(value_hash, "other leaf's value")


def decode_state_proof(data: bytes) -> StateProof:
    """Reads an encoded proof.

    Raises:
        EncodingError: malformed, out of bounds or not in the one canonical form.
    """
    return StateProof.from_value(decode_canonical(data, bytes_max=PROOF_BYTES_MAX))
