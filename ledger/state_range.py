"""Range proofs: a run of neighbouring keys with their values, shown complete under a state root.

A page lists every leaf whose path (SHA-256 of the key) lies between a start and an end. What lies
outside is stood for by hashes beside the two boundaries, so whoever knows the root finds out if a
key was left out, added, changed or moved. A page ends right behind its last leaf, or at the end of
all paths: asking again from there makes progress, and pages that follow each other leave no gap.
Pure; bounded in bytes, leaves and depth. Rules: docs/spec/state-sync.md, Y10 to Y17.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ledger.state_hash import DEPTH_MAX, EMPTY_HASH, inner_hash, leaf_hash, path_bit
from ledger.state_nodes import Inner, Leaf, Node, hash_of, resolve
from ledger.state_tree import KEY_BYTES_MAX, VALUE_BYTES_MAX, StateTree
from protocol.digest import DIGEST_BYTES, Digest, sha256
from protocol.encoding import (
    Fields,
    Value,
    as_array,
    as_bytes,
    as_digest,
    as_uint,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError, VerificationError
from protocol.limits import KIB

PAGE_BYTES_MAX: Final = 256 * KIB
"""Keys and values of a page with 8 bytes each for what surrounds them; one leaf always fits."""
PAGE_LEAVES_MAX: Final = 2048
"""Leaves of a page: verifying them takes some 20 ms."""
PAGE_PARTS_MAX: Final = 4 * DEPTH_MAX + 1
"""Parts of a proof: at two boundaries a mark and a hash for each level."""
PAGE_ENCODED_MAX: Final = PAGE_BYTES_MAX + 48 * KIB
"""Encoded page."""
LEAF_OVERHEAD_BYTES: Final = 8
"""What a leaf is counted with beyond its key and value."""
_ITEMS_MAX: Final = 3 * PAGE_LEAVES_MAX + 3 * PAGE_PARTS_MAX + 16
_PATHS_END: Final = 1 << DEPTH_MAX
FIRST_PATH: Final = Digest(bytes(DIGEST_BYTES))
"""Where the state begins."""
_GAP, _LISTED, _SPLIT = range(3)

Part = int | Digest | tuple[Digest, Digest] | None
"""One part of a range proof: at a boundary 0 for nothing there, 1 for the one listed leaf, 2 for
two subtrees, or path and value hash of a leaf that is not listed; outside the range a hash, or None
for an empty subtree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePage:
    """A run of leaves with its proof; not verified until `verify` was called."""

    leaves: tuple[tuple[bytes, bytes], ...]
    """Keys with their values, ascending by SHA-256 of the key."""
    is_last: bool
    """Whether the run goes to the end of all paths."""
    parts: tuple[Part, ...]
    """The proof, in the order of a walk from the root, left before right."""

    def next_start(self) -> Digest | None:
        """Where the next page begins; None: this was the last one."""
        if self.is_last:
            return None
        return Digest((_number(sha256(self.leaves[-1][0])) + 1).to_bytes(DIGEST_BYTES, "big"))

    def verify(self, root: bytes, start: bytes) -> None:
        """Checks that these are all leaves from `start` to the page's end under a root.

        Args:
            root: a trusted state root.
            start: the first path asked for, 32 bytes.

        Raises:
            VerificationError: they are not, or the page is malformed.
        """
        paths = [sha256(key) for key, _ in self.leaves]
        if any(one >= other for one, other in itertools.pairwise(paths)):
            raise VerificationError("state page: leaves are not ascending")
        if paths and paths[0] < start:
            raise VerificationError("state page: a leaf before the start")
        hashes = [
            leaf_hash(path, sha256(value))
            for path, (_, value) in zip(paths, self.leaves, strict=True)
        ]
        end = _PATHS_END if self.is_last else _number(paths[-1]) + 1
        check = _Check(_Range(_number(start), end), paths, hashes, iter(self.parts))
        actual = check.subtree(0, len(paths), 0, 0)
        if next(check.parts, check) is not check:
            raise VerificationError("state page: the proof has more parts than it needs")
        if actual != root:
            raise VerificationError(
                f"state page leads to {actual.hex()[:8]}, expected root {root.hex()[:8]}"
            )

    def encode(self) -> bytes:
        """The canonical bytes: {0: [[key, value]...], 1: is last, 2: parts}."""
        parts: list[Value] = [
            list(part) if isinstance(part, tuple) else part for part in self.parts
        ]
        return encode_canonical(
            {0: [list(leaf) for leaf in self.leaves], 1: self.is_last, 2: parts}
        )


