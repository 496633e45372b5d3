"""Hash rules of the state tree: those of the Jellyfish Merkle tree over SHA-256 (L2, L3).

Shared by the tree, by proofs of one key and by facts about several.
"""

from __future__ import annotations

import hashlib
from typing import Final

from protocol.digest import DIGEST_BYTES, Digest

EMPTY_HASH: Final = Digest(b"SPARSE_MERKLE_PLACEHOLDER_HASH__")
"""Hash of an empty subtree."""
DEPTH_MAX: Final = 8 * DIGEST_BYTES
"""Bits of a path. Keys of an attacker's choice can share many bits: no lower bound is safe."""
_LEAF_TAG: Final = b"JMT::LeafNode"
_INNER_TAG: Final = b"JMT::IntrnalNode"


def leaf_hash(path: bytes, value_hash: bytes) -> Digest:
    """Hash of a leaf, from SHA-256 of its key and of its value."""
    return Digest(hashlib.sha256(_LEAF_TAG + path + value_hash).digest())


def inner_hash(left: bytes, right: bytes) -> Digest:
    """Hash of a node with two subtrees."""
    return Digest(hashlib.sha256(_INNER_TAG + left + right).digest())


def path_bit(path: bytes, depth: int) -> int:
    """Which way a path turns at a depth: 0 left, 1 right; most significant bit first."""
    return path[depth >> 3] >> (7 - (depth & 7)) & 1
