"""The state root (L1 to L3), by recursion over sorted paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.support.naive.crypto import sha

EMPTY = b"SPARSE_MERKLE_PLACEHOLDER_HASH__"


def root(store: Mapping[bytes, bytes]) -> bytes:
    """The root over all keys and values."""
    return _subtree(sorted((sha(key), sha(value)) for key, value in store.items()), 0)


def _subtree(leaves: list[tuple[bytes, bytes]], depth: int) -> bytes:
    if not leaves:
        return EMPTY
    if len(leaves) == 1:
        path, value = leaves[0]
        return sha(b"JMT::LeafNode" + path + value)
    byte, mask = depth // 8, 128 >> depth % 8
    left = [leaf for leaf in leaves if not leaf[0][byte] & mask]
    right = leaves[len(left) :]
    return sha(b"JMT::IntrnalNode" + _subtree(left, depth + 1) + _subtree(right, depth + 1))


def is_proven(root_hash: bytes, proof: dict[int, Any], path: bytes, leaf: bytes) -> bool:
    """Whether siblings (L4) lead from the node at `path` to the root."""
    depth, bitmap, given = proof[2], proof[3], list(proof[4])
    node = leaf
    for step in range(depth):
        sibling = EMPTY if bitmap[step // 8] & 128 >> step % 8 else given.pop(0)
        bit = depth - 1 - step
        right = path[bit // 8] & (128 >> bit % 8)
        pair = sibling + node if right else node + sibling
        node = sha(b"JMT::IntrnalNode" + pair)
    return node == root_hash
