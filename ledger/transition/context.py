"""What a transaction may know about the block it is in."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.validators import ValidatorSet
from protocol.digest import ChainId


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockContext:
    """What a transaction may know about the block it is in."""

    chain: ChainId
    """Chain of the ledger."""
    era: int
    """Era of the ledger."""
    height: int
    """Height of the block."""
    time_ms: int
    """Header time of the block, milliseconds since 1970."""
    validators: ValidatorSet
    """Who certifies the block."""
