"""Discovery on the local network: bound to loopback here, so that nothing leaves the machine."""

from __future__ import annotations

import os

import pytest
import trio

from protocol.digest import ChainId
from swarmd.net.address import PeerAddress, PeerKey, peer_id_text
from swarmd.services import lan
from swarmd.services.lan import LanDiscovery, chain_hint, instance_name
from tests.support.network_nodes import until

CHAIN = ChainId(os.getpid().to_bytes(32, "big"))
"""Of this process: test processes side by side must not find each other."""
PEER, OTHER = PeerKey(b"\x01" * 32), PeerKey(b"\x02" * 32)
LIMIT_S = 20.0


def discovery(
    peer: PeerKey = PEER, *, chain: ChainId = CHAIN, port: int = 7001, interface: str = "127.0.0.1"
) -> LanDiscovery:
    made = LanDiscovery(
        chain=chain,
        peer=peer,
        interface=interface,
        listen=[("0.0.0.0", port)],
        on_change=lambda: None,
    )
    made._interface = interface
    return made


@pytest.mark.slow
async def test_two_nodes_hear_each_other_and_a_third_chain_does_not() -> None:
    one, two = discovery(PEER, port=7001), discovery(OTHER, port=7002)
    foreign = discovery(PeerKey(b"\x03" * 32), chain=ChainId(b"\xee" + CHAIN[1:]), port=7003)
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            leaving = trio.CancelScope()

            async def run_and_leave() -> None:
                with leaving:
                    await two.run()

            nursery.start_soon(one.run)
            nursery.start_soon(run_and_leave)
            nursery.start_soon(foreign.run)
            await until(lambda: bool(one.peers() and two.peers()))
            assert one.addresses(OTHER) == (PeerAddress(OTHER, "127.0.0.1", 7002),)
            assert two.addresses(PEER) == (PeerAddress(PEER, "127.0.0.1", 7001),)
            leaving.cancel()
            await until(lambda: not one.peers())
            nursery.cancel_scope.cancel()
    assert foreign.peers() == ()


def heard(found: LanDiscovery, number: int = 0, **changes: str) -> None:
    peer = PeerKey((number + 10).to_bytes(32, "big"))
    properties = {"c": chain_hint(CHAIN), "p": peer_id_text(peer), **changes}
    found.heard(f"{number}.{lan.SERVICE_TYPE}", properties, (("192.168.1.9", 7001),))


def test_what_anybody_may_have_sent_is_looked_at_closely() -> None:
    found = discovery(interface="192.168.1.1")
    heard(found, c=chain_hint(ChainId(b"\x05" * 32)))
    heard(found, p="12D3KooWgarbage")
    heard(found, p=peer_id_text(PEER))  # our own voice
    found.heard("x", {}, (("192.168.1.9", 7001),))
    found.heard("x", {"c": chain_hint(CHAIN), "p": peer_id_text(OTHER)}, ())
    found.heard("x", {"c": chain_hint(CHAIN), "p": peer_id_text(OTHER)}, (("nowhere..", 0),))
    for host in ("127.0.0.1", "93.184.216.34", "224.0.0.1"):
        found.heard("x", {"c": chain_hint(CHAIN), "p": peer_id_text(OTHER)}, ((host, 7001),))
    assert found.peers() == ()
    heard(found)
    assert len(found.peers()) == 1


def test_a_flood_of_services_is_bounded() -> None:
    found = discovery(interface="192.168.1.1")
    for number in range(lan.FOUND_MAX + 100):
        heard(found, number)
    assert len(found.peers()) == lan.FOUND_MAX


def test_the_announcement_tells_no_more_than_it_must() -> None:
    """Neither the chain id nor this machine's name nor anything that is held (G8)."""
    info = discovery()._announcement(7001)
    said = repr((info.name, info.server, info.text, info.addresses))
    assert CHAIN.hex() not in said
    assert chain_hint(CHAIN) != CHAIN[: lan.HINT_BYTES].hex()
    assert os.uname().nodename not in said
    assert set(info.properties) == {b"c", b"p"}
    assert info.server == f"{instance_name(CHAIN, PEER)}.local."


async def test_an_interface_that_is_not_there_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """... and is looked at again later."""
    for interface in ("192.0.2.1", "nosuchif0"):
        caplog.clear()
        with trio.move_on_after(0.05):
            await discovery(interface=interface).run()
        assert "nobody is looked for" in caplog.text


def test_only_what_listens_on_the_interface_is_announced() -> None:
    found = discovery(interface="192.168.1.1")
    assert found._port() == 7001
    found._listen = (("10.0.0.1", 7001), ("::", 7002), ("192.168.1.1", 7003))
    assert found._port() == 7003
    found._listen = (("10.0.0.1", 7001),)
    assert found._port() is None
