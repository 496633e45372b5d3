"""Nodes that exchange addresses, over real networks and a directory in place of the ledger."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ledger.records.subject import SubjectRecord, SubjectStatus
from protocol.address_statement import AddressStatement, Reach, StatedAddress, sign_statement
from protocol.did import KeyPurpose, SubjectKind
from protocol.digest import ChainId, DidId
from protocol.keys import PrivateKey
from protocol.version import ProtocolName, protocol_id
from swarmd.address_book import AddressBook
from swarmd.clock import ManualClock
from swarmd.entropy import SeededEntropy
from swarmd.net.address import PeerKey
from swarmd.net.network import Network
from swarmd.own_addresses import OwnAddresses
from swarmd.peers import Offence, PeerClass, PeerRegistry
from swarmd.services.peer_exchange import (
    DEADLINE_S,
    PEERS_BYTES_MAX,
    ExchangeGrounds,
    PeerExchange,
)
from tests.support.network_nodes import Rules, node, seed, until

CHAIN = ChainId(b"\x07" * 32)
NOW_MS = 1_000_000_000
PEERS = protocol_id(CHAIN, ProtocolName.PEERS)


class Member:
    """A subject with its keys."""

    def __init__(
        self, number: int, *, groups: tuple[str, ...] = ("fleet",), validator: bool = False
    ) -> None:
        self.number = number
        self.did = DidId(number.to_bytes(32, "big"))
        self.node = PrivateKey((1000 + number).to_bytes(32, "big"))
        self.transport = PrivateKey(seed(number))
        self.peer = PeerKey(self.transport.public.raw)
        self.record = SubjectRecord(
            kind=SubjectKind.VALIDATOR if validator else SubjectKind.GATEWAY,
            name=f"member-{number}",
            keys=(
                (KeyPurpose.TRANSPORT, self.transport.public),
                (KeyPurpose.NODE, self.node.public),
            ),
            next_keys=None,
            groups=() if validator else groups,
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


@dataclass
class Directory:
    """Answers what `MemberKeys` answers, from a table."""

    members: dict[PeerKey, Member] = field(default_factory=dict)
    records: dict[DidId, SubjectRecord] = field(default_factory=dict)

    def add(self, *members: Member) -> None:
        for member in members:
            self.members[member.peer] = member
            self.records[member.did] = member.record

    def suspend(self, member: Member) -> None:
        self.records[member.did] = dataclasses.replace(
            member.record, status=SubjectStatus.SUSPENDED
        )

    def subject(self, did: DidId) -> SubjectRecord | None:
        return self.records.get(did)

    def is_enrolled(self, peer: PeerKey) -> bool:
        member = self.members.get(peer)
        record = None if member is None else self.records.get(member.did)
        return record is not None and record.status is SubjectStatus.ACTIVE

    def is_validator(self, peer: PeerKey) -> bool:
        member = self.members.get(peer)
        return member is not None and member.record.kind is SubjectKind.VALIDATOR

    def are_acquainted(self, one: PeerKey, other: PeerKey) -> bool:
        if not (self.is_enrolled(one) and self.is_enrolled(other)):
            return False
        if self.is_validator(one) or self.is_validator(other):
            return True
        mine, theirs = self.members[one].record.groups, self.members[other].record.groups
        return bool(set(mine) & set(theirs))


@dataclass
class ReachNode:
    """One node, as far as reaching others goes."""

    member: Member
    network: Network
    registry: PeerRegistry
    book: AddressBook
    own: OwnAddresses
    exchange: PeerExchange
    offences: list[Offence] = field(default_factory=list)
    learned: list[int] = field(default_factory=list)

    async def meet(self, other: ReachNode, peer_class: PeerClass = PeerClass.MEMBER) -> None:
        """Connects two nodes; each takes the other for a member."""
        await self.network.connect(other.network.listen_addresses)
        await until(lambda: other.network.is_connected(self.network.peer))
        self.registry.connected(other.network.peer).peer_class = peer_class
        other.registry.connected(self.network.peer).peer_class = peer_class


@asynccontextmanager
async def reach_node(
    member: Member, directory: Directory, **own: object
) -> AsyncIterator[ReachNode]:
    """Runs one node on loopback; `own` overrides what `OwnAddresses` is told."""
    async with node(member.number, Rules(), dial_s=1.0) as network:
        offences: list[Offence] = []
        learned: list[int] = []
        registry = PeerRegistry(CHAIN, ManualClock(), lambda _peer, _offence: None)
        registry.listen(lambda _peer, offence, _detail: offences.append(offence))
        book = AddressBook(
            CHAIN,
            subject=directory.subject,
            is_member=directory.is_enrolled,
            era=lambda: 0,
            time_ms=lambda: NOW_MS,
        )
        listen = [(item.host, item.port) for item in network.listen_addresses]
        settings: dict[str, object] = {"announced": (), "listen": listen}
        addresses = OwnAddresses(
            identity=(member.did, member.peer, member.node),
            chain=CHAIN,
            **(settings | own),  # type: ignore[arg-type]
        )
        exchange = PeerExchange(
            ExchangeGrounds(
                network=network,
                registry=registry,
                keys=directory,  # type: ignore[arg-type]
                book=book,
                own=addresses,
                entropy=SeededEntropy(member.number),
                protocol=PEERS,
                era=lambda: 0,
                time_ms=lambda: NOW_MS,
                peers_wanted=4,
                learned=lambda _peer: learned.append(1),
            )
        )
        network.handle(
            PEERS,
            exchange.answer,
            streams_per_peer_max=2,
            deadline_s=DEADLINE_S,
            frame_bytes_max=PEERS_BYTES_MAX,
        )
        yield ReachNode(member, network, registry, book, addresses, exchange, offences, learned)
