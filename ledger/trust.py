"""How far a node follows validators' keys on their word alone.

Honest validators delete a key when its epoch is over, but a node that was away cannot know whether
thieves were faster: whoever holds the old keys of a quorum can certify another history from that
epoch on. So a node follows at most 26 hand-overs that it did not witness; beyond that it needs a
checkpoint of the governance root, whose keys are offline (docs/spec/governance.md, G12 and G13).

It witnessed a hand-over if this process saw the epoch begin and half of its length pass by its own
monotonic clock before it saw it end: a forged history of weeks takes its forger weeks.
A machine without I/O; its host keeps `base` over restarts.
"""

from __future__ import annotations

from typing import Final

from ledger.header import Header, decode_header
from ledger.light import CHECKPOINT_EPOCHS_MAX, EpochForkError
from protocol.approval import Action
from protocol.digest import ChainId
from protocol.errors import NotYetError, VerificationError
from protocol.governance import Checkpoint, checkpoint_digest, verify_governance
from protocol.group import OwnerRoot

WITNESSED_SHARE: Final = 2
"""One part in so many of an epoch's length must pass by the own clock for it to be witnessed."""


class EpochTrust:
    """What a node may follow."""

    def __init__(self, *, chain: ChainId, era: int, root: OwnerRoot, base: int) -> None:
        """Starts from what was kept.

        Args:
            chain: chain id.
            era: current era.
            root: the governance root of genesis.
            base: newest epoch known by genesis, a witnessed hand-over or a checkpoint.
        """
        self.base = base
        """Newest epoch known otherwise than by old keys; kept over restarts."""
        self.checkpoint: Header | None = None
        """Header of the newest verified checkpoint."""
        self._chain = chain
        self._era = era
        self._root = root
        self._begun: tuple[int, float] | None = None

    @property
    def limit(self) -> int:
        """The newest epoch this node may follow into."""
        checked = 0 if self.checkpoint is None else self.checkpoint.epoch + 1
        return max(self.base, checked) + CHECKPOINT_EPOCHS_MAX

    def require(self, epoch: int) -> None:
        """Refuses to follow into an epoch that only old keys speak for.

        Raises:
            NotYetError: `anchor.checkpoint`: a checkpoint of the governance root is needed.
        """
        if epoch > self.limit:
            raise NotYetError(
                "anchor.checkpoint",
                f"epoch {epoch} is over {CHECKPOINT_EPOCHS_MAX} hand-overs past what this node "
                "witnessed: a checkpoint of the governance root is needed",
            )

    def learn(self, checkpoint: Checkpoint) -> bool:
        """Takes a checkpoint from anybody; older ones than the known are passed over.

        Returns:
            Whether it was news.

        Raises:
            VerificationError: the governance root did not sign it, or it closes no epoch of this
                chain and era.
            EpochForkError: two checkpoints name different blocks for one epoch.
        """
        header = decode_header(checkpoint.header)
        if (header.chain, header.era) != (self._chain, self._era) or not header.closes_epoch:
            raise VerificationError("checkpoint: no closing header of this chain and era")
        known = self.checkpoint
        if known is not None and header.epoch < known.epoch:
            return False
        verify_governance(
            checkpoint.approvals,
            root=self._root,
            chain=self._chain,
            era=self._era,
            action=Action.CHECKPOINT,
            subject=checkpoint_digest(header.height, header.block_id),
        )
        if known is not None and header.epoch == known.epoch:
            if header.block_id != known.block_id:
                raise EpochForkError(header.epoch, known.block_id, header.block_id)
            return False
        self.checkpoint = header
        return True

    def compare(self, header: Header) -> None:
        """Compares a closing header somebody showed with what the governance root vouched for.

        Raises:
            EpochForkError: it vouched for another header of this epoch.
        """
        known = self.checkpoint
        if known is None or known.epoch != header.epoch or known.block_id == header.block_id:
            return
        raise EpochForkError(header.epoch, known.block_id, header.block_id)

    def closed(self, header: Header, now: float, epoch_ms: int) -> bool:
        """Notes that an epoch ended in this node's ledger.

        Args:
            header: the closing header, final.
            now: monotonic clock, seconds.
            epoch_ms: length of the epoch that ended, milliseconds.

        Returns:
            Whether `base` rose, so that the host keeps it.

        Raises:
            EpochForkError: the governance root vouched for another header of this epoch.
        """
        before = self.base
        self.compare(header)
        if self.checkpoint is not None and self.checkpoint.epoch == header.epoch:
            self.base = max(self.base, header.epoch + 1)
        begun, self._begun = self._begun, (header.epoch + 1, now)
        if begun is None or begun[0] != header.epoch:  # a fetched state leaps over epochs
            return self.base > before
        if (now - begun[1]) * 1000 * WITNESSED_SHARE >= epoch_ms:
            self.base = max(self.base, header.epoch + 1)
        return self.base > before
