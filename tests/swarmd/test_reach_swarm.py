"""Whole nodes over TCP that find each other: by exchange, by the address book, by names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import trio

from swarmd.address_book import BOOK_NAME
from swarmd.config import Endpoint
from swarmd.net.address import Bootstrap, DNSAddress, PeerAddress
from swarmd.net.wire import TCPWire
from swarmd.peers import PeerClass
from swarmd.services.reach_report import ReachReport
from tests.support.dns_server import dns_server
from tests.support.swarm import VALIDATORS, Swarm, swarm, until

JOIN_S = 60.0


def knows_only(lab: Swarm, name: str, *bootstrap: Bootstrap, **settings: object) -> None:
    """Leaves a node these addresses to begin with; it may ask for more."""
    fields: dict[str, object] = {"bootstrap": bootstrap, "peer_exchange": True, **settings}
    lab.configure(
        name,
        lambda config: dataclasses.replace(
            config,
            network=dataclasses.replace(config.network, **fields),  # type: ignore[arg-type]
        ),
    )


@pytest.mark.slow
async def test_gateways_meet_through_a_validator_and_again_without_it(tmp_path: Path) -> None:
    """The second time the address book is all they have."""
    async with swarm(tmp_path, wire=TCPWire()) as lab:
        for name in ("gateway-1", "gateway-2"):
            knows_only(lab, name, lab.address("validator-1"))
        await lab.start(*VALIDATORS, "gateway-1", "gateway-2")
        with trio.fail_after(JOIN_S):
            await lab.until_met("gateway-1", "gateway-2")
            # Whoever dialed has seen the other's address proved.
            await until(
                lambda: (
                    lab["gateway-1"].reach_plane.book.proven(lab.peer("gateway-2"))
                    or lab["gateway-2"].reach_plane.book.proven(lab.peer("gateway-1"))
                ),
                "one has proved the address of the other",
            )
        await lab.stop("gateway-1", "gateway-2", *VALIDATORS)
        assert (lab.path / "gateway-1" / BOOK_NAME).stat().st_mode & 0o077 == 0
        await lab.start("gateway-1", "gateway-2")
        with trio.fail_after(JOIN_S):
            await lab.until_met("gateway-1", "gateway-2")


@pytest.mark.slow
async def test_a_suspended_gateway_is_not_told_where_others_are(tmp_path: Path) -> None:
    async with swarm(tmp_path, wire=TCPWire()) as lab:
        for name in ("gateway-1", "gateway-2"):
            knows_only(lab, name, lab.address("validator-1"))
        await lab.start(*VALIDATORS, "publisher-1", "gateway-2")
        with trio.fail_after(JOIN_S):
            await lab.until_met("gateway-2", "validator-1")
            await until(
                lambda: lab["validator-1"].reach_plane.book.stated(lab.peer("gateway-2")),
                "the validator knows where gateway-2 is",
            )
            height = await lab.suspend("gateway-1")
            await lab.until_height(height, *VALIDATORS, "gateway-2")
            await lab.start("gateway-1")
            await until(
                lambda: lab.class_of("validator-1", "gateway-1") is PeerClass.READER, "it reads"
            )
            await lab.until_height(height, "gateway-1")
        book = lab["gateway-1"].reach_plane.book
        assert book.stated(lab.peer("gateway-2")) == ()
        assert not lab["gateway-1"].network.is_connected(lab.peer("gateway-2"))
        assert lab["validator-1"].reach_plane.book.stated(lab.peer("gateway-1")) == ()


@pytest.mark.slow
async def test_a_gateway_finds_its_network_by_a_name(tmp_path: Path) -> None:
    async with swarm(tmp_path, wire=TCPWire()) as lab:
        listed = [f'"dnsaddr={lab.address(name)}"' for name in VALIDATORS]
        async with dns_server({("_dnsaddr.fleet.example", "TXT"): listed}) as server:
            knows_only(
                lab,
                "gateway-1",
                DNSAddress("fleet.example"),
                resolver=f"127.0.0.1:{server.port}",
            )
            await lab.start(*VALIDATORS, "gateway-1")
            with trio.fail_after(JOIN_S):
                for name in VALIDATORS:
                    await until(
                        lambda name=name: (  # type: ignore[misc]
                            lab.class_of("gateway-1", name) >= PeerClass.MEMBER
                        ),
                        f"it knows {name}",
                    )
            assert ("_dnsaddr.fleet.example", "TXT") in server.asked


@pytest.mark.slow
async def test_a_damaged_address_book_costs_nothing_but_its_content(tmp_path: Path) -> None:
    async with swarm(tmp_path, wire=TCPWire()) as lab:
        (lab.path / "gateway-1" / BOOK_NAME).write_bytes(b"\xa4\x00\x01\x01damaged")
        await lab.start(*VALIDATORS, "gateway-1")
        with trio.fail_after(JOIN_S):
            await lab.until_met("gateway-1", "validator-1")


@pytest.mark.slow
async def test_gateways_on_one_network_find_each_other_without_any_address(tmp_path: Path) -> None:
    """Multicast is bound to loopback; the peer counts as near where the operator says so."""
    async with swarm(tmp_path, wire=TCPWire()) as lab:
        for name in ("gateway-1", "gateway-2"):
            knows_only(lab, name, lan_interface="127.0.0.1", lan_networks=("127.0.0.0/8",))
        await lab.start("gateway-1", "gateway-2")
        with trio.fail_after(JOIN_S):
            await lab.until_met("gateway-1", "gateway-2")
        for name, other in (("gateway-1", "gateway-2"), ("gateway-2", "gateway-1")):
            known = lab[name].registry.get(lab.peer(other))
            assert known is not None
            assert known.is_lan
        sites = {lab[name].reach_plane.site() for name in ("gateway-1", "gateway-2")}
        assert len(sites) == 1
        assert sites != {b""}


@pytest.mark.slow
async def test_the_doctor_says_why_nobody_is_reached(tmp_path: Path) -> None:
    async with swarm(tmp_path, wire=TCPWire()) as lab:
        dead = PeerAddress(lab.peer("validator-1"), "127.0.0.1", 1)
        cases: dict[tuple[Bootstrap, ...], str] = {
            (): "no address is known",
            (dead,): "127.0.0.1 port 1: cannot connect",
            (DNSAddress("fleet.example"),): "name fleet.example: ",
        }
        async with dns_server({}) as server:
            for bootstrap, reason in cases.items():
                knows_only(lab, "gateway-1", *bootstrap, resolver=f"127.0.0.1:{server.port}")
                await lab.start("gateway-1")
                report = ReachReport(lab["gateway-1"].reach_plane)
                await until(lambda: reason in report.check()[1], reason)  # noqa: B023
                assert report.check()[0] is False
                await lab.stop("gateway-1")


@pytest.mark.slow
async def test_a_node_with_two_families_is_found_over_either(tmp_path: Path) -> None:
    """IPv6 is tried first; where nothing answers there, IPv4 follows at once."""
    async with swarm(tmp_path, wire=TCPWire()) as lab:
        four = lab.address("gateway-2")
        six = PeerAddress(four.peer, "::1", four.port)
        knows_only(lab, "gateway-1", six, four)
        for hosts, scheme in ((("127.0.0.1",), "127.0.0.1"), (("127.0.0.1", "::1"), "::1")):
            listen = tuple(Endpoint(host, four.port) for host in hosts)
            knows_only(lab, "gateway-2", listen=listen)
            await lab.start("gateway-2", "gateway-1")
            with trio.fail_after(JOIN_S):
                await lab.until_met("gateway-1", "gateway-2")
                route = lab["gateway-1"].network.route(four.peer)
            assert route is not None
            assert route.host == scheme
            await lab.stop("gateway-1", "gateway-2")
            (lab.path / "gateway-1" / BOOK_NAME).unlink()
