"""Newcomers that wait at a member until owners have confirmed their codes.

They are kept in one bounded file, so that a restart of the member loses neither requests nor the
confirmations that came in so far. Newcomers that strangers brought themselves have few places, and
few for each seat: a full table refuses them, and never forgets one for another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ledger.state import StateReader
from protocol.approval import APPROVAL_BYTES_MAX
from protocol.digest import DidId
from protocol.encoding import Fields, Value, as_array, as_bytes, decode_canonical, encode_canonical
from protocol.errors import EncodingError, NotYetError, StorageError, VerificationError
from protocol.limits import KIB, TARGET_GROUPS_MAX
from swarmd.datadir import PRIVATE_FILE_MODE, read_bounded, write_atomic
from swarmd.enrolment_request import REQUEST_BYTES_MAX, EnrolmentRequest, decode_request

NEWCOMERS_NAME: Final = "newcomers.cbor"
"""Name of the file in the data directory."""
NEWCOMERS_SCHEMA: Final = 1
"""Schema number of the file."""
NEWCOMERS_MAX: Final = 64
"""Newcomers that wait; the oldest that an operator brought gives way to the next."""
STRANGERS_MAX: Final = 8
"""Of these, newcomers that came by themselves."""
STRANGERS_PER_SEAT_MAX: Final = 2
"""Newcomers by themselves for one seat: who copied a token can take one place beside its holder."""
_FILE_BYTES_MAX: Final = NEWCOMERS_MAX * (
    REQUEST_BYTES_MAX + TARGET_GROUPS_MAX * APPROVAL_BYTES_MAX + KIB
)
_MS_PER_S: Final = 1000


@dataclass(slots=True, kw_only=True)
class Newcomer:
    """One that owners have not confirmed yet."""

    request: EnrolmentRequest
    """What it asked for."""
    by_itself: bool
    """Whether it came over the network, not through an operator."""
    approvals: dict[str, bytes] = field(default_factory=dict)
    """Confirmations so far: an owner's signed ENROL approval by group."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Groups of which no owner has confirmed it."""
        groups = self.request.claims.groups
        return tuple(name for name in groups if name not in self.approvals)

    def to_value(self) -> Value:
        """The stored form."""
        given: list[Value] = [[name, raw] for name, raw in sorted(self.approvals.items())]
        return [self.request.encode(), self.by_itself, given]

    @classmethod
    def from_value(cls, value: Value) -> Newcomer:
        """Reads the stored form; raises VerificationError."""
        raw, by_itself, given = as_array(value, "newcomer", size=3)
        if not isinstance(by_itself, bool) or not isinstance(given, (list, tuple)):
            raise EncodingError("newcomer: malformed")
        approvals: dict[str, bytes] = {}
        for item in given:
            name, approval = as_array(item, "confirmation", size=2)
            if not isinstance(name, str):
                raise EncodingError("confirmation: group is not text")
            approvals[name] = as_bytes(approval, "confirmation", maximum=APPROVAL_BYTES_MAX)
        request = decode_request(as_bytes(raw, "newcomer", maximum=REQUEST_BYTES_MAX))
        return cls(request=request, by_itself=by_itself, approvals=approvals)


class Newcomers:
    """The table and its file; calls touch the disk, and are made one at a time."""

    def __init__(self, path: Path) -> None:
        """Reads the file at `path`; a missing one is an empty table.

        Raises:
            StorageError: it cannot be read, or is damaged.
        """
        self._path = path
        self._waiting: dict[DidId, Newcomer] = {}
        if path.exists():
            try:
                self._waiting = _decode(read_bounded(path, bytes_max=_FILE_BYTES_MAX))
            except VerificationError as error:
                raise StorageError(
                    f"{path}: {error}; remove it, and newcomers that waited ask again"
                ) from error

    def __iter__(self) -> Iterator[Newcomer]:
        """All that wait, oldest first."""
        return iter(tuple(self._waiting.values()))

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def get(self, did: DidId) -> Newcomer | None:
        """One that waits, or None."""
        return self._waiting.get(did)

    def add(self, request: EnrolmentRequest, *, by_itself: bool) -> None:
        """Lets a newcomer wait; one that waits already keeps its place and its confirmations.

        Raises:
            NotYetError: `enrol.busy`: the places of those who come by themselves are taken.
            StorageError: it could not be kept.
        """
        if request.did in self._waiting:
            return
        if by_itself:
            self._require_place(request)
        kept = dict(self._waiting)
        kept[request.did] = Newcomer(request=request, by_itself=by_itself)
        while len(kept) > NEWCOMERS_MAX:
            kept.pop(next(did for did, item in kept.items() if not item.by_itself))
        self._write(kept)

    def _require_place(self, request: EnrolmentRequest) -> None:
        others = [item.request for item in self._waiting.values() if item.by_itself]
        seat = request.claims.seat
        if len(others) >= STRANGERS_MAX:
            raise NotYetError("enrol.busy", f"{len(others)} newcomers wait here already")
        if sum(other.claims.seat == seat for other in others) >= STRANGERS_PER_SEAT_MAX:
            raise NotYetError("enrol.busy", "others wait for the same seat already")

    def confirm(self, did: DidId, approvals: dict[str, bytes]) -> None:
        """Keeps owners' confirmations of one that waits; harmless for one that does not.

        Raises:
            StorageError: they could not be kept.
        """
        known = self._waiting.get(did)
        if known is not None:
            known.approvals |= approvals
            self._write(self._waiting)

    def remove(self, did: DidId) -> None:
        """Forgets a newcomer.

        Raises:
            StorageError: that could not be kept.
        """
        if did in self._waiting:
            self._write({key: item for key, item in self._waiting.items() if key != did})

    def sweep(self, state: StateReader, now_ms: int) -> None:
        """Forgets those who are in, whose seat another one took, or whose token has expired.

        Raises:
            StorageError: that could not be kept.
        """
        kept = {
            did: item
            for did, item in self._waiting.items()
            if state.subject(did) is None
            and state.seat(item.request.claims.seat) is None
            and item.request.claims.expiry_s * _MS_PER_S >= now_ms
        }
        if len(kept) != len(self._waiting):
            self._write(kept)

    def _write(self, kept: dict[DidId, Newcomer]) -> None:
        value: list[Value] = [item.to_value() for item in kept.values()]
        raw = encode_canonical({0: NEWCOMERS_SCHEMA, 1: value})
        write_atomic(self._path, raw, mode=PRIVATE_FILE_MODE)
        self._waiting = kept


def _decode(data: bytes) -> dict[DidId, Newcomer]:
    fields = Fields(decode_canonical(data, bytes_max=_FILE_BYTES_MAX), "newcomers")
    fields.constant(0, NEWCOMERS_SCHEMA)
    items = fields.items(1, Newcomer.from_value, maximum=NEWCOMERS_MAX)
    fields.finish()
    return {item.request.did: item for item in items}
