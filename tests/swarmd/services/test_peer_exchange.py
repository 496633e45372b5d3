"""Peer exchange over real connections: what members learn, and what nobody gets out of it."""

from __future__ import annotations

import socket

import pytest
import trio

from protocol.address_statement import Reach, StatedAddress, parse_statement, sign_statement
from protocol.digest import DidId
from protocol.errors import TransportError
from protocol.peers_messages import (
    PeersAnswer,
    PeersRequest,
    ProbeRequest,
    decode_peers_answer,
    decode_probe_answer,
)
from protocol.version import ProtocolName, protocol_id
from swarmd.clock import ManualClock
from swarmd.net.address import PeerAddress, PeerKey
from swarmd.net.address_scope import Scope
from swarmd.own_addresses import Reachability
from swarmd.peers import Offence, PeerClass, PeerRegistry
from swarmd.services import peer_exchange
from swarmd.services.peer_exchange import PeerExchange
from tests.support.reach_nodes import CHAIN, PEERS, Directory, Member, ReachNode, reach_node

LIMIT_S = 20.0


async def question(asker: ReachNode, other: ReachNode, request: bytes) -> bytes:
    """One request as its bytes; empty: the stream was broken off."""
    stream = await asker.network.open_stream(other.network.peer, PEERS)
    try:
        async with stream:
            await stream.send_frame(request)
            await stream.close_write()
            return bytes(await stream.receive_frame() or b"")
    except TransportError:
        return b""


def whom(answer: bytes) -> list[PeerKey]:
    """Whose statements an answer holds."""
    statements = decode_peers_answer(answer).statements
    return [PeerKey(parse_statement(raw).statement.peer) for raw in statements]


async def test_a_member_learns_of_a_third_one_through_a_second() -> None:
    one, two, three = (Member(number) for number in (1, 2, 3))
    directory = Directory()
    directory.add(one, two, three)
    with trio.fail_after(LIMIT_S):
        async with (
            reach_node(one, directory) as a,
            reach_node(two, directory) as b,
            reach_node(three, directory, announced=[("10.0.0.3", 7003)]) as c,
        ):
            await c.meet(b)
            assert await c.exchange.ask(b.network.peer) == 0
            await a.meet(b)
            assert await a.exchange.ask(b.network.peer) == 1
            assert a.book.stated(c.network.peer) == (PeerAddress(three.peer, "10.0.0.3", 7003),)
            assert a.learned == [1]
            assert await a.exchange.ask(b.network.peer) == 0, "no news the second time"
            assert [*a.offences, *b.offences, *c.offences] == []


async def test_groups_do_not_hear_of_each_other_but_of_validators() -> None:
    asker, hub = Member(1, groups=("pumps",)), Member(2, groups=("pumps", "lamps"))
    lamp, validator, stranger = Member(3, groups=("lamps",)), Member(4, validator=True), Member(5)
    directory = Directory()
    directory.add(asker, hub, lamp, validator)
    with trio.fail_after(LIMIT_S):
        async with reach_node(asker, directory) as a, reach_node(hub, directory) as b:
            for member in (lamp, validator):
                b.book.take(member.signed(), Scope.MACHINE)
            await a.meet(b)
            request = PeersRequest(wanted=(lamp.peer, stranger.peer, validator.peer), others=48)
            assert whom(await question(a, b, request.encode())) == [validator.peer]
            only_lamp = PeersRequest(wanted=(lamp.peer,)).encode()
            nobody = PeersRequest(wanted=(stranger.peer,)).encode()
            assert await question(a, b, only_lamp) == await question(a, b, nobody)


async def test_who_is_suspended_is_not_passed_on() -> None:
    one, two, three = (Member(number) for number in (1, 2, 3))
    directory = Directory()
    directory.add(one, two, three)
    with trio.fail_after(LIMIT_S):
        async with reach_node(one, directory) as a, reach_node(two, directory) as b:
            b.book.take(three.signed(), Scope.MACHINE)
            await a.meet(b)
            request = PeersRequest(wanted=(three.peer,), others=48).encode()
            assert whom(await question(a, b, request)) == [three.peer]
            directory.suspend(three)
            assert whom(await question(a, b, request)) == []


def test_strangers_and_suspended_members_cannot_open_it() -> None:
    registry = PeerRegistry(CHAIN, ManualClock(), lambda _peer, _offence: None)
    peer = PeerKey(b"\x01" * 32)
    for name in (ProtocolName.PEERS, ProtocolName.FORWARD):
        protocol = protocol_id(CHAIN, name)
        assert not registry.may_open(peer, protocol)
        registry.connected(peer).peer_class = PeerClass.READER
        assert not registry.may_open(peer, protocol)
        registry.connected(peer).peer_class = PeerClass.MEMBER
        assert registry.may_open(peer, protocol)
        registry.disconnected(peer)


