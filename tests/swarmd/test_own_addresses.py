"""What a node says about where it is: only what it was told to say, or what others have tried."""

from __future__ import annotations

import pytest

from protocol.address_statement import Reach, StatedAddress
from protocol.digest import ChainId, DidId
from protocol.keys import PrivateKey
from swarmd.net.address import PeerKey
from swarmd.net.address_scope import Scope
from swarmd.own_addresses import CONFIRMED_S, LIFE_MS, RENEW_MS, OwnAddresses, Reachability

CHAIN = ChainId(b"\x07" * 32)
KEY = PrivateKey(b"\x01" * 32)
ONE, TWO, THREE = (PeerKey(bytes([number]) * 32) for number in (1, 2, 3))
PUBLIC, HOME = "93.184.216.34", "192.168.1.7"
NOW_MS = 10**12


def own(
    *, listen: tuple[tuple[str, int], ...] = ((HOME, 7001),), **settings: object
) -> OwnAddresses:
    return OwnAddresses(
        identity=(DidId(b"\x02" * 32), PeerKey(b"\x09" * 32), KEY),
        chain=CHAIN,
        announced=settings.get("announced", ()),  # type: ignore[arg-type]
        listen=listen,
    )


def say(
    node: OwnAddresses, scope: Scope = Scope.MACHINE, **changes: int
) -> list[tuple[Reach, int]]:
    fields = {"era": 0, "time_ms": NOW_MS, "last_sequence": 0, "now": 0} | changes
    signed = node.statements(scope, **fields)
    return [(item.statement.reach, item.statement.sequence) for item in signed]


def test_a_node_that_knows_nothing_says_nothing() -> None:
    assert say(own()) == []
    assert own().reachability(0.0, members=3) is Reachability.UNKNOWN


def test_what_the_operator_announces_is_said() -> None:
    node = own(announced=((PUBLIC, 7001),))
    assert [reach for reach, _ in say(node)] == [Reach.WORLD]
    assert node.reachability(0.0, members=3) is Reachability.REACHABLE


def test_an_address_of_an_own_socket_needs_one_member() -> None:
    node = own()
    node.confirmed(HOME, (7001,), 0.0, by=ONE, local_host=HOME)
    assert node.addresses(Reach.SITE, 1.0) == (StatedAddress(HOME, 7001),)
    assert node.addresses(Reach.SITE, CONFIRMED_S + 1) == ()


def test_one_liar_does_not_have_a_node_state_a_victim() -> None:
    """The liar says it reached the node at an address that none of its sockets has."""
    node = own()
    for _ in range(5):
        node.confirmed(PUBLIC, (7001,), 0.0, by=ONE, local_host=HOME)
    assert say(node) == []
    node.confirmed(PUBLIC, (7001,), 0.0, by=TWO, local_host=HOME)
    assert node.addresses(Reach.WORLD, 1.0) == (StatedAddress(PUBLIC, 7001),)


def test_only_own_ports_and_addresses_that_mean_something_are_believed() -> None:
    node = own()
    node.confirmed(HOME, (22, 9999), 0.0, by=ONE, local_host=HOME)
    node.confirmed("169.254.1.1", (7001,), 0.0, by=ONE, local_host="169.254.1.1")
    assert say(node) == []


def test_two_members_that_tried_in_vain_are_believed() -> None:
    node = own()
    node.denied(PUBLIC, ONE)
    assert node.reachability(0.0, members=5) is Reachability.UNKNOWN
    node.denied(PUBLIC, ONE)
    assert node.reachability(0.0, members=5) is Reachability.UNKNOWN
    assert node.reachability(0.0, members=1) is Reachability.UNREACHABLE
    node.denied(PUBLIC, TWO)
    assert node.reachability(0.0, members=5) is Reachability.UNREACHABLE
    for by in (ONE, THREE):
        node.confirmed(PUBLIC, (7001,), 0.0, by=by, local_host=HOME)
    assert node.reachability(0.0, members=5) is Reachability.REACHABLE


def test_who_does_not_listen_cannot_be_reached() -> None:
    assert own(listen=()).reachability(0.0, members=0) is Reachability.UNREACHABLE


def test_an_address_that_stops_working_is_taken_back() -> None:
    node = own()
    node.confirmed(HOME, (7001,), 0.0, by=ONE, local_host=HOME)
    before = say(node)
    for by in (ONE, TWO):
        node.denied(HOME, by)
    after = node.statements(Scope.MACHINE, era=0, time_ms=NOW_MS, last_sequence=0, now=1.0)
    assert [item.statement.addresses for item in after] == [()]
    assert after[0].statement.sequence > before[0][1]


def test_statements_are_made_anew_when_they_must_and_only_then() -> None:
    node = own(announced=((PUBLIC, 7001),))
    first = say(node)
    assert say(node, time_ms=NOW_MS + RENEW_MS - 1) == first
    second = say(node, time_ms=NOW_MS + RENEW_MS)
    assert second[0][1] == NOW_MS + RENEW_MS
    third = say(node, time_ms=NOW_MS + RENEW_MS, era=1)
    assert third[0][1] == second[0][1] + 1


def test_a_sequence_never_goes_back_even_if_time_does() -> None:
    node = own(announced=((PUBLIC, 7001),))
    assert say(node, time_ms=5, last_sequence=NOW_MS) == [(Reach.WORLD, NOW_MS + 1)]
    (signed,) = node.statements(Scope.WORLD, era=0, time_ms=5, last_sequence=NOW_MS, now=0)
    assert signed.statement.expires_ms == NOW_MS + 1 + LIFE_MS


def test_forwarding_is_told_to_the_world_only() -> None:
    node = own(announced=((PUBLIC, 7001), (HOME, 7001)))
    node.forwards, node.forwarders = True, (ONE,)
    signed = node.statements(Scope.SITE, era=0, time_ms=NOW_MS, last_sequence=0, now=0)
    told = {item.statement.reach: item.statement for item in signed}
    assert (told[Reach.WORLD].forwards, told[Reach.WORLD].forwarders) == (True, (ONE,))
    assert (told[Reach.SITE].forwards, told[Reach.SITE].forwarders) == (False, ())


def test_who_has_no_public_address_forwards_for_nobody() -> None:
    node = own()
    node.forwards, node.forwarders = True, (ONE,)
    (signed,) = node.statements(Scope.WORLD, era=0, time_ms=NOW_MS, last_sequence=0, now=0)
    assert not signed.statement.forwards
    assert signed.statement.forwarders == (ONE,)


@pytest.mark.parametrize(
    ("scope", "told"),
    [(Scope.WORLD, [Reach.WORLD]), (Scope.SITE, [Reach.SITE, Reach.WORLD])],
)
def test_addresses_stay_where_they_mean_something(scope: Scope, told: list[Reach]) -> None:
    node = own(announced=((PUBLIC, 7001), (HOME, 7001)))
    assert [reach for reach, _ in say(node, scope)] == told


def test_memory_is_bounded() -> None:
    node = own()
    for number in range(200):
        host = f"93.184.{number}.1"
        node.confirmed(host, (7001,), 0.0, by=ONE, local_host=host)
        node.denied(host, PeerKey(number.to_bytes(32, "big")))
    assert len(node.addresses(Reach.WORLD, 1.0)) == 8
    assert len(node._seen) <= 16
    assert len(node._denied_by) <= 16
