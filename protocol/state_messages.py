"""Messages by which a newcomer fetches the state: its head, pages, and the manifests it names.

They travel on the ledger stream beside those of `protocol.catchup`, one request and one answer at a
time. What they carry is opaque here. Rules: docs/spec/state-sync.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from protocol.digest import Digest, ManifestId
from protocol.encoding import Fields, Value, as_bytes, as_digest, encode_canonical
from protocol.errors import EncodingError
from protocol.limits import KIB, MANIFEST_BYTES_MAX

STATE_HEADERS_MAX: Final = 520
"""From a snapshot's header to a certified one: a run of 256 blocks, and 256 fillers."""
STATE_STEPS_MAX: Final = 32
"""Hand-overs of epochs in one answer; who needs more asks again."""
STEP_BYTES_MAX: Final = 16 * KIB
"""One hand-over."""
HEADER_BYTES_MAX: Final = 512
"""One header."""
FINALITY_BYTES_MAX: Final = 4096
"""One certificate."""
LOG_BYTES_MAX: Final = 4 * KIB
"""A log's frontier."""
PAGE_BYTES_MAX: Final = 304 * KIB
"""One page of the state with its proof."""
MANIFESTS_MAX: Final = 16
"""Manifests in one answer: 256 KiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateHeadRequest:
    """Asks for the newest version of the state that the peer keeps for others."""

    epoch: int
    """The asker's epoch; the answer bridges from there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateHeadAnswer:
    """What makes a version believable; headers may be missing while epochs remain to be bridged."""

    steps: tuple[bytes, ...]
    """Encoded hand-overs from the asker's epoch on, oldest first."""
    headers: tuple[bytes, ...]
    """Encoded headers, the version's own first, each the parent of the next."""
    certificate: bytes
    """Finalizes the last header; empty where there are none."""
    log: bytes
    """Encoded log after the version's block; empty where there are no headers."""

    def __post_init__(self) -> None:
        """Refuses parts that belong together and are not there together; raises EncodingError."""
        if len({bool(self.headers), bool(self.certificate), bool(self.log)}) != 1:
            raise EncodingError("state head: headers, certificate and log belong together")


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePageRequest:
    """Asks for the leaves of a version from a path on."""

    height: int
    """Height of the version."""
    start: Digest
    """First path wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePageAnswer:
    """A run of leaves with its proof."""

    page: bytes
    """Encoded page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestsRequest:
    """Asks for original signed manifests."""

    manifests: tuple[ManifestId, ...]
    """Which ones, 1 to 16, each once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestsAnswer:
    """The manifests asked for, in the same order."""

    manifests: tuple[bytes, ...]
    """Original bytes; empty: not here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderRequest:
    """Asks for the final header of a height."""

    height: int
    """Which one, at least 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderAnswer:
    """The header asked for; it proves nothing but by its id."""

    header: bytes
    """Encoded header; empty: not here."""


StateMessage = (
    StateHeadRequest
    | StateHeadAnswer
    | StatePageRequest
    | StatePageAnswer
    | ManifestsRequest
    | ManifestsAnswer
    | HeaderRequest
    | HeaderAnswer
)
"""What this module adds to the ledger stream."""


def encode_state_message(message: StateMessage) -> bytes:
    """Encodes a message as [kind, fields]."""
    match message:
        case StateHeadRequest():
            return encode_canonical([10, {0: message.epoch}])
        case StateHeadAnswer():
            body: Value = {
                0: list(message.steps),
                1: list(message.headers),
                2: message.certificate,
                3: message.log,
            }
            return encode_canonical([11, body])
        case StatePageRequest():
            return encode_canonical([12, {0: message.height, 1: message.start}])
        case StatePageAnswer():
            return encode_canonical([13, {0: message.page}])
        case ManifestsRequest():
            return encode_canonical([14, {0: list(message.manifests)}])
        case ManifestsAnswer():
            return encode_canonical([15, {0: list(message.manifests)}])
        case HeaderRequest():
            return encode_canonical([16, {0: message.height}])
        case HeaderAnswer():
            return encode_canonical([17, {0: message.header}])


def read_state_message(kind: int, fields: Fields) -> StateMessage:
    """Reads the fields of a message of kinds 10 to 17.

    Raises:
        EncodingError: malformed, over a bound, or of another kind.
    """
    match kind:
        case 10:
            return StateHeadRequest(epoch=fields.uint(0))
        case 11:
            return StateHeadAnswer(
                steps=fields.items(0, _bounded(STEP_BYTES_MAX), maximum=STATE_STEPS_MAX),
                headers=fields.items(1, _bounded(HEADER_BYTES_MAX), maximum=STATE_HEADERS_MAX),
                certificate=fields.bytes(2, maximum=FINALITY_BYTES_MAX),
                log=fields.bytes(3, maximum=LOG_BYTES_MAX),
            )
        case 12:
            return StatePageRequest(height=fields.uint(0, minimum=1), start=fields.digest(1))
        case 13:
            return StatePageAnswer(page=fields.bytes(0, maximum=PAGE_BYTES_MAX))
        case 14:
            wanted = fields.items(0, _manifest_id, maximum=MANIFESTS_MAX)
            if not wanted or len(dict.fromkeys(wanted)) != len(wanted):
                raise EncodingError("manifests request: none, or one twice")
            return ManifestsRequest(manifests=wanted)
        case 15:
            return ManifestsAnswer(
                manifests=fields.items(0, _bounded(MANIFEST_BYTES_MAX), maximum=MANIFESTS_MAX)
            )
        case 16:
            return HeaderRequest(height=fields.uint(0, minimum=1))
        case 17:
            return HeaderAnswer(header=fields.bytes(0, maximum=HEADER_BYTES_MAX))
        case _:
            raise EncodingError(f"ledger message of unknown kind {kind}")


def _manifest_id(value: Value) -> ManifestId:
    return ManifestId(as_digest(value, "manifest id"))


def _bounded(maximum: int) -> Callable[[Value], bytes]:
    """A reader of byte strings of at most so many bytes."""
    return lambda value: as_bytes(value, "state message", maximum=maximum)