class ScopedExchange(PeerExchange):
    """As if the connections came from elsewhere."""

    scope = Scope.WORLD

    def _scope(self, peer: PeerKey) -> Scope:
        return self.scope


@pytest.mark.parametrize(
    ("scope", "told"),
    [
        (Scope.WORLD, [Reach.WORLD]),
        (Scope.SITE, [Reach.SITE, Reach.WORLD]),
        (Scope.MACHINE, [Reach.MACHINE, Reach.SITE, Reach.WORLD]),
    ],
)
async def test_private_addresses_stay_on_their_networks(scope: Scope, told: list[Reach]) -> None:
    """Neither the own ones nor those of others are told farther than they reach."""
    one, two, three = (Member(number) for number in (1, 2, 3))
    directory = Directory()
    directory.add(one, two, three)
    announced = [("127.0.0.1", 7001), ("10.0.0.2", 7001), ("93.184.216.34", 7001)]
    with trio.fail_after(LIMIT_S):
        async with (
            reach_node(one, directory) as a,
            reach_node(two, directory, announced=announced) as b,
        ):
            hosts = {Reach.MACHINE: "127.0.0.1", Reach.SITE: "10.0.0.3", Reach.WORLD: "93.184.0.3"}
            for reach, host in hosts.items():
                raw = three.signed(reach=reach, addresses=(StatedAddress(host, 7001),))
                assert b.book.take(raw, Scope.MACHINE)
            b.exchange.__class__ = ScopedExchange
            b.exchange.scope = scope  # type: ignore[attr-defined]
            await a.meet(b)
            answer = await question(a, b, PeersRequest(wanted=(three.peer,)).encode())
            statements = [
                parse_statement(raw).statement for raw in decode_peers_answer(answer).statements
            ]
            for member in (two, three):
                assert [item.reach for item in statements if item.peer == member.peer] == told


# -- liars -------------------------------------------------------------------------------------


async def test_a_peer_that_speaks_for_another_is_scored() -> None:
    one, liar, three = (Member(number) for number in (1, 2, 3))
    directory = Directory()
    directory.add(one, liar, three)
    with trio.fail_after(LIMIT_S):
        async with reach_node(one, directory) as a, reach_node(liar, directory) as b:
            await b.meet(a)
            request = PeersRequest(own=(three.signed(),)).encode()
            assert await question(b, a, request) == b""
            assert a.offences == [Offence.MALFORMED]
            raw = bytearray(liar.signed())
            raw[-1] ^= 1
            assert await question(b, a, PeersRequest(own=(bytes(raw),)).encode()) == b""
            assert a.offences == [Offence.MALFORMED, Offence.FORGED]
            assert len(a.book) == 0


async def test_an_answer_with_a_forged_statement_is_scored() -> None:
    one, liar, three = (Member(number) for number in (1, 2, 3))
    directory = Directory()
    directory.add(one, liar, three)

    class Liar(PeerExchange):
        def _tell(self, stream: object, request: PeersRequest) -> PeersAnswer:
            forged = bytearray(three.signed())
            forged[-1] ^= 1
            return PeersAnswer(statements=(bytes(forged),))

    with trio.fail_after(LIMIT_S):
        async with reach_node(one, directory) as a, reach_node(liar, directory) as b:
            b.exchange.__class__ = Liar
            await a.meet(b)
            await a.exchange._ask_quietly(b.network.peer)
            assert a.offences == [Offence.FORGED]
            assert len(a.book) == 0


async def test_a_flood_of_questions_gets_empty_answers() -> None:
    one, two, three = (Member(number) for number in (1, 2, 3))
    directory = Directory()
    directory.add(one, two, three)
    with trio.fail_after(LIMIT_S):
        async with reach_node(one, directory) as a, reach_node(two, directory) as b:
            b.book.take(three.signed(), Scope.MACHINE)
            await a.meet(b)
            request = PeersRequest(wanted=(three.peer,)).encode()
            answers = [whom(await question(a, b, request)) for _ in range(20)]
            assert answers.count([three.peer]) == peer_exchange.ASK_BURST
            assert answers[-1] == []


@pytest.mark.parametrize("request_bytes", [b"\x00", b"\xff" * 40, b"\xa1\x00\x07"])
async def test_garbage_is_scored(request_bytes: bytes) -> None:
    one, two = Member(1), Member(2)
    directory = Directory()
    directory.add(one, two)
    with trio.fail_after(LIMIT_S):
        async with reach_node(one, directory) as a, reach_node(two, directory) as b:
            await a.meet(b)
            assert await question(a, b, request_bytes) == b""
            assert b.offences == [Offence.MALFORMED]


