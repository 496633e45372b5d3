"""The hello exchange: how a stranger becomes a member, and all a stranger ever learns.

The dialing side speaks first and shows that it is a member; the other side answers with epoch headers
(public by design) and, only if convinced, with its own membership. So whoever cannot prove membership
learns nothing but epoch headers, and whoever dials reveals itself only to the key it dialed.

Membership proofs are opaque bytes here; `ledger.proof` makes and checks them.
"""

from __future__ import annotations

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
"""Epoch-closing headers in one answer: more than a year of weekly epochs."""
_EPOCH_HEADER_BYTES_MAX: Final = 4096


class HelloStatus(IntEnum):
    """How the answering side decided."""

    WELCOME = 1
    """The dialer is a member in good standing."""
    READER = 2
    """The dialer is suspended: it may read the ledger, nothing else."""
    REFUSED = 3
    """Not a member as far as I can tell; epoch headers are all there is."""
    NOT_YET = 4
    """My copy is older than yours and your proof does not reach it: try another peer."""


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
        """Refuses an answer that reveals itself to a stranger, or hides from a member."""
        if (self.hello is not None) != (self.status in (HelloStatus.WELCOME, HelloStatus.READER)):
            raise EncodingError("hello answer: membership is shown to members, and only to them")

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


def _read_epoch_header(value: Value) -> tuple[bytes, bytes]:
    header, certificate = as_array(value, "epoch header", size=2)
    return (
        as_bytes(header, "epoch header", maximum=_EPOCH_HEADER_BYTES_MAX),
        as_bytes(certificate, "epoch certificate", maximum=_EPOCH_HEADER_BYTES_MAX),
    )


def decode_hello_answer(data: bytes) -> HelloAnswer:
    """Reads the second message.

    Raises:
        EncodingError: malformed or over its bounds.
    """
    fields = Fields(decode_canonical(data, bytes_max=HELLO_BYTES_MAX), "hello answer")
    fields.constant(0, 1)
    answer = HelloAnswer(
        status=HelloStatus(fields.uint(1, minimum=1, maximum=max(HelloStatus))),
        epoch_headers=fields.items(2, _read_epoch_header, maximum=EPOCH_HEADERS_MAX),
        hello=(
            None
            if fields.value(3) is None
            else decode_hello(fields.bytes(3, maximum=MEMBERSHIP_BYTES_MAX + 256))
        ),
    )
    fields.finish()
    return answer