def decode_state_page(data: bytes) -> StatePage:
    """Reads an encoded page.

    Raises:
        EncodingError: malformed, out of bounds, or without leaves although more follow.
    """
    value = decode_canonical(data, bytes_max=PAGE_ENCODED_MAX, items_max=_ITEMS_MAX)
    fields = Fields(value, "state page")
    page = StatePage(
        leaves=fields.items(0, _read_leaf, maximum=PAGE_LEAVES_MAX),
        is_last=fields.boolean(1),
        parts=fields.items(2, _read_part, maximum=PAGE_PARTS_MAX),
    )
    if fields.finish():
        raise EncodingError("state page: extensions are not allowed")
    if not page.leaves and not page.is_last:
        raise EncodingError("state page: no leaves, and yet more to follow")
    sizes = [_leaf_size(key, held) for key, held in page.leaves]
    if len(sizes) > 1 and sum(sizes) > PAGE_BYTES_MAX:
        raise EncodingError(f"state page of {sum(sizes)} bytes, at most {PAGE_BYTES_MAX}")
    return page


def _read_leaf(value: Value) -> tuple[bytes, bytes]:
    key, held = as_array(value, "leaf", size=2)
    return (
        as_bytes(key, "state key", maximum=KEY_BYTES_MAX),
        as_bytes(held, "state value", maximum=VALUE_BYTES_MAX),
    )


def _read_part(value: Value) -> Part:
    if value is None:
        return None
    if isinstance(value, bytes):
        digest = as_digest(value, "part")
        if digest == EMPTY_HASH:
            raise EncodingError("state page: an empty subtree is spelled out")
        return digest
    if isinstance(value, (list, tuple)):
        path, value_hash = as_array(value, "part", size=2)
        return as_digest(path, "leaf's path"), as_digest(value_hash, "leaf's value")
    return as_uint(value, "part", maximum=_SPLIT)


def _number(path: bytes) -> int:
    return int.from_bytes(path, "big")


def _leaf_size(key: bytes, value: bytes) -> int:
    return len(key) + len(value) + LEAF_OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class _Range:
    """Paths from `start` to before `end`, against the paths of a subtree."""

    start: int
    end: int

    def is_outside(self, depth: int, first: int) -> bool:
        return first >= self.end or first + (1 << (DEPTH_MAX - depth)) <= self.start

    def is_inside(self, depth: int, first: int) -> bool:
        return self.start <= first and first + (1 << (DEPTH_MAX - depth)) <= self.end

    def holds(self, path: bytes) -> bool:
        return self.start <= _number(path) < self.end


