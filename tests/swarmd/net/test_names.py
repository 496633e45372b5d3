"""Names of peers: what a DNS server says, what stays known when it says nothing."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from protocol.errors import ConfigError, TransportError
from swarmd.entropy import SeededEntropy
from swarmd.net import names as names_module
from swarmd.net.address import DNSAddress, PeerAddress, PeerKey, parse_bootstrap
from swarmd.net.names import Names, Resolver, Server
from tests.support.dns_server import DNSServer, dns_server

PEER, OTHER = PeerKey(b"\x01" * 32), PeerKey(b"\x02" * 32)
LIMIT_S = 20.0


def resolver(server: DNSServer) -> Resolver:
    return Resolver(Server("127.0.0.1", server.port))


def named(*entries: PeerAddress | DNSAddress, ask: object, changes: list[int]) -> Names:
    return Names(
        entries,
        ask,  # type: ignore[arg-type]
        uint=SeededEntropy(1).uint,
        on_change=lambda: changes.append(1),
    )


async def until_known(names: Names, count: int) -> tuple[PeerAddress, ...]:
    while len(names.addresses()) < count:  # noqa: ASYNC110 - nothing tells but the state
        await trio.sleep(0.005)
    return names.addresses()


async def test_a_and_aaaa_records_of_a_name() -> None:
    records = {
        ("gw.example.org", "A"): ["192.0.2.1", "192.0.2.2"],
        ("gw.example.org", "AAAA"): ["2001:db8:0::1"],
    }
    with trio.fail_after(LIMIT_S):
        async with dns_server(records) as server:
            hosts, life_s = await resolver(server).hosts("gw.example.org")
    assert hosts[0] == "2001:db8::1"
    assert set(hosts[1:]) == {"192.0.2.1", "192.0.2.2"}
    assert life_s == 60


async def test_one_family_is_enough() -> None:
    with trio.fail_after(LIMIT_S):
        async with dns_server({("four.example.org", "A"): ["192.0.2.1"]}) as server:
            assert (await resolver(server).hosts("four.example.org"))[0] == ("192.0.2.1",)


async def test_a_name_that_does_not_exist_is_a_transport_error() -> None:
    with trio.fail_after(LIMIT_S):
        async with dns_server({}) as server:
            with pytest.raises(TransportError):
                await resolver(server).hosts("nowhere.example.org")
            with pytest.raises(TransportError):
                await resolver(server).texts("nowhere.example.org")


async def test_the_system_resolves_literal_names() -> None:
    with trio.fail_after(LIMIT_S):
        hosts, _ = await Resolver().hosts("localhost")
    assert set(hosts) <= {"127.0.0.1", "::1"}
    assert hosts


async def test_a_dnsaddr_list_brings_peers_of_which_only_good_ones_are_taken() -> None:
    good, through_name = PeerAddress(PEER, "192.0.2.9", 7001), PeerAddress(OTHER, "b.example", 7002)
    records = {
        ("_dnsaddr.fleet.example.org", "TXT"): [
            f'"dnsaddr={good}"',
            f'"dnsaddr={through_name}"',
            '"dnsaddr=/ip4/192.0.2.1/udp/1/quic-v1/p2p/x"',
            '"v=spf1 -all"',
            '"dnsaddr=/dnsaddr/other.example.org"',
        ],
        ("b.example", "A"): ["192.0.2.10"],
    }
    changes: list[int] = []
    with trio.fail_after(LIMIT_S):
        async with dns_server(records) as server, trio.open_nursery() as nursery:
            names = named(DNSAddress("fleet.example.org"), ask=resolver(server), changes=changes)
            nursery.start_soon(names.run)
            found = await until_known(names, 2)
            nursery.cancel_scope.cancel()
    assert set(found) == {good, PeerAddress(OTHER, "192.0.2.10", 7002)}
    assert changes == [1]


async def test_a_flood_of_records_is_bounded() -> None:
    listed = [f'"dnsaddr={PeerAddress(PEER, "192.0.2.9", 7001 + n)}"' for n in range(40)]
    hosts = [f"192.0.2.{n}" for n in range(1, 100)]
    records = {("_dnsaddr.f.example", "TXT"): listed[:20], ("g.example", "A"): hosts}
    with trio.fail_after(LIMIT_S):
        async with dns_server(records) as server:
            texts, _ = await resolver(server).texts("_dnsaddr.f.example")
            assert len(texts) <= names_module.RECORDS_MAX
            found, _ = await resolver(server).hosts("g.example")
            assert len(found) == names_module.HOST_ADDRESSES_MAX


class Scripted:
    """A resolver whose answers a test sets; for what happens over hours."""

    def __init__(self) -> None:
        self.hosts_now: tuple[str, ...] | None = ("192.0.2.1",)
        self.life_s = 300.0
        self.asked: list[float] = []

    async def hosts(self, name: str) -> tuple[tuple[str, ...], float]:
        self.asked.append(trio.current_time())
        await trio.sleep(names_module.QUERY_S if self.hosts_now is None else 0)
        if self.hosts_now is None:
            raise TransportError(f"name {name}: nobody answers")
        return self.hosts_now, self.life_s


async def test_what_was_known_outlives_failing_servers(
    autojump_clock: trio.testing.MockClock,
) -> None:
    script, changes = Scripted(), list[int]()
    address = PeerAddress(PEER, "gw.example.org", 7001)
    literal = PeerAddress(OTHER, "192.0.2.77", 7001)
    names = named(address, literal, ask=script, changes=changes)
    assert names.addresses() == (literal,)  # before any answer: nothing waits for a name
    async with trio.open_nursery() as nursery:
        nursery.start_soon(names.run)
        await trio.sleep(1)
        assert PeerAddress(PEER, "192.0.2.1", 7001) in names.addresses()
        script.hosts_now = None
        await trio.sleep(24 * 3600)
        assert PeerAddress(PEER, "192.0.2.1", 7001) in names.addresses()
        assert "nobody answers" in names.errors["gw.example.org"]
        assert len(script.asked) < 24 * 3600 / 200  # with pauses up to five minutes
        script.hosts_now = ("192.0.2.2",)
        await trio.sleep(1.5 * names_module.RETRY_S_MAX)
        assert names.addresses() == (literal, PeerAddress(PEER, "192.0.2.2", 7001))
        assert names.errors == {}
        nursery.cancel_scope.cancel()
    assert changes == [1, 1]


@pytest.mark.parametrize("life_s", [0.0, 1e9])
async def test_lives_are_bounded_both_ways(
    autojump_clock: trio.testing.MockClock, life_s: float
) -> None:
    script = Scripted()
    script.life_s = life_s
    names = named(PeerAddress(PEER, "gw.example.org", 7001), ask=script, changes=[])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(names.run)
        await trio.sleep(4 * 3600)
        nursery.cancel_scope.cancel()
    shortest, longest = names_module.TTL_S_MIN * 0.75, names_module.TTL_S_MAX * 1.25
    assert 4 * 3600 / longest - 1 <= len(script.asked) <= 4 * 3600 / shortest + 1


@pytest.mark.parametrize(
    "text",
    ["/dnsaddr/", "/dnsaddr/a", "/dnsaddr/A.example", "/dnsaddr/a.b/p2p/x", "/dnsaddr/a..b"],
)
def test_malformed_names_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_bootstrap(text)


def test_a_dnsaddr_entry_reads_back() -> None:
    entry = parse_bootstrap("/dnsaddr/fleet.example.org")
    assert isinstance(entry, DNSAddress)
    assert str(entry) == "/dnsaddr/fleet.example.org"