async def test_answers_are_bounded_however_much_is_known() -> None:
    one, two = Member(1), Member(2)
    others = [Member(number) for number in range(10, 90)]
    directory = Directory()
    directory.add(one, two, *others)
    with trio.fail_after(LIMIT_S):
        async with reach_node(one, directory) as a, reach_node(two, directory) as b:
            for member in others:
                b.book.take(member.signed(), Scope.MACHINE)
            await a.meet(b)
            answer = await question(a, b, PeersRequest(others=48).encode())
            assert len(whom(answer)) == 48
            assert len(set(whom(answer))) == 48


# -- probes ------------------------------------------------------------------------------------


async def test_a_probe_tells_whether_this_node_can_be_reached() -> None:
    one, two = Member(1), Member(2)
    directory = Directory()
    directory.add(one, two)
    with trio.fail_after(LIMIT_S):
        async with reach_node(one, directory) as a, reach_node(two, directory) as b:
            await a.meet(b)
            await a.exchange._ask_quietly(b.network.peer)
            port = a.network.listen_addresses[0].port
            now = trio.current_time()
            assert a.own.addresses(Reach.MACHINE, now) == (StatedAddress("127.0.0.1", port),)
            assert await a.exchange.ask(b.network.peer) == 0
            assert b.book.stated(one.peer) == (PeerAddress(one.peer, "127.0.0.1", port),)
            assert a.network.peers() == (two.peer,), "probes leave the connections alone"


@pytest.mark.slow
async def test_a_probe_dials_only_where_the_asker_comes_from_and_wants_its_key() -> None:
    """Neither a listener of somebody else nor another node's port counts as reached."""
    one, two, three = (Member(number) for number in (1, 2, 3))
    directory = Directory()
    directory.add(one, two, three)
    with socket.create_server(("127.0.0.1", 0)) as deaf, trio.fail_after(LIMIT_S):
        async with (
            reach_node(one, directory) as a,
            reach_node(two, directory) as b,
            reach_node(three, directory) as c,
        ):
            await a.meet(b)
            own = a.network.listen_addresses[0].port
            ports = (own, c.network.listen_addresses[0].port, 1, deaf.getsockname()[1])
            answer = decode_probe_answer(await question(a, b, ProbeRequest(ports=ports).encode()))
            assert answer.reached == (own,)
            assert (answer.host, answer.tried) == ("127.0.0.1", True)


async def test_services_of_others_at_the_same_address_are_not_probed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Behind a shared address somebody else's mail server may listen."""
    one, two = Member(1), Member(2)
    directory = Directory()
    directory.add(one, two)
    with trio.fail_after(LIMIT_S):
        async with reach_node(one, directory) as a, reach_node(two, directory) as b:
            await a.meet(b)
            dialed: list[int] = []

            async def probe(address: PeerAddress) -> None:
                await trio.lowlevel.checkpoint()
                dialed.append(address.port)

            monkeypatch.setattr(b.network, "probe", probe)
            request = ProbeRequest(ports=(22, 25, 443, 7001)).encode()
            assert decode_probe_answer(await question(a, b, request)).reached == (443, 7001)
            assert sorted(dialed) == [443, 7001]


async def test_a_flood_of_probes_is_refused() -> None:
    one, two = Member(1), Member(2)
    directory = Directory()
    directory.add(one, two)
    with trio.fail_after(LIMIT_S):
        async with reach_node(one, directory) as a, reach_node(two, directory) as b:
            await a.meet(b)
            request = ProbeRequest(ports=a.own.ports).encode()
            tried = [decode_probe_answer(await question(a, b, request)).tried for _ in range(8)]
            assert tried == [True] * peer_exchange.PROBE_BURST + [False] * 4


def test_requests_and_answers_read_back() -> None:
    member = Member(1)
    forged = sign_statement(member.statement(subject=DidId(b"\x09" * 32)), member.node, CHAIN)
    answer = PeersAnswer(statements=(member.signed(), forged.signed.raw))
    assert decode_peers_answer(answer.encode()) == answer


async def test_nobody_to_ask_leaves_reachability_open() -> None:
    directory = Directory()
    one = Member(1)
    directory.add(one)
    async with reach_node(one, directory) as a:
        assert a.exchange.reachability() is Reachability.UNKNOWN
    async with reach_node(one, directory, listen=()) as a:
        assert a.exchange.reachability() is Reachability.UNREACHABLE
