"""A transaction kind: its name, its body, its rule and its lane."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, Protocol, TypeVar

from ledger.bodies.codec import MapValue
from ledger.state import Draft
from ledger.transition.context import BlockContext
from protocol.digest import DidId
from protocol.encoding import Fields


class Body(Protocol):
    """What a transaction asks for: one of the dataclasses in `ledger.bodies`."""

    def to_value(self) -> MapValue:
        """The wire form."""


B = TypeVar("B", bound=Body)


class Lane(Enum):
    """How a kind competes for space with others."""

    ORDINARY = "ordinary"
    """By arrival, within its signer's shares."""
    PROTECTING = "protecting"
    """First, with a share of blocks and mempools of its own; never refused for its signer's
    shares, because what it needs (owners' approvals, evidence) bounds it already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(Generic[B]):
    """One row of the registry."""

    name: str
    """What the envelope states, `area.verb`."""
    body: type[B]
    """The class of its bodies."""
    read: Callable[[Fields], B]
    """Reads the wire form; raises EncodingError."""
    apply: Callable[[Draft, DidId, B, BlockContext], None]
    """Its rule: (draft, signer, body, context); raises LedgerError and then leaves no trace."""
    lane: Lane = Lane.ORDINARY
    """How it competes for space."""
    hourly_max: int | None = None
    """For protecting kinds that no owner bounds: how many of one signer pass in an hour. It is one
    count for all such kinds; above it they are refused."""
