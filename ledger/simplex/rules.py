"""What makes a proposal valid before it is executed: its place in the chain, and its time.

The engine checks places (`check_place`); the application, which owns the wall clock, checks times
(`verify_time`) as part of its verdict (C50 to C52).
"""

from __future__ import annotations

from typing import Final

from ledger.block import Block
from ledger.header import Header
from ledger.validators import ValidatorSet
from protocol.digest import ChainId
from protocol.errors import VerificationError
from protocol.limits import BLOCK_INTERVAL_MS_MIN, BLOCK_SKIPS_MAX

FUTURE_MS_MAX: Final = 5_000
"""How far a header's time may be ahead of a voter's clock, milliseconds (PBTS precision)."""
PAST_MS_MAX: Final = 60_000
"""How old a proposal may be when a voter judges it, milliseconds."""
AHEAD_MS_MAX: Final = 4_000
"""How far ahead of its own clock a leader proposes; the second left covers the clocks' skew."""


def skipped_views(parent_view: int, view: int) -> range:
    """The views whose skip certificates a block names: all between, but the newest 1,024 (C15)."""
    return range(max(parent_view + 1, view - BLOCK_SKIPS_MAX), view)


def check_place(block: Block, *, chain: ChainId, era: int, validators: ValidatorSet) -> None:
    """Checks what a proposal's header says about itself (C50).

    Raises:
        VerificationError: another chain, era, epoch or set, not the leader's, or skip proofs that
            do not name exactly the skipped views.
    """
    header = block.header
    if (header.chain, header.era, header.epoch) != (chain, era, validators.epoch):
        raise VerificationError("proposal belongs to another chain, era or epoch")
    if header.proposer != validators.leader(header.view):
        raise VerificationError(f"validator {header.proposer} does not lead view {header.view}")
    if header.validators != validators.digest:
        raise VerificationError("proposal names another validator set")
    if [skip.view for skip in block.skips] != list(skipped_views(header.parent_view, header.view)):
        raise VerificationError("skip proofs do not name exactly the skipped views")


def check_parent(header: Header, parent: Header) -> None:
    """Checks that a header continues its parent (C51).

    Raises:
        VerificationError: wrong parent, parent view or height, a log that shrinks, or after a
            closing block anything but a filler.
    """
    if (header.parent, header.parent_view) != (parent.block_id, parent.view_in(header.epoch)):
        raise VerificationError("proposal names another parent")
    if header.height != parent.height + 1:
        raise VerificationError(f"height {header.height} after {parent.height}")
    if header.log_size < parent.log_size:
        raise VerificationError("the log shrinks")
    if is_closed(parent, header.epoch):
        check_filler(header, parent)


def is_closed(parent: Header, epoch: int) -> bool:
    """Tells whether only fillers of `epoch` may follow a block: it closes that epoch (E14)."""
    return parent.closes_epoch and parent.epoch == epoch


def check_filler(header: Header, parent: Header) -> None:
    """Checks that a header changes nothing: it only helps the closing block to finality (E14).

    That the body is empty follows from the log, which grows with each entry but skip proofs.

    Raises:
        VerificationError: another parent or epoch, or it changes log, state or sets.
    """
    if (header.parent, header.parent_view) != (parent.block_id, parent.view):
        raise VerificationError("filler names another parent")
    if (header.epoch, header.height) != (parent.epoch, parent.height + 1):
        raise VerificationError("filler does not follow its parent")
    after = (header.log_size, header.log_root, header.state_root)
    if after != (parent.log_size, parent.log_root, parent.state_root):
        raise VerificationError("filler changes log or state")
    sets = (header.validators, header.next_validators)
    if sets != (parent.validators, parent.next_validators):
        raise VerificationError("filler names other validator sets")


def verify_time(header: Header, parent: Header, *, now_ms: int) -> None:
    """Checks a proposal's time against its parent and the voter's clock (C52).

    Args:
        header: the proposal's header.
        parent: its parent's header.
        now_ms: wall clock, milliseconds since 1970.

    Raises:
        VerificationError: less than the block interval after the parent, more than 5 s ahead of the
            clock or more than 60 s behind it. Blocks that are already final are not judged.
    """
    if header.time_ms < parent.time_ms + BLOCK_INTERVAL_MS_MIN:
        raise VerificationError(
            f"header time {header.time_ms} is less than {BLOCK_INTERVAL_MS_MIN} ms after its parent"
        )
    if header.time_ms > now_ms + FUTURE_MS_MAX:
        raise VerificationError(f"header time is {header.time_ms - now_ms} ms in the future")
    if header.time_ms < now_ms - PAST_MS_MAX:
        raise VerificationError(f"header time is {now_ms - header.time_ms} ms in the past")


def proposal_time_ms(parent: Header, now_ms: int) -> int | None:
    """Chooses the time of a proposal (C52).

    Returns:
        The clock, or the least time after the parent if that is later; None when even that is more
        than 4 s ahead of the clock, and the leader must wait or pass.
    """
    time_ms = max(now_ms, parent.time_ms + BLOCK_INTERVAL_MS_MIN)
    return time_ms if time_ms <= now_ms + AHEAD_MS_MAX else None
