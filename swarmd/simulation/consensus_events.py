"""What happens to simulated consensus hosts, and what of it enters a trace."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from ledger.consensus_messages import CertificateMessage, Message, Propose, VoteMessage
from ledger.simplex.interface import Input


@dataclass(frozen=True, slots=True)
class Local:
    """An answer of the host's own disk or processor; void after a crash or a new engine."""

    run: int
    """Which engine of the host asked."""
    event: Input
    """What to feed."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Final blocks up to a height reached the disk."""

    run: int
    """Which run of the host asked."""
    height: int
    """Height that is durable now."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """A consensus message with the epoch it belongs to."""

    epoch: int
    """Epoch of the sender's engine."""
    content: Message | bytes | None
    """The message; None: the sender only tells its epoch."""
    is_bad: bool = False
    """Known to nobody but the invariants: the sender meant it to break a rule."""


@dataclass(frozen=True, slots=True)
class AskRun:
    """Asks for final blocks above a height."""

    height: int
    """Height of the asker's last final block."""


_VOTE: Final = struct.Struct(">BIB")


def fingerprint(event: object) -> bytes:
    """What of an event enters the trace hash: kind, view and signer of votes, ids of blocks."""
    if isinstance(event, Tagged):
        event = event.content
    if isinstance(event, bytes):
        return event
    if isinstance(event, VoteMessage):
        return _VOTE.pack(event.vote.kind, event.vote.view & 0xFFFFFFFF, event.vote.signer)
    if isinstance(event, Propose):
        return event.block.block_id
    if isinstance(event, CertificateMessage):
        return b"c" + _VOTE.pack(event.certificate.kind, event.certificate.view, 0)
    if isinstance(event, Local):
        return type(event.event).__name__.encode("ascii")
    return type(event).__name__.encode("ascii")
