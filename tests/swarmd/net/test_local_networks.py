"""Which networks are local, by the kernel's tables."""

import ipaddress

import pytest

from protocol.errors import ConfigError
from swarmd.net import local_networks
from swarmd.net.local_networks import interface_address, is_within, on_link_networks

ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
wg0\t0000000A\t0101A8C0\t0003\t0\t0\t0\t000000FF\t0\t0\t0
eth1\t0002A8C0\t00000000\t0000\t0\t0\t0\t00FFFFFF\t0\t0\t0
lo\t0000007F\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0
"""
ADDRESSES6 = """\
00000000000000000000000000000001 01 80 10 80       lo
fd000000000000000000000000000005 02 40 00 80     eth0
fe800000000000000000000000000005 02 40 20 80     eth0
"""


def test_networks_without_a_router_between() -> None:
    four = local_networks._ipv4(ROUTES.splitlines())
    assert four == (ipaddress.ip_network("192.168.1.0/24"),)
    six = local_networks._ipv6(ADDRESSES6.splitlines())
    assert six == (ipaddress.ip_network("fd00::/64"),)


def test_membership() -> None:
    networks = [ipaddress.ip_network("192.168.1.0/24"), ipaddress.ip_network("fd00::/64")]
    for host in ("192.168.1.7", "fd00::7", "::ffff:192.168.1.7"):
        assert is_within(host, networks)
    for host in ("192.168.2.7", "fd00:1::7", "", "gw.example.org"):
        assert not is_within(host, networks)


def test_this_machine_has_tables_that_can_be_read() -> None:
    assert not any(network.is_loopback for network in on_link_networks())


def test_interfaces_by_name_and_address() -> None:
    assert interface_address("192.0.2.5") == "192.0.2.5"
    assert interface_address("lo") == "127.0.0.1"
    for name in ("", "nosuchif0", "x" * 40, "fd00::1"):
        with pytest.raises(ConfigError):
            interface_address(name)
