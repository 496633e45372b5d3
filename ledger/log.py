"""The ledger's log: an RFC 6962 tree over all entries, kept as its frontier.

The frontier holds the roots of the perfect subtrees the size's binary digits name, largest first.
It is all that appending and the root need; proofs of inclusion are the store's matter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from protocol.digest import Digest
from protocol.encoding import INTEGER_MAX, Fields, decode_canonical, encode_canonical
from protocol.errors import EncodingError
from protocol.limits import KIB
from protocol.merkle import EMPTY_ROOT, node_hash

LOG_BYTES_MAX = 4 * KIB
"""Encoded log: a size and at most 63 digests."""

LEVEL_STEP: Final = 4
"""A store keeps the roots of perfect subtrees whose height is a multiple of this."""


@dataclass(frozen=True, slots=True)
class Log:
    """One version of the log."""

    size: int = 0
    """Entries so far."""
    frontier: tuple[Digest, ...] = ()
    """Roots of perfect subtrees, largest first; one for each bit set in `size`."""

    def __post_init__(self) -> None:
        """Refuses a frontier that does not fit the size."""
        if not 0 <= self.size <= INTEGER_MAX or len(self.frontier) != self.size.bit_count():
            raise EncodingError(f"log of {self.size} entries with {len(self.frontier)} subtrees")

    @property
    def root(self) -> Digest:
        """RFC 6962 root over all entries."""
        if not self.frontier:
            return EMPTY_ROOT
        root = self.frontier[-1]
        for subtree in reversed(self.frontier[:-1]):
            root = node_hash(subtree, root)
        return root

    def append(self, leaf: Digest) -> Log:
        """Adds one entry, given as its leaf hash, and returns the new version."""
        frontier, size = list(self.frontier), self.size
        while size & 1:
            leaf = node_hash(frontier.pop(), leaf)
            size >>= 1
        return Log(self.size + 1, (*frontier, leaf))

    def extend(self, leaves: Iterable[Digest]) -> Log:
        """Adds entries in order and returns the new version."""
        log = self
        for leaf in leaves:
            log = log.append(leaf)
        return log

    def encode(self) -> bytes:
        """The canonical bytes: {0: size, 1: frontier}."""
        return encode_canonical({0: self.size, 1: self.frontier})


def grow(log: Log, leaves: Iterable[Digest]) -> tuple[Log, list[tuple[int, int, Digest]]]:
    """Appends entries and names the perfect subtrees that a store keeps.

    Returns:
        The log after them, and (level, index, root) of each subtree of 2^level entries that they
        completed, for levels above 0 that are multiples of `LEVEL_STEP`.
    """
    made: list[tuple[int, int, Digest]] = []
    frontier, size = list(log.frontier), log.size
    for entry in leaves:
        root, level = entry, 0
        while size >> level & 1:
            root = node_hash(frontier.pop(), root)
            level += 1
            if level % LEVEL_STEP == 0:
                made.append((level, size >> level, root))
        frontier.append(root)
        size += 1
    return Log(size, tuple(frontier)), made


def decode_log(data: bytes) -> Log:
    """Reads an encoded log.

    Raises:
        EncodingError: malformed, or a frontier that does not fit the size.
    """
    fields = Fields(decode_canonical(data, bytes_max=LOG_BYTES_MAX), "log")
    log = Log(fields.uint(0), fields.digests(1, maximum=63))
    if fields.finish():
        raise EncodingError("log: extensions are not allowed")
    return log
