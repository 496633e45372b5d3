"""The address book: whose word it takes, what it forgets, and what a damaged file costs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.records.subject import SubjectRecord, SubjectStatus
from protocol.address_statement import (
    LIFETIME_MS_MAX,
    AddressStatement,
    Reach,
    StatedAddress,
    parse_statement,
    sign_statement,
)
from protocol.did import KeyPurpose, SubjectKind
from protocol.digest import ChainId, DidId
from protocol.errors import EncodingError, SignatureError, VerificationError
from protocol.keys import PrivateKey
from swarmd import address_book
from swarmd.address_book import AddressBook
from swarmd.net.address import PeerAddress, PeerKey
from swarmd.net.address_scope import Scope

CHAIN = ChainId(b"\x07" * 32)
NOW_MS = 1_000_000_000


class Member:
    """A subject with its keys."""

    def __init__(self, number: int) -> None:
        self.did = DidId(number.to_bytes(32, "big"))
        self.node = PrivateKey((1000 + number).to_bytes(32, "big"))
        self.transport = PrivateKey((5000 + number).to_bytes(32, "big"))
        self.peer = PeerKey(self.transport.public.raw)
        self.record = SubjectRecord(
            kind=SubjectKind.GATEWAY,
            name=f"gateway-{number}",
            keys=(
                (KeyPurpose.TRANSPORT, self.transport.public),
                (KeyPurpose.NODE, self.node.public),
            ),
            next_keys=None,
            groups=("fleet",),
            status=SubjectStatus.ACTIVE,
            sequence=0,
        )

    def statement(self, **changes: object) -> AddressStatement:
        fields: dict[str, object] = {
            "era": 0,
            "subject": self.did,
            "peer": self.peer,
            "reach": Reach.SITE,
            "sequence": NOW_MS,
            "expires_ms": NOW_MS + 3_600_000,
            "addresses": (StatedAddress("10.0.0.7", 7001),),
        }
        return AddressStatement(**(fields | changes))  # type: ignore[arg-type]

    def signed(self, **changes: object) -> bytes:
        return sign_statement(self.statement(**changes), self.node, CHAIN).signed.raw


class World:
    """A ledger of a few members, and a book that asks it."""

    def __init__(self, count: int = 3) -> None:
        self.members = [Member(number) for number in range(1, count + 1)]
        self.records = {member.did: member.record for member in self.members}
        self.now_ms = NOW_MS
        self.era = 0
        self.book = self.new_book()

    def new_book(self) -> AddressBook:
        return AddressBook(
            CHAIN,
            subject=self.records.get,
            is_member=self.is_member,
            era=lambda: self.era,
            time_ms=lambda: self.now_ms,
        )

    def is_member(self, peer: PeerKey) -> bool:
        for member in self.members:
            if member.peer == peer:
                record = self.records.get(member.did)
                return record is not None and record.status is SubjectStatus.ACTIVE
        return False

    def suspend(self, member: Member) -> None:
        self.records[member.did] = dataclasses.replace(
            member.record, status=SubjectStatus.SUSPENDED
        )


def test_a_members_word_about_itself_is_taken() -> None:
    world = World()
    one = world.members[0]
    assert world.book.take(one.signed(), Scope.SITE) == one.peer
    assert world.book.stated(one.peer) == (PeerAddress(one.peer, "10.0.0.7", 7001),)
    assert world.book.take(one.signed(), Scope.SITE) is None, "the same again is no news"


@pytest.mark.parametrize(
    "changes",
    [
        {"era": 1},
        {"sequence": NOW_MS - 10, "expires_ms": NOW_MS},
        {"subject": DidId(b"\x99" * 32)},
        {"peer": PeerKey(b"\x42" * 32)},
        {"reach": Reach.MACHINE, "addresses": (StatedAddress("127.0.0.1", 7001),)},
    ],
)
def test_what_my_copy_cannot_use_is_ignored(changes: dict[str, object]) -> None:
    """Another era, expired, unknown subject, rotated key, or too narrow for the connection."""
    world = World()
    assert world.book.take(world.members[0].signed(**changes), Scope.SITE) is None
    assert len(world.book) == 0


def test_nobody_speaks_for_another() -> None:
    world = World()
    one, liar = world.members[:2]
    forged = sign_statement(one.statement(), liar.node, CHAIN).signed.raw
    assert world.book.take(forged, Scope.SITE) is None  # another key id: an old copy, perhaps
    raw = bytearray(one.signed())
    raw[-1] ^= 1
    with pytest.raises(SignatureError):
        world.book.take(bytes(raw), Scope.SITE)
    wrong_chain = sign_statement(one.statement(), one.node, ChainId(b"\x08" * 32)).signed.raw
    with pytest.raises(SignatureError):
        world.book.take(wrong_chain, Scope.SITE)
    assert len(world.book) == 0


@pytest.mark.parametrize(
    ("reach", "host"),
    [
        (Reach.WORLD, "192.168.1.1"),
        (Reach.WORLD, "127.0.0.1"),
        (Reach.WORLD, "169.254.169.254"),
        (Reach.SITE, "127.0.0.1"),
        (Reach.SITE, "93.184.216.34"),
        (Reach.SITE, "224.0.0.251"),
        (Reach.MACHINE, "10.0.0.1"),
        (Reach.WORLD, "255.255.255.255"),
    ],
)
def test_an_address_of_another_reach_spoils_the_statement(reach: Reach, host: str) -> None:
    """So that nobody is sent to routers, loopback services or cloud metadata of its own network."""
    world = World()
    raw = world.members[0].signed(reach=reach, addresses=(StatedAddress(host, 7001),))
    with pytest.raises(EncodingError):
        world.book.take(raw, Scope.MACHINE)


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("gw.example.org", 7001),
        ("010.0.0.1", 7001),
        ("10.0.0.1", 22),
        ("10.0.0.1", 25),
        ("10.0.0.1", 80),
        ("10.0.0.1", 0),
        ("10.0.0.1", 65_536),
        ("fe80::1%eth0", 7001),
        ("2001:DB8::1", 7001),
    ],
)
def test_names_and_ports_of_other_services_cannot_be_stated(host: str, port: int) -> None:
    with pytest.raises(EncodingError):
        StatedAddress(host, port)


@pytest.mark.parametrize(
    "changes",
    [
        {"addresses": tuple(StatedAddress("10.0.0.7", 7001 + n) for n in range(9))},
        {"addresses": (StatedAddress("10.0.0.7", 7001),) * 2},
        {"expires_ms": NOW_MS},
        {"expires_ms": NOW_MS + LIFETIME_MS_MAX + 1},
        {"forwards": True},
        {"forwarders": (b"\x01" * 32,)},
        {"reach": Reach.WORLD, "forwarders": tuple(bytes([n]) * 32 for n in range(5))},
        {"peer": b"\x01" * 31},
    ],
)
def test_inconsistent_statements_do_not_exist(changes: dict[str, object]) -> None:
    with pytest.raises(EncodingError):
        World().members[0].statement(**changes)


def test_newer_words_replace_older_ones_and_never_the_other_way() -> None:
    world = World()
    one = world.members[0]
    older = one.signed()
    newer = one.signed(sequence=NOW_MS + 1, addresses=(StatedAddress("10.0.0.8", 7001),))
    assert world.book.take(newer, Scope.SITE) == one.peer
    assert world.book.take(older, Scope.SITE) is None
    assert [item.host for item in world.book.stated(one.peer)] == ["10.0.0.8"]


def test_who_is_suspended_or_rotated_or_expired_is_not_told_of() -> None:
    world = World()
    one, two, three = world.members
    for member in world.members:
        world.book.take(member.signed(), Scope.SITE)
        world.book.note_proven(PeerAddress(member.peer, "10.0.0.9", 7001))
    world.suspend(one)
    fresh = PrivateKey(b"\x77" * 32)
    world.records[two.did] = dataclasses.replace(
        two.record,
        keys=((KeyPurpose.TRANSPORT, fresh.public), (KeyPurpose.NODE, two.node.public)),
    )
    assert world.book.statements(one.peer) == world.book.statements(two.peer) == ()
    assert world.book.proven(one.peer) == ()
    assert world.book.statements(three.peer)
    world.now_ms += 3_600_000
    assert world.book.statements(three.peer) == ()
    world.now_ms = NOW_MS
    world.era = 1
    assert world.book.statements(three.peer) == ()


def test_the_book_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_book, "MEMBERS_MAX", 4)
    monkeypatch.setattr(address_book, "PROVEN_PEERS_MAX", 4)
    world = World(8)
    for number, member in enumerate(world.members):
        world.book.take(member.signed(expires_ms=NOW_MS + 1000 + number), Scope.SITE)
        for port in range(7001, 7010):
            world.book.note_proven(PeerAddress(member.peer, "10.0.0.9", port))
    assert len(world.book) == 4
    assert list(world.book.members()) == [member.peer for member in world.members[4:]]
    assert len(list(world.book.proven_peers())) == 4
    last = world.members[-1].peer
    assert [item.port for item in world.book.proven(last)] == [7009, 7008, 7007, 7006]


def test_strangers_addresses_are_not_kept() -> None:
    world = World()
    world.book.note_proven(PeerAddress(PeerKey(b"\x42" * 32), "10.0.0.9", 7001))
    assert list(world.book.proven_peers()) == []


# -- the file ----------------------------------------------------------------------------------


def saved(world: World, path: Path) -> bytes:
    for member in world.members:
        world.book.take(member.signed(), Scope.SITE)
        world.book.note_proven(PeerAddress(member.peer, "10.0.0.9", 7001))
    world.book.own_sequence = 17
    AddressBook.write(path, world.book.encode())
    return path.read_bytes()


def test_a_restart_finds_everything_again(tmp_path: Path) -> None:
    world, path = World(), tmp_path / "addresses.cbor"
    saved(world, path)
    again = world.new_book()
    again.load(path)
    assert again.own_sequence == 17
    for member in world.members:
        assert again.stated(member.peer) == world.book.stated(member.peer)
        assert again.proven(member.peer) == world.book.proven(member.peer)
    assert not again.is_changed


def test_who_is_no_member_any_more_is_not_written(tmp_path: Path) -> None:
    world, path = World(), tmp_path / "addresses.cbor"
    saved(world, path)
    world.suspend(world.members[0])
    AddressBook.write(path, world.book.encode())
    world.records[world.members[0].did] = world.members[0].record
    again = world.new_book()
    again.load(path)
    assert again.stated(world.members[0].peer) == ()
    assert again.proven(world.members[0].peer) == ()


def test_a_missing_file_is_an_empty_book(tmp_path: Path) -> None:
    book = World().new_book()
    book.load(tmp_path / "addresses.cbor")
    assert len(book) == 0


@pytest.mark.parametrize("cut", [0, 1, 10, 200, -1])
def test_a_damaged_file_is_an_empty_book_and_a_warning(
    tmp_path: Path, cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    world, path = World(), tmp_path / "addresses.cbor"
    path.write_bytes(saved(world, path)[:cut])
    book = world.new_book()
    book.load(path)
    assert len(book) == 0
    assert list(book.proven_peers()) == []
    assert "begins empty" in caplog.text


def test_a_flipped_bit_costs_at_most_its_statement(tmp_path: Path) -> None:
    world, path = World(), tmp_path / "addresses.cbor"
    data = bytearray(saved(world, path))
    raw = world.members[1].signed()
    data[data.index(raw) + len(raw) - 1] ^= 1
    path.write_bytes(data)
    book = world.new_book()
    book.load(path)
    assert book.stated(world.members[0].peer)
    assert not book.stated(world.members[1].peer)


@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    book = World(1).new_book()
    with pytest.raises(VerificationError):
        book.take(data, Scope.MACHINE)
    with pytest.raises(VerificationError):
        book.restore(data)
    assert len(book) == 0


def test_a_statement_reads_back() -> None:
    member = World().members[0]
    statement = member.statement(
        reach=Reach.WORLD,
        addresses=(StatedAddress("93.184.216.34", 443), StatedAddress("2a00:1450::1", 7001)),
        forwarders=(b"\x01" * 32,),
        forwards=True,
    )
    signed = sign_statement(statement, member.node, CHAIN)
    assert parse_statement(signed.signed.raw).statement == statement
    assert len(signed.signed.raw) < 1024


def test_the_largest_statement_fits() -> None:
    member = World().members[0]
    longest = "2a00:1450:4001:81c:ffff:ffff:ffff:fff"
    statement = member.statement(
        reach=Reach.WORLD,
        addresses=tuple(StatedAddress(f"{longest}{n}", 65_535) for n in range(8)),
        forwarders=tuple(bytes([n]) * 32 for n in range(4)),
        sequence=2**62,
        expires_ms=2**62 + 1,
        era=2**40,
    )
    assert len(sign_statement(statement, member.node, CHAIN).signed.raw) <= 1024
