"""The address book: where members say they are, and where they proved their keys.

Kept in the data directory, so that a node that starts without its usual peers finds others. It
holds nothing but signed statements of members (`protocol.address_statement`) and addresses that
proved a member's key to this node; what the ledger no longer confirms is not used and not kept.
Losing the file loses time, never safety, so a file that cannot be read is replaced by an empty one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from ledger.records.subject import SubjectRecord, SubjectStatus
from protocol.address_statement import (
    STATEMENT_BYTES_MAX,
    AddressStatement,
    Reach,
    SignedStatement,
    parse_statement,
)
from protocol.did import KeyPurpose
from protocol.digest import ChainId, DidId
from protocol.encoding import (
    Fields,
    Value,
    as_array,
    as_bytes,
    as_uint,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError, StorageError, VerificationError
from protocol.limits import MIB
from swarmd.datadir import read_bounded, write_atomic
from swarmd.net.address import PEER_KEY_BYTES, PeerAddress, PeerKey, peer_key
from swarmd.net.address_scope import Scope, scope_of

logger = logging.getLogger(__name__)

BOOK_NAME: Final = "addresses.cbor"
"""File in the data directory."""
BOOK_BYTES_MAX: Final = 4 * MIB
"""All statements and addresses at their longest take 3.5 MiB."""
MEMBERS_MAX: Final = 1024
"""Members whose statements are kept; whose expire first are forgotten first."""
PROVEN_PEERS_MAX: Final = 1024
"""Peers whose proven addresses are kept; those used least recently are forgotten first."""
PROVEN_MAX: Final = 4
"""Proven addresses of one peer."""
_ITEMS_MAX: Final = 32_768
_PORT_MAX: Final = 65_535


class AddressBook:
    """Statements and proven addresses of members, as far as the ledger knows them."""

    def __init__(
        self,
        chain: ChainId,
        *,
        subject: Callable[[DidId], SubjectRecord | None],
        is_member: Callable[[PeerKey], bool],
        era: Callable[[], int],
        time_ms: Callable[[], int],
    ) -> None:
        """Starts empty.

        Args:
            chain: whose members these are.
            subject: a record by my copy of the ledger.
            is_member: whether a key is an active member's transport key, by my copy.
            era: the era of my copy.
            time_ms: ledger time, milliseconds.
        """
        self._chain = chain
        self._subject = subject
        self._is_member = is_member
        self._era = era
        self._time_ms = time_ms
        self._stated: dict[PeerKey, dict[Reach, SignedStatement]] = {}
        self._proven: dict[PeerKey, dict[PeerAddress, int]] = {}
        self.own_sequence = 0
        """The greatest sequence this node has signed."""
        self.is_changed = False
        """Whether there is something to save."""

    def __len__(self) -> int:
        """How many members' statements are held."""
        return len(self._stated)

    # -- statements ----------------------------------------------------------------------------

    def take(self, raw: bytes, scope: Scope) -> PeerKey | None:
        """Takes a statement in if it is newer than what is held (U20 to U25).

        Args:
            raw: as it came.
            scope: of the connection it came over; narrower statements are ignored.

        Returns:
            Whose addresses are others now; None: nothing new, or not usable by my copy.

        Raises:
            VerificationError: malformed, forged, or about addresses it may not name.
        """
        signed = parse_statement(raw)
        statement = signed.statement
        if statement.reach < scope or not self._is_news(statement):
            return None
        record = self._subject(statement.subject)
        if record is None or not self._is_usable(signed, record):
            return None
        for item in statement.addresses:
            if int(scope_of(item.host)) != int(statement.reach):
                raise EncodingError(f"stated address {item.host} is not of its statement's reach")
        key = record.key(KeyPurpose.NODE)
        assert key is not None, "checked by _is_usable"
        signed.verify(key, self._chain)
        peer = peer_key(statement.peer)
        self._stated.setdefault(peer, {})[statement.reach] = signed
        self._make_room(peer)
        self.is_changed = True
        return peer

    def _is_news(self, statement: AddressStatement) -> bool:
        if statement.era != self._era() or statement.expires_ms <= self._time_ms():
            return False
        held = self._stated.get(PeerKey(statement.peer), {}).get(statement.reach)
        return held is None or held.statement.sequence < statement.sequence

    @staticmethod
    def _is_usable(signed: SignedStatement, record: SubjectRecord) -> bool:
        """Whether the subject is active and has these keys now; else somebody's copy is old."""
        transport, node = record.key(KeyPurpose.TRANSPORT), record.key(KeyPurpose.NODE)
        return (
            record.status is SubjectStatus.ACTIVE
            and transport is not None
            and transport.raw == signed.statement.peer
            and node is not None
            and node.key_id == signed.signed.key_id
        )

    def _make_room(self, kept: PeerKey) -> None:
        if len(self._stated) <= MEMBERS_MAX:
            return
        others = (peer for peer in self._stated if peer != kept)
        del self._stated[min(others, key=self._expiry)]

    def _expiry(self, peer: PeerKey) -> int:
        return max(item.statement.expires_ms for item in self._stated[peer].values())

    def statements(self, peer: PeerKey) -> tuple[SignedStatement, ...]:
        """A member's valid statements; nothing of who is no active member any more."""
        now_ms, era = self._time_ms(), self._era()
        found: list[SignedStatement] = []
        for signed in self._stated.get(peer, {}).values():
            statement = signed.statement
            if statement.era != era or statement.expires_ms <= now_ms:
                continue
            record = self._subject(statement.subject)
            if record is not None and self._is_usable(signed, record):
                found.append(signed)
        return tuple(found)

    def members(self) -> Iterator[PeerKey]:
        """Members with statements, in the order they came."""
        yield from tuple(self._stated)

    def stated(self, peer: PeerKey) -> tuple[PeerAddress, ...]:
        """Addresses a member names, the farthest reaching statement last."""
        ordered = sorted(self.statements(peer), key=lambda signed: signed.statement.reach)
        return tuple(
            PeerAddress(peer, item.host, item.port)
            for signed in ordered
            for item in signed.statement.addresses
        )

    def forwarders(self, peer: PeerKey) -> tuple[PeerKey, ...]:
        """Members that pass connections on to a member, by its own word."""
        return tuple(
            PeerKey(key) for signed in self.statements(peer) for key in signed.statement.forwarders
        )

    def is_forwarder(self, peer: PeerKey) -> bool:
        """Whether a member says that it passes connections on."""
        return any(signed.statement.forwards for signed in self.statements(peer))

    # -- proven addresses ----------------------------------------------------------------------

    def note_proven(self, address: PeerAddress) -> None:
        """A peer proved its key at an address; kept if it is a member's."""
        if not self._is_member(address.peer) or scope_of(address.host) is Scope.NOWHERE:
            return
        known = self._proven.pop(address.peer, {})
        is_new = known.pop(address, None) is None
        known[address] = self._time_ms()
        while len(known) > PROVEN_MAX:
            known.pop(next(iter(known)))
        self._proven[address.peer] = known
        while len(self._proven) > PROVEN_PEERS_MAX:
            self._proven.pop(next(iter(self._proven)))
        self.is_changed = self.is_changed or is_new

    def proven(self, peer: PeerKey) -> tuple[PeerAddress, ...]:
        """Where a member proved its key, the last place first; nothing of who is no member."""
        if not self._is_member(peer):
            return ()
        return tuple(reversed(self._proven.get(peer, {})))

    def proven_peers(self) -> Iterator[PeerKey]:
        """Peers with proven addresses."""
        yield from tuple(self._proven)

    def proven_at_ms(self, address: PeerAddress) -> int | None:
        """When the key was proved there last, ledger time in milliseconds; None: never."""
        return self._proven.get(address.peer, {}).get(address)

    # -- the file ------------------------------------------------------------------------------

    def encode(self) -> bytes:
        """The file: what is still valid of it."""
        statements: list[Value] = [
            signed.signed.raw for peer in self._stated for signed in self.statements(peer)
        ]
        proven: list[Value] = [
            [address.peer, address.host, address.port, at_ms]
            for peer, known in self._proven.items()
            if self._is_member(peer)
            for address, at_ms in known.items()
        ]
        return encode_canonical({0: 1, 1: self.own_sequence, 2: statements, 3: proven})

    def restore(self, data: bytes) -> None:
        """Takes in what an earlier run kept; statements are verified again.

        Raises:
            VerificationError: not a file of this kind; nothing was taken in.
        """
        value = decode_canonical(data, bytes_max=BOOK_BYTES_MAX, items_max=_ITEMS_MAX)
        fields = Fields(value, "address book")
        fields.constant(0, 1)
        sequence = fields.uint(1)
        statements = fields.items(2, _statement, maximum=3 * MEMBERS_MAX)
        proven = fields.items(3, _proven_entry, maximum=PROVEN_MAX * PROVEN_PEERS_MAX)
        fields.finish()
        self.own_sequence = sequence
        for address, at_ms in proven:
            self._proven.setdefault(address.peer, {})[address] = at_ms
        for raw in statements:
            try:
                self.take(raw, Scope.MACHINE)
            except VerificationError as error:
                logger.warning("address book: statement dropped: %s", error)
        self.is_changed = False

    def load(self, path: Path) -> None:
        """Reads the file of an earlier run; one that cannot be used leaves the book empty."""
        if not path.exists():
            return
        try:
            self.restore(read_bounded(path, bytes_max=BOOK_BYTES_MAX))
        except (VerificationError, StorageError) as error:
            logger.warning("the address book begins empty: %s", error)

    @staticmethod
    def write(path: Path, data: bytes) -> None:
        """Replaces the file; call in a worker thread.

        Raises:
            StorageError: the file system refused; the old one stands.
        """
        write_atomic(path, data)


def _statement(value: Value) -> bytes:
    return as_bytes(value, "statement", maximum=STATEMENT_BYTES_MAX)


def _proven_entry(value: Value) -> tuple[PeerAddress, int]:
    key, host, port, at_ms = as_array(value, "proven address", size=4)
    if not isinstance(host, str):
        raise EncodingError("proven host is not text")
    address = PeerAddress(
        peer_key(as_bytes(key, "peer key", size=PEER_KEY_BYTES)),
        host,
        as_uint(port, "proven port", maximum=_PORT_MAX),
    )
    return address, as_uint(at_ms, "time of proof")
