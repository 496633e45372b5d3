"""The sealing protocol: one member asks another for a ring file, or for its sealing key.

Each request is one frame, and so is its answer. `UNKNOWN` is all that is said to who is not of the
group, and to who asks too often. Rules: docs/spec/sealing.md, Z23 to Z26.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from protocol.digest import Digest
from protocol.encoding import Fields, decode_canonical, encode_canonical
from protocol.errors import EncodingError
from protocol.limits import KIB
from protocol.sealing_ring import RING_FILE_BYTES_MAX, STATEMENT_BYTES_MAX

REQUEST_BYTES_MAX: Final = 128
"""A kind, a ring and a version."""
ANSWER_BYTES_MAX: Final = RING_FILE_BYTES_MAX + KIB
"""A full ring file and its frame."""
_VERSION_MAX: Final = 2**32 - 1


class RingStatus(IntEnum):
    """What an answer is."""

    RING = 1
    """A ring file newer than the one the asker has."""
    CURRENT = 2
    """Nothing newer here."""
    UNKNOWN = 3
    """No such ring, as far as the asker is told."""
    KEY = 4
    """A sealing key statement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RingRequest:
    """Asks for a ring file; without a ring, for the other side's sealing key statement."""

    ring: Digest | None
    """Which ring; None: the statement is asked for."""
    version: int = 0
    """Version that the asker has; 0: none."""

    def encode(self) -> bytes:
        """Canonical bytes."""
        return encode_canonical({0: 1, 1: self.ring, 2: self.version})


def decode_ring_request(data: bytes) -> RingRequest:
    """Reads a request.

    Raises:
        EncodingError: malformed or over its bounds.
    """
    fields = Fields(decode_canonical(data, bytes_max=REQUEST_BYTES_MAX), "ring request")
    fields.constant(0, 1)
    request = RingRequest(
        ring=None if fields.value(1) is None else fields.digest(1),
        version=fields.uint(2, maximum=_VERSION_MAX),
    )
    fields.finish()
    return request


@dataclass(frozen=True, slots=True, kw_only=True)
class RingAnswer:
    """The one answer to a request."""

    status: RingStatus
    """What it is."""
    content: bytes = b""
    """A signed ring file or statement; empty with the other two."""

    def __post_init__(self) -> None:
        """Refuses content where there is none, or too much of it; raises EncodingError."""
        maximum = {
            RingStatus.RING: RING_FILE_BYTES_MAX,
            RingStatus.KEY: STATEMENT_BYTES_MAX,
        }.get(self.status, 0)
        if (maximum > 0) != bool(self.content) or len(self.content) > maximum:
            raise EncodingError(f"ring answer {self.status.name} of {len(self.content)} bytes")

    def encode(self) -> bytes:
        """Canonical bytes."""
        return encode_canonical({0: 1, 1: int(self.status), 2: self.content})


def decode_ring_answer(data: bytes) -> RingAnswer:
    """Reads an answer.

    Raises:
        EncodingError: malformed or over its bounds.
    """
    fields = Fields(decode_canonical(data, bytes_max=ANSWER_BYTES_MAX), "ring answer")
    fields.constant(0, 1)
    answer = RingAnswer(
        status=fields.enum(1, RingStatus),
        content=fields.bytes(2, maximum=RING_FILE_BYTES_MAX),
    )
    fields.finish()
    return answer
