"""Which addresses mean the same machine where."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmd.net.address_scope import Scope, connection_scope, scope_of


@pytest.mark.parametrize(
    ("host", "scope"),
    [
        ("127.0.0.1", Scope.MACHINE),
        ("::1", Scope.MACHINE),
        ("::ffff:127.0.0.1", Scope.MACHINE),
        ("10.1.2.3", Scope.SITE),
        ("172.16.0.1", Scope.SITE),
        ("172.32.0.1", Scope.WORLD),
        ("192.168.1.1", Scope.SITE),
        ("100.64.0.1", Scope.SITE),
        ("fd00::1", Scope.SITE),
        ("::ffff:10.0.0.1", Scope.SITE),
        ("93.184.216.34", Scope.WORLD),
        ("2a00:1450::1", Scope.WORLD),
        ("169.254.1.1", Scope.NOWHERE),
        ("fe80::1", Scope.NOWHERE),
        ("fe80::1%eth0", Scope.NOWHERE),
        ("fec0::1", Scope.NOWHERE),
        ("224.0.0.251", Scope.NOWHERE),
        ("ff02::fb", Scope.NOWHERE),
        ("0.0.0.0", Scope.NOWHERE),
        ("::", Scope.NOWHERE),
        ("255.255.255.255", Scope.NOWHERE),
        ("0.1.2.3", Scope.NOWHERE),
        ("example.org", Scope.NOWHERE),
        ("", Scope.NOWHERE),
        ("::127.0.0.1", Scope.NOWHERE),
    ],
)
def test_scopes(host: str, scope: Scope) -> None:
    assert scope_of(host) is scope


@given(st.ip_addresses())
def test_every_address_has_one(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert scope_of(str(address)) in Scope


def test_over_an_unknown_way_only_what_means_the_same_everywhere() -> None:
    assert connection_scope("") is Scope.WORLD
    assert connection_scope("169.254.3.3") is Scope.WORLD
    assert connection_scope("192.168.1.9") is Scope.SITE
    assert connection_scope("127.0.0.1") is Scope.MACHINE
