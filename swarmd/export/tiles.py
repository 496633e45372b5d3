"""The ledger's log as C2SP static files, from final blocks alone.

The entries of the log are the transactions and then the evidence of each block, in order (L10).
Whoever writes the files has checked that they lead to the newest header's log root.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from ledger.block import Block
from ledger.header import Header
from protocol.errors import VerificationError
from protocol.merkle import leaf_hash, merkle_root
from protocol.tlog import Checkpoint, log_origin
from protocol.tlog_tiles import TILE_HEIGHT, TILE_WIDTH, encode_bundle, encode_tile, tiles_of

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


def tile_files(entries: Sequence[bytes], checkpoint: Checkpoint) -> Iterator[tuple[str, bytes]]:
    """All tiles and entry bundles of a log: path and content.

    Args:
        entries: every entry from the first on.
        checkpoint: what they must lead to.

    Raises:
        VerificationError: they do not.
    """
    leaves = [leaf_hash(entry) for entry in entries]
    if (len(leaves), merkle_root(leaves)) != (checkpoint.size, checkpoint.root):
        raise VerificationError(
            f"{len(leaves)} entries do not lead to the log's root of {checkpoint.size}"
        )
    levels = [leaves]
    while len(levels[-1]) >= TILE_WIDTH:
        below = levels[-1]
        full = range(0, len(below) - TILE_WIDTH + 1, TILE_WIDTH)
        levels.append([merkle_root(below[start : start + TILE_WIDTH]) for start in full])
    for tile in tiles_of(checkpoint.size):
        first = tile.index << TILE_HEIGHT
        yield tile.path, encode_tile(levels[tile.level][first : first + tile.width])
        if tile.level == 0:
            yield tile.bundle_path, encode_bundle(entries[first : first + tile.width])
