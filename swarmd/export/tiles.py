"""The ledger's log as C2SP static files, from final blocks alone.

The entries of the log are the transactions and then the evidence of each block, in order (L10).
Whoever writes the files writes the checkpoint last, when they were found to lead to its root.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from ledger.block import Block
from ledger.header import Header
from ledger.log import Log
from protocol.digest import Digest
from protocol.errors import VerificationError
from protocol.merkle import leaf_hash, merkle_root
from protocol.tlog import Checkpoint, log_origin
from protocol.tlog_tiles import TILE_WIDTH, Tile, encode_bundle, encode_tile

CHECKPOINT_NAME: Final = "checkpoint"
"""File with the head of the log, beside the folder `tile`."""


def entries_of(blocks: Iterable[Block]) -> Iterator[bytes]:
    """The log entries of blocks, in order."""
    for block in blocks:
        yield from block.transactions
        yield from (item.encode() for item in block.evidence)


def checkpoint_of(header: Header) -> Checkpoint:
    """The checkpoint that a final header implies (T11)."""
    origin = log_origin(header.chain, header.era)
    return Checkpoint(origin=origin, size=header.log_size, root=header.log_root)


def tile_files(entries: Iterable[bytes], checkpoint: Checkpoint) -> Iterator[tuple[str, bytes]]:
    """All tiles and entry bundles of a log, as its entries come: path and content.

    At most one tile a level is held. Whoever writes them writes the checkpoint after the last one:
    only then is it known that they lead to it.

    Args:
        entries: every entry from the first on.
        checkpoint: what they must lead to.

    Raises:
        VerificationError: they do not; also at the first entry too many.
    """
    levels: list[_Level] = [_Level(0)]
    bundle: list[bytes] = []
    log = Log()
    for entry in entries:
        if log.size == checkpoint.size:
            raise VerificationError(f"more than the log's {checkpoint.size} entries")
        leaf = leaf_hash(entry)
        log = log.extend((leaf,))
        bundle.append(entry)
        if len(bundle) == TILE_WIDTH:
            yield Tile(0, levels[0].index, TILE_WIDTH).bundle_path, encode_bundle(bundle)
            bundle = []
        yield from _push(levels, 0, leaf)
    if (log.size, log.root) != (checkpoint.size, checkpoint.root):
        raise VerificationError(
            f"{log.size} entries do not lead to the log's root of {checkpoint.size}"
        )
    for level, pending in enumerate(levels):
        if pending.hashes:
            tile = Tile(level, pending.index, len(pending.hashes))
            yield tile.path, encode_tile(pending.hashes)
            if level == 0:
                yield tile.bundle_path, encode_bundle(bundle)


class _Level:
    """The tile of one level that is being filled."""

    def __init__(self, index: int) -> None:
        """Begins tile `index`."""
        self.index = index
        self.hashes: list[Digest] = []


def _push(levels: list[_Level], level: int, digest: Digest) -> Iterator[tuple[str, bytes]]:
    """Adds a hash to a level; a tile that is full is given out, and its root goes a level up."""
    if level == len(levels):
        levels.append(_Level(0))
    filled = levels[level]
    filled.hashes.append(digest)
    if len(filled.hashes) == TILE_WIDTH:
        yield Tile(level, filled.index, TILE_WIDTH).path, encode_tile(filled.hashes)
        levels[level] = _Level(filled.index + 1)
        yield from _push(levels, level + 1, merkle_root(filled.hashes))
