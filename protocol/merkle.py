"""Merkle trees of RFC 6962 (section 2.1), used by recipes, the ledger's log and nonce batches.

Leaf hash = H(0x00 || entry), node hash = H(0x01 || left || right), the root of no entries is H("").
Proofs list siblings from the leaf to the root. The verifiers follow RFC 9162, section 2.1.3.2 and
2.1.4.2, and additionally refuse hashes that are not 32 bytes long.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from protocol.digest import DIGEST_BYTES, Digest, sha256
from protocol.errors import LocalProtocolError, VerificationError

EMPTY_ROOT = sha256(b"")
"""Root of a tree without entries."""


def leaf_hash(entry: bytes) -> Digest:
    """Hashes an entry into a leaf."""
    return Digest(hashlib.sha256(b"\x00" + entry).digest())


def node_hash(left: bytes, right: bytes) -> Digest:
    """Hashes two subtree roots into their parent."""
    return Digest(hashlib.sha256(b"\x01" + left + right).digest())


def _split(count: int) -> int:
    """Largest power of two smaller than `count` (RFC 6962's k)."""
    return 1 << (count - 1).bit_length() - 1


def merkle_root(leaves: Sequence[bytes]) -> Digest:
    """Computes the root over leaf hashes.

    Works level by level; an odd last node moves up unchanged, which gives RFC 6962's tree.
    """
    if not leaves:
        return EMPTY_ROOT
    level = list(leaves)
    sha256_of = hashlib.sha256
    while len(level) > 1:
        # As `node_hash`, written out: recipes have tens of thousands of nodes.
        pairs = zip(level[::2], level[1::2], strict=False)
        paired = [sha256_of(b"\x01" + left + right).digest() for left, right in pairs]
        if len(level) % 2:
            paired.append(level[-1])
        level = paired
    return Digest(level[0])


def inclusion_proof(leaves: Sequence[bytes], index: int) -> tuple[Digest, ...]:
    """Builds the audit path of leaf `index`, leaf side first.

    Raises:
        LocalProtocolError: there is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise LocalProtocolError(f"no leaf {index} in a tree of {len(leaves)}")
    path: list[Digest] = []
    level = list(leaves)
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(Digest(level[sibling]))
        paired: list[bytes] = [
            node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)
        ]
        if len(level) % 2:
            paired.append(level[-1])
        level = paired
        index >>= 1
    return tuple(path)


def root_from_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> Digest:
    """Recomputes the root that a proof implies (RFC 9162, section 2.1.3.2).

    Args:
        leaf: leaf hash, 32 bytes.
        index: position of the leaf, from 0.
        size: entries of the tree.
        proof: siblings, leaf side first.

    Raises:
        VerificationError: index outside the tree, or a hash or a proof of wrong length.
    """
    if not 0 <= index < size:
        raise VerificationError(f"leaf index {index} outside a tree of {size}")
    if any(len(item) != DIGEST_BYTES for item in (leaf, *proof)):
        raise VerificationError("a hash in the proof is not 32 bytes long")
    position, last, value = index, size - 1, bytes(leaf)
    for sibling in proof:
        if last == 0:
            raise VerificationError("proof is too long")
        if position & 1 or position == last:
            value = node_hash(sibling, value)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            value = node_hash(value, sibling)
        position >>= 1
        last >>= 1
    if last != 0:
        raise VerificationError("proof is too short")
    return Digest(value)


def verify_inclusion(
    leaf: bytes, *, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Checks that `leaf` stands at `index` in the tree of `size` entries with `root`.

    Raises:
        VerificationError: it does not, or the proof is malformed.
    """
    if len(root) != DIGEST_BYTES or root_from_inclusion(leaf, index, size, proof) != root:
        raise VerificationError(f"inclusion proof of leaf {index} does not lead to the root")


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> tuple[Digest, ...]:
    """Builds the proof that the first `old_size` leaves are a prefix (RFC 6962, 2.1.2)."""
    if not 0 <= old_size <= len(leaves):
        raise LocalProtocolError(f"no prefix of {old_size} in a tree of {len(leaves)}")
    if old_size in (0, len(leaves)):
        return ()
    return tuple(_subproof(leaves, old_size, True))


def _subproof(leaves: Sequence[bytes], old_size: int, complete: bool) -> list[Digest]:
    if old_size == len(leaves):
        return [] if complete else [merkle_root(leaves)]
    split = _split(len(leaves))
    if old_size <= split:
        return [*_subproof(leaves[:split], old_size, complete), merkle_root(leaves[split:])]
    return [*_subproof(leaves[split:], old_size - split, False), merkle_root(leaves[:split])]


def verify_consistency(
    *, old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Checks that a tree is an append-only extension of another (RFC 9162, section 2.1.4.2).

    Raises:
        VerificationError: it is not, or the proof is malformed.
    """
    if any(len(item) != DIGEST_BYTES for item in (old_root, new_root, *proof)):
        raise VerificationError("a hash in the proof is not 32 bytes long")
    if not 0 <= old_size <= new_size:
        raise VerificationError(f"a tree cannot shrink from {old_size} to {new_size}")
    if old_size == new_size:
        if proof or old_root != new_root or (new_size == 0 and new_root != EMPTY_ROOT):
            raise VerificationError("trees of equal size differ or carry a proof")
        return
    if old_size == 0:
        if proof or old_root != EMPTY_ROOT:
            raise VerificationError("the empty tree has a fixed root and needs no proof")
        return
    _verify_growth(old_size, old_root, new_size, new_root, list(proof))


def _verify_growth(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, path: list[bytes]
) -> None:
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    if not path:
        raise VerificationError("proof is too short")
    position, last = old_size - 1, new_size - 1
    while position & 1:
        position >>= 1
        last >>= 1
    old_value = new_value = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise VerificationError("proof is too long")
        if position & 1 or position == last:
            old_value = node_hash(sibling, old_value)
            new_value = node_hash(sibling, new_value)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            new_value = node_hash(new_value, sibling)
        position >>= 1
        last >>= 1
    if last != 0 or old_value != old_root or new_value != new_root:
        raise VerificationError("consistency proof does not connect the two roots")
