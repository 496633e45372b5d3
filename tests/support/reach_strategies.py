"""Random objects of the reach formats."""

from __future__ import annotations

import ipaddress

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from protocol.address_statement import (
    ADDRESSES_MAX,
    FORWARDERS_MAX,
    LIFETIME_MS_MAX,
    AddressStatement,
    Reach,
    StatedAddress,
)
from protocol.digest import DidId
from protocol.peers_messages import PeersAnswer, PeersRequest, ProbeAnswer, ProbeRequest

_keys: SearchStrategy[bytes] = st.binary(min_size=32, max_size=32)
_ports = st.one_of(st.just(443), st.integers(1024, 65_535))
_hosts = st.one_of(
    st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address),
    st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address),
).map(str)
_addresses = st.builds(StatedAddress, _hosts, _ports)


@st.composite
def address_statements(draw: st.DrawFn) -> AddressStatement:
    """Statements of every reach."""
    reach = draw(st.sampled_from(Reach))
    is_world = reach is Reach.WORLD
    sequence = draw(st.integers(0, 2**62))
    forwarders = st.lists(_keys, max_size=FORWARDERS_MAX, unique=True)
    return AddressStatement(
        era=draw(st.integers(0, 2**40)),
        subject=DidId(draw(_keys)),
        peer=draw(_keys),
        reach=reach,
        sequence=sequence,
        expires_ms=sequence + draw(st.integers(1, LIFETIME_MS_MAX)),
        addresses=tuple(draw(st.lists(_addresses, max_size=ADDRESSES_MAX, unique=True))),
        forwarders=tuple(draw(forwarders)) if is_world else (),
        forwards=draw(st.booleans()) if is_world else False,
    )


_raw: SearchStrategy[bytes] = st.binary(min_size=1, max_size=64)
_any_ports = st.lists(st.integers(1, 65_535), max_size=4).map(tuple)
peers_requests = st.builds(
    PeersRequest,
    own=st.lists(_raw, max_size=3).map(tuple),
    wanted=st.lists(_keys, max_size=16).map(tuple),
    others=st.integers(0, 48),
)
peers_answers = st.builds(PeersAnswer, statements=st.lists(_raw, max_size=48).map(tuple))
probe_requests = st.builds(
    ProbeRequest, ports=st.lists(st.integers(1, 65_535), min_size=1, max_size=4).map(tuple)
)
probe_answers = st.builds(
    ProbeAnswer,
    host=st.one_of(st.just(""), _hosts),
    reached=_any_ports,
    tried=st.booleans(),
)
