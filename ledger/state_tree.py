"""The state tree: a persistent sparse Merkle tree, hash-compatible with JMT over SHA-256.

A key lives at the path SHA-256(key), most significant bit first. A leaf stands at the shallowest
depth where no other key shares its prefix; an empty subtree has a fixed placeholder hash. Nodes are
immutable and shared: an update of k keys makes O(k log n) new nodes, and every older version stays
valid, which is what several unfinalized blocks at once need. `ledger.state_nodes` says how nodes
lie in a store, `ledger.state_hash` how they are hashed.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from ledger.state_hash import DEPTH_MAX, EMPTY_HASH, inner_hash, leaf_hash, path_bit
from ledger.state_nodes import Inner, Leaf, Node, Stub, hash_of, merge, resolve
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


class StateTree:
    """One version of the key-value state; versions share their unchanged nodes.

    It lives in memory alone, or over a store: then nodes are loaded when they are asked for, and
    any reading may raise `StorageError`. A version above the stored one keeps its own writes.
    """

    __slots__ = ("_base", "_root", "_writes")

    def __init__(self, root: Node = None) -> None:
        """Makes a version with this root, the empty tree by default."""
        self._root = root
        self._base: StateTree | None = None
        self._writes: Mapping[bytes, bytes] = {}

    @property
    def root(self) -> Digest:
        """Root hash; headers commit to it."""
        return hash_of(self._root)

    @property
    def root_node(self) -> Node:
        """The root itself, for whoever stores it or proves ranges of it."""
        return self._root

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        leaf = self._walk(sha256(key), [])
        return leaf.value if leaf is not None and leaf.key == key else None

    def update(self, writes: Mapping[bytes, bytes]) -> StateTree:
        """Sets keys and returns the new version; this one is unchanged.

        Args:
            writes: keys of at most 256 bytes, values of at most 16 KiB; must not change later.
        """
        for key, value in writes.items():
            assert len(key) <= KEY_BYTES_MAX, f"state key of {len(key)} bytes"
            assert len(value) <= VALUE_BYTES_MAX, f"state value of {len(value)} bytes"
        leaves = [Leaf(sha256(key), key, value) for key, value in writes.items()]
        leaves.sort(key=lambda leaf: leaf.path)
        tree = StateTree(merge(self._root, leaves, 0))
        tree._base, tree._writes = self, writes
        return tree

    def settle(self, root: Stub | None) -> None:
        """Notes that this version is stored: what it holds in memory is given up."""
        assert hash_of(root) == self.root, "a version is stored under its own root"
        self._root, self._base, self._writes = root, None, {}

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys with their values, in the order of their paths."""
        pending: list[Node] = [self._root]
        while pending:
            node = resolve(pending.pop())
            if isinstance(node, Leaf):
                yield node.key, node.value
            elif node is not None:
                pending += (node.right, node.left)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """All keys that start with `prefix`, ascending, with their values.

        A version over a store asks its index and adds what is written above; one in memory alone
        visits every key.
        """
        newer: dict[bytes, None] = {}
        tree: StateTree = self
        while tree._base is not None:
            newer.update((key, None) for key in tree._writes if key.startswith(prefix))
            tree = tree._base
        if not isinstance(tree.root_node, Stub):
            yield from sorted(item for item in self.items() if item[0].startswith(prefix))
            return
        stored = tree.root_node.source.scan(prefix, tree.root_node)
        known = ((key, None if key in newer else value) for key, value in stored)
        written: Iterator[tuple[bytes, bytes | None]] = ((key, None) for key in sorted(newer))
        last = None
        for key, value in heapq.merge(known, written, key=itemgetter(0)):
            current = self.get(key) if value is None else value
            if current is not None and key != last:
                last = key
                yield key, current

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

    def _walk(self, path: bytes, siblings: list[Digest]) -> Leaf | None:
        """Goes down to the leaf or gap at `path`; collects siblings, root side first."""
        node, depth = resolve(self._root), 0
        while isinstance(node, Inner):
            if path_bit(path, depth):
                siblings.append(hash_of(node.left))
                node = resolve(node.right)
            else:
                siblings.append(hash_of(node.right))
                node = resolve(node.left)
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