@dataclass(frozen=True, slots=True)
class _Check:
    """One verification: leaves in order, and parts that are used up on the way."""

    range: _Range
    paths: Sequence[Digest]
    hashes: Sequence[Digest]
    parts: Iterator[Part]

    def subtree(self, low: int, high: int, depth: int, first: int) -> Digest:
        """Hash of the subtree at `depth` whose least path is `first`, with leaves low to high."""
        if self.range.is_outside(depth, first):
            return self._outside()
        if self.range.is_inside(depth, first):
            return self._complete(low, high, depth)
        part = next(self.parts, -1)
        if part == _SPLIT and depth < DEPTH_MAX:
            middle = self._middle(low, high, depth)
            half = first + (1 << (DEPTH_MAX - depth - 1))
            left = self.subtree(low, middle, depth + 1, first)
            return inner_hash(left, self.subtree(middle, high, depth + 1, half))
        if part == _GAP and low == high:
            return EMPTY_HASH
        if part == _LISTED and high == low + 1:
            return self.hashes[low]
        if isinstance(part, tuple) and low == high:
            path, value_hash = part
            width = 1 << (DEPTH_MAX - depth)
            if first <= _number(path) < first + width and not self.range.holds(path):
                return leaf_hash(path, value_hash)
        raise VerificationError(f"state page: the proof breaks off at a boundary, level {depth}")

    def _outside(self) -> Digest:
        part = next(self.parts, -1)
        if part is None:
            return EMPTY_HASH
        if not isinstance(part, bytes):
            raise VerificationError("state page: a hash is missing in the proof")
        return Digest(part)

    def _complete(self, low: int, high: int, depth: int) -> Digest:
        """Hash of a subtree all of whose leaves are listed."""
        if high - low <= 1:
            return self.hashes[low] if high > low else EMPTY_HASH
        middle = self._middle(low, high, depth)
        left = self._complete(low, middle, depth + 1)
        return inner_hash(left, self._complete(middle, high, depth + 1))

    def _middle(self, low: int, high: int, depth: int) -> int:
        return bisect_left(self.paths, 1, low, high, key=lambda path: path_bit(path, depth))


def make_page(tree: StateTree, start: bytes, *, bytes_max: int = PAGE_BYTES_MAX) -> StatePage:
    """Builds the page of all leaves from a path on, as many as fit.

    Args:
        tree: the version.
        start: first path, 32 bytes.
        bytes_max: bound of the leaves as they are counted, at most `PAGE_BYTES_MAX`.

    Raises:
        StorageError: the tree could not be read.
    """
    taken: list[Leaf] = []
    used, is_last = 0, True
    for leaf in _leaves_from(tree.root_node, start):
        used += _leaf_size(leaf.key, leaf.value)
        if taken and (used > min(bytes_max, PAGE_BYTES_MAX) or len(taken) == PAGE_LEAVES_MAX):
            is_last = False
            break
        taken.append(leaf)
    end = _PATHS_END if is_last else _number(taken[-1].path) + 1
    parts: list[Part] = []
    _prove(tree.root_node, _Range(_number(start), end), 0, 0, parts)
    return StatePage(
        leaves=tuple((leaf.key, leaf.value) for leaf in taken), is_last=is_last, parts=tuple(parts)
    )


def _leaves_from(root: Node, start: bytes) -> Iterator[Leaf]:
    """Leaves at `start` and beyond, in order; loads no subtree that lies before it."""
    wanted = _Range(_number(start), _PATHS_END)
    pending: list[tuple[Node, int, int]] = [(root, 0, 0)]
    while pending:
        node, depth, first = pending.pop()
        if node is None or wanted.is_outside(depth, first):
            continue
        node = resolve(node)
        if isinstance(node, Inner):
            half = first + (1 << (DEPTH_MAX - depth - 1))
            pending += ((node.right, depth + 1, half), (node.left, depth + 1, first))
        elif isinstance(node, Leaf) and wanted.holds(node.path):
            yield node


def _prove(node: Node, listed: _Range, depth: int, first: int, parts: list[Part]) -> None:
    if listed.is_outside(depth, first):
        parts.append(None if node is None else hash_of(node))
        return
    if listed.is_inside(depth, first):
        return
    known = resolve(node)
    if known is None:
        parts.append(_GAP)
    elif isinstance(known, Inner):
        parts.append(_SPLIT)
        _prove(known.left, listed, depth + 1, first, parts)
        _prove(known.right, listed, depth + 1, first + (1 << (DEPTH_MAX - depth - 1)), parts)
    elif listed.holds(known.path):
        parts.append(_LISTED)
    else:
        parts.append((Digest(known.path), sha256(known.value)))
