import contextlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ConfigError, EncodingError
from swarmd.net.address import (
    PeerAddress,
    PeerKey,
    parse_peer_id,
    peer_id_bytes,
    peer_id_text,
    peer_key,
    peer_key_from_id_bytes,
)

KEY = PeerKey(bytes(range(32)))


@given(st.binary(min_size=32, max_size=32))
def test_peer_id_text_is_lossless(raw: bytes) -> None:
    key = peer_key(raw)
    text = peer_id_text(key)
    assert text.startswith("12D3Koo")
    assert len(text) == 52
    assert parse_peer_id(text) == key
    assert peer_key_from_id_bytes(peer_id_bytes(key)) == key


def test_peer_id_is_libp2ps() -> None:
    from libp2p.crypto.ed25519 import Ed25519PublicKey
    from libp2p.peer.id import ID

    from swarmd.net.guards import key_pair

    public = key_pair(b"\x07" * 32).public_key
    assert isinstance(public, Ed25519PublicKey)
    assert peer_id_text(peer_key(public.to_bytes())) == str(ID.from_pubkey(public))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12D3Koo",
        peer_id_text(KEY)[:-1],
        peer_id_text(KEY) + "1",
        "1" + peer_id_text(KEY)[1:-1] + "0",
        "l" + peer_id_text(KEY)[1:],
        "1" * 52,
        "z" * 52,
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        "é" * 52,
    ],
)
def test_peer_id_refuses(text: str) -> None:
    with pytest.raises(EncodingError):
        parse_peer_id(text)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_peer_key_refuses_wrong_length(size: int) -> None:
    with pytest.raises(EncodingError):
        peer_key(bytes(size))


@pytest.mark.parametrize(
    ("host", "protocol"),
    [("192.0.2.1", "ip4"), ("::1", "ip6"), ("2001:db8::5", "ip6"), ("gw-1.example.org", "dns4")],
)
def test_address_round_trip(host: str, protocol: str) -> None:
    address = PeerAddress(KEY, host, 4001)
    text = f"/{protocol}/{host}/tcp/4001/p2p/{peer_id_text(KEY)}"
    assert str(address) == text
    assert PeerAddress.parse(text) == address
    assert PeerAddress.from_config(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "/ip4/192.0.2.1/tcp/4001",
        f"/ip4/192.0.2.1/udp/4001/p2p/{peer_id_text(KEY)}",
        f"/ip6/192.0.2.1/tcp/4001/p2p/{peer_id_text(KEY)}",
        f"/ip4/192.0.2.01/tcp/4001/p2p/{peer_id_text(KEY)}",
        f"/ip6/2001:DB8::5/tcp/4001/p2p/{peer_id_text(KEY)}",
        f"/dns4/-x.example/tcp/4001/p2p/{peer_id_text(KEY)}",
        f"/dns4/{'a' * 64}/tcp/4001/p2p/{peer_id_text(KEY)}",
        f"/dns4/{'a.' * 130}a/tcp/4001/p2p/{peer_id_text(KEY)}",
        f"/dns4/A.example/tcp/4001/p2p/{peer_id_text(KEY)}",
        f"/ip4/192.0.2.1/tcp/0/p2p/{peer_id_text(KEY)}",
        f"/ip4/192.0.2.1/tcp/65536/p2p/{peer_id_text(KEY)}",
        f"/ip4/192.0.2.1/tcp/04001/p2p/{peer_id_text(KEY)}",
        f"/ip4/192.0.2.1/tcp/\uff14001/p2p/{peer_id_text(KEY)}",
        f"/ip4/192.0.2.1/tcp/4001/p2p/{peer_id_text(KEY)}/",
        f" /ip4/192.0.2.1/tcp/4001/p2p/{peer_id_text(KEY)}",
        f"/ip4/192.0.2.1\n/tcp/4001/p2p/{peer_id_text(KEY)}",
    ],
)
def test_address_refuses(text: str) -> None:
    with pytest.raises(EncodingError):
        PeerAddress.parse(text)
    with pytest.raises(ConfigError):
        PeerAddress.from_config(text)


@given(st.text(max_size=120))
def test_address_never_raises_anything_else(text: str) -> None:
    with contextlib.suppress(EncodingError):
        PeerAddress.parse(text)


def test_addresses_do_not_need_libp2p() -> None:
    code = "import sys, swarmd.net.address, swarmd.net.config; assert 'libp2p' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
