"""The part of the chain that is not final yet: known blocks above the last final one."""

from __future__ import annotations

from ledger.block import Block
from ledger.certificate import Certificate
from ledger.header import Header
from protocol.digest import BlockId


class Chain:
    """Known blocks above the last final block, by id."""

    __slots__ = ("_epoch", "blocks", "certificate", "final")

    def __init__(self, final: Header, certificate: Certificate | None, *, epoch: int) -> None:
        """Starts at the last final block, which may be the one that closed the epoch before."""
        self._epoch = epoch
        self.final = final
        """Header of the last final block."""
        self.certificate = certificate if final.epoch == epoch else None
        """Its finalize certificate; None at the beginning of an epoch."""
        self.blocks: dict[BlockId, Block] = {}
        """Blocks with a height above the final one."""

    @property
    def view(self) -> int:
        """View of the last final block; 0 at the beginning of an epoch."""
        return self.final.view_in(self._epoch)

    def add(self, block: Block) -> None:
        """Keeps a block unless its height is final already."""
        if block.header.height > self.final.height:
            self.blocks[block.block_id] = block

    def header(self, block_id: BlockId) -> Header | None:
        """Finds the header of a known block or of the last final one."""
        if block_id == self.final.block_id:
            return self.final
        block = self.blocks.get(block_id)
        return None if block is None else block.header

    def path(self, block_id: BlockId) -> tuple[list[Block], BlockId | None]:
        """Walks from a block back to the last final one.

        Returns:
            The blocks above the final one up to `block_id`, oldest first, and None; or what is
            known of them and the first id that is missing. A walk that ends at a final height but
            not at the final block returns the id it ended at, which nobody can supply.
        """
        blocks: list[Block] = []
        while block_id != self.final.block_id:
            block = self.blocks.get(block_id)
            if block is None:
                blocks.reverse()
                return blocks, block_id
            blocks.append(block)
            block_id = block.header.parent
        blocks.reverse()
        return blocks, None

    def is_fork(self, path: list[Block]) -> bool:
        """Tells whether an incomplete path can never reach the final block."""
        return bool(path) and path[0].header.height <= self.final.height + 1

    def advance(self, final: Header, certificate: Certificate) -> None:
        """Makes a block final and forgets what is at or below its height."""
        self.final = final
        self.certificate = certificate
        for block_id in [
            key for key, block in self.blocks.items() if block.header.height <= final.height
        ]:
            del self.blocks[block_id]
