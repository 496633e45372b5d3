"""The hello exchange: how a stranger becomes a member, and all a stranger ever learns.

The dialing side speaks first and shows that it is a member; the other side answers with epoch
headers (public by design) and, only if convinced, with its own membership. So whoever cannot prove
membership learns nothing but hand-overs, and whoever dials reveals itself only to the key it
dialed.

Membership proofs are opaque bytes here; `ledger.proof` makes and checks them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from protocol.digest import DidId
from protocol.encoding import Fields, Value, as_bytes, decode_canonical, encode_canonical
from protocol.errors import EncodingError
from protocol.governance import CHECKPOINT_BYTES_MAX, Checkpoint, decode_checkpoint
from protocol.limits import HELLO_BYTES_MAX, KIB

MEMBERSHIP_BYTES_MAX: Final = 8192
"""Header, certificate of 32 validators, state proof and record."""
EPOCH_STEPS_MAX: Final = 64
"""Hand-overs in one answer: of 7 validators about 30 fit, of 32 about 9; the dialer asks again."""
EPOCH_STEP_BYTES_MAX: Final = 16 * KIB
"""One hand-over: a set of 32, its certificate and about 20 fillers."""
_STEPS_BYTES_MAX: Final = HELLO_BYTES_MAX - MEMBERSHIP_BYTES_MAX - CHECKPOINT_BYTES_MAX - 512
"""What is left for hand-overs beside a membership proof, a checkpoint and the other fields."""


class HelloStatus(IntEnum):
    """How the answering side decided."""

    WELCOME = 1
    """The dialer is a member in good standing."""
    READER = 2
    """The dialer is suspended: it may read the ledger, nothing else."""
    REFUSED = 3
    """Not a member as far as I can tell; hand-overs are all there is."""
    NOT_YET = 4
    """Reserved and never sent: it would tell a stranger how far my copy is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """First message, by the dialing side."""

    era: int
    """Era of its chain copy."""
    epoch: int
    """Newest epoch whose validators it knows; it is told how the following ones came about."""
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
    epoch_steps: tuple[bytes, ...]
    """Encoded hand-overs (`ledger.light.EpochStep`) from the dialer's epoch on, at most 64."""
    hello: Hello | None
    """Its own membership; present exactly when the status is WELCOME or READER."""
    checkpoint: Checkpoint | None = None
    """The newest checkpoint of the governance root, for whoever was away for long."""

    def __post_init__(self) -> None:
        """Refuses an answer that reveals itself to a stranger, hides from a member, or is too long.

        Raises:
            EncodingError: membership and status contradict each other, or the steps are more
                than `leading_epoch_steps` would take.
        """
        if (self.hello is not None) != (self.status in (HelloStatus.WELCOME, HelloStatus.READER)):
            raise EncodingError("hello answer: membership is shown to members, and only to them")
        if len(leading_epoch_steps(self.epoch_steps)) != len(self.epoch_steps):
            raise EncodingError("hello answer: epoch steps are too many or too long")

    def encode(self) -> bytes:
        """Canonical bytes."""
        return encode_canonical(
            {
                0: 1,
                1: int(self.status),
                2: list(self.epoch_steps),
                3: None if self.hello is None else self.hello.encode(),
                4: None if self.checkpoint is None else self.checkpoint.encode(),
            }
        )


def leading_epoch_steps(epoch_steps: Sequence[bytes]) -> tuple[bytes, ...]:
    """Takes as many encoded steps from the front as one answer may hold."""
    size = 0
    for count, step in enumerate(epoch_steps[:EPOCH_STEPS_MAX]):
        size += len(step) + 5  # head of its string
        if size > _STEPS_BYTES_MAX or len(step) > EPOCH_STEP_BYTES_MAX:
            return tuple(epoch_steps[:count])
    return tuple(epoch_steps[:EPOCH_STEPS_MAX])


def _read_epoch_step(value: Value) -> bytes:
    return as_bytes(value, "epoch step", maximum=EPOCH_STEP_BYTES_MAX)


def decode_hello_answer(data: bytes) -> HelloAnswer:
    """Reads the second message.

    Raises:
        EncodingError: malformed or over its bounds.
    """
    fields = Fields(decode_canonical(data, bytes_max=HELLO_BYTES_MAX), "hello answer")
    fields.constant(0, 1)
    answer = HelloAnswer(
        status=fields.enum(1, HelloStatus),
        epoch_steps=fields.items(2, _read_epoch_step, maximum=EPOCH_STEPS_MAX),
        hello=(
            None
            if fields.value(3) is None
            else decode_hello(fields.bytes(3, maximum=MEMBERSHIP_BYTES_MAX + 256))
        ),
        checkpoint=(
            None
            if fields.value(4) is None
            else decode_checkpoint(fields.bytes(4, maximum=CHECKPOINT_BYTES_MAX))
        ),
    )
    fields.finish()
    return answer
