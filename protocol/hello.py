"""The hello exchange: how a stranger becomes a member, and all a stranger ever learns.

The dialing side speaks first and shows that it is a member; the other side answers with epoch
headers (public by design) and, only if convinced, with its own membership. So whoever cannot prove
membership learns nothing but epoch headers, and whoever dials reveals itself only to the key it
dialed.

Membership proofs are opaque bytes here; `ledger.proof` makes and checks them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from protocol.digest import DidId
from protocol.encoding import Fields, Value, as_array, as_bytes, decode_canonical, encode_canonical
from protocol.errors import EncodingError
from protocol.limits import HELLO_BYTES_MAX

MEMBERSHIP_BYTES_MAX: Final = 8192
"""Header, certificate of 32 validators, state proof and record."""
EPOCH_HEADERS_MAX: Final = 64
"""Epoch-closing headers in one answer: more than a year of weekly epochs of 7 validators; of 32
validators 24 fit, and the dialer asks again."""
EPOCH_HEADER_BYTES_MAX: Final = 4096
"""One epoch-closing header; likewise its certificate."""
_HEADERS_BYTES_MAX: Final = HELLO_BYTES_MAX - MEMBERSHIP_BYTES_MAX - 512
"""What is left for epoch headers beside a membership proof and the other fields."""


class HelloStatus(IntEnum):
    """How the answering side decided."""

    WELCOME = 1
    """The dialer is a member in good standing."""
    READER = 2
    """The dialer is suspended: it may read the ledger, nothing else."""
    REFUSED = 3
    """Not a member as far as I can tell; epoch headers are all there is."""
    NOT_YET = 4
    """Reserved and never sent: it would tell a stranger how far my copy is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """First message, by the dialing side."""

    era: int
    """Era of its chain copy."""
    epoch: int
    """Epoch of its newest final header."""
    height: int
    """Height of its newest final header."""
    did: DidId
    """Who it says it is."""
    membership: bytes
    """Proof of `d/<did>`, or empty when its own copy does not hold it yet."""

    def encode(self) -> bytes:
        """Canonical bytes."""
        return encode_canonical(
            {0: 1, 1: self.era, 2: self.epoch, 3: self.height, 4: self.did, 5: self.membership}
        )


def decode_hello(data: bytes) -> Hello:
    """Reads the first message.

    Raises:
        EncodingError: malformed or over its bounds.
    """
    fields = Fields(decode_canonical(data, bytes_max=HELLO_BYTES_MAX), "hello")
    fields.constant(0, 1)
    hello = Hello(
        era=fields.uint(1),
        epoch=fields.uint(2),
        height=fields.uint(3),
        did=DidId(fields.digest(4)),
        membership=fields.bytes(5, maximum=MEMBERSHIP_BYTES_MAX),
    )
    fields.finish()
    return hello


@dataclass(frozen=True, slots=True, kw_only=True)
class HelloAnswer:
    """Second message, by the side that was dialed."""

    status: HelloStatus
    """How it decided."""
    epoch_headers: tuple[tuple[bytes, bytes], ...]
    """(header, certificate) of each closed epoch since the dialer's, oldest first, at most 64."""
    hello: Hello | None
    """Its own membership; present exactly when the status is WELCOME or READER."""

    def __post_init__(self) -> None:
        """Refuses an answer that reveals itself to a stranger, hides from a member, or is too long.

        Raises:
            EncodingError: membership and status contradict each other, or the epoch headers are
                more than `leading_epoch_headers` would take.
        """
        if (self.hello is not None) != (self.status in (HelloStatus.WELCOME, HelloStatus.READER)):
            raise EncodingError("hello answer: membership is shown to members, and only to them")
        if len(leading_epoch_headers(self.epoch_headers)) != len(self.epoch_headers):
            raise EncodingError("hello answer: epoch headers are too many or too long")

    def encode(self) -> bytes:
        """Canonical bytes."""
        return encode_canonical(
            {
                0: 1,
                1: int(self.status),
                2: [list(pair) for pair in self.epoch_headers],
                3: None if self.hello is None else self.hello.encode(),
            }
        )


def leading_epoch_headers(
    epoch_headers: Sequence[tuple[bytes, bytes]],
) -> tuple[tuple[bytes, bytes], ...]:
    """Takes as many (header, certificate) pairs from the front as one answer may hold."""
    size = 0
    for count, pair in enumerate(epoch_headers[:EPOCH_HEADERS_MAX]):
        size += sum(len(part) for part in pair) + 7  # heads of the pair and its two strings
        if size > _HEADERS_BYTES_MAX:
            return tuple(epoch_headers[:count])
    return tuple(epoch_headers[:EPOCH_HEADERS_MAX])


def _read_epoch_header(value: Value) -> tuple[bytes, bytes]:
    header, certificate = as_array(value, "epoch header", size=2)
    return (
        as_bytes(header, "epoch header", maximum=EPOCH_HEADER_BYTES_MAX),
        as_bytes(certificate, "epoch certificate", maximum=EPOCH_HEADER_BYTES_MAX),
    )


def decode_hello_answer(data: bytes) -> HelloAnswer:
    """Reads the second message.

    Raises:
        EncodingError: malformed or over its bounds.
    """
    fields = Fields(decode_canonical(data, bytes_max=HELLO_BYTES_MAX), "hello answer")
    fields.constant(0, 1)
    answer = HelloAnswer(
        status=fields.enum(1, HelloStatus),
        epoch_headers=fields.items(2, _read_epoch_header, maximum=EPOCH_HEADERS_MAX),
        hello=(
            None
            if fields.value(3) is None
            else decode_hello(fields.bytes(3, maximum=MEMBERSHIP_BYTES_MAX + 256))
        ),
    )
    fields.finish()
    return answer
