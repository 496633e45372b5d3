"""The configuration: defaults, ranges, unknown names, and the commented file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ConfigError, LocalProtocolError
from swarmd import config_template
from swarmd.config import (
    CONFIG_BYTES_MAX,
    SECTIONS,
    Config,
    Endpoint,
    LogLevel,
    load_config,
    parse_config,
    parse_endpoint,
)
from swarmd.config_template import COMMENTS, render_config
from swarmd.net.address import PeerAddress, peer_key

PEER = PeerAddress(peer=peer_key(bytes(range(32))), host="192.0.2.1", port=7001)
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_an_empty_file_means_the_defaults() -> None:
    config = parse_config("")
    assert config == Config()
    assert config.network.listen == (Endpoint("127.0.0.1", 7001),)
    assert config.http.listen == Endpoint("127.0.0.1", 7080)


def test_every_kind_of_value_is_read() -> None:
    config = parse_config(
        f"""
        [node]
        name = "Gateway 7"
        groups = ["fleet", "lab.a"]
        log_level = "debug"
        [network]
        listen = ["0.0.0.0:7001", "[::1]:7002"]
        bootstrap = ["{PEER}"]
        [http]
        listen = "off"
        [storage]
        quota_bytes = 4_000_000_000
        [floor]
        approvals_min = 3
        [ledger]
        view_timeout_ms = 200
        """
    )
    assert config.node.name == "Gateway 7"
    assert config.node.groups == ("fleet", "lab.a")
    assert config.node.log_level is LogLevel.DEBUG
    assert config.network.listen == (Endpoint("0.0.0.0", 7001), Endpoint("::1", 7002))
    assert config.network.bootstrap == (PEER,)
    assert config.http.listen is None
    assert config.storage.quota_bytes == 4_000_000_000
    assert config.floor.approvals_min == 3
    assert config.ledger.view_timeout_ms == 200


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[storag]\n", "unknown section 'storag'; the nearest known is 'storage'"),
        ("[node]\nnam = 'x'", "unknown key 'node.nam'; the nearest known is 'node.name'"),
        ("[network]\nlistne = []", "'network.listen'"),
        ("name = 'x'", "unknown section 'name'"),
        ("node = 1", "node.*expected a section, got an integer"),
        ("[node]\nname = 7", "node.name: expected text in quotes, got an integer"),
        ("[node]\nname = 'a\\u202eb'\n".replace("'", '"'), "node.name: control, bidi"),
        (f"[node]\nname = '{'x' * 65}'", "longer than 64 bytes"),
        ("[node]\ngroups = ['Fleet']", "node.groups.0.: group name 'Fleet'"),
        ("[node]\ngroups = 'fleet'", "expected a list in brackets, got text"),
        ("[node]\ngroups = ['a', 'a']", "an entry appears twice"),
        (f"[node]\ngroups = {[f'g{n}' for n in range(17)]}", "17 entries, at most 16"),
        ("[node]\nlog_level = 'loud'", "'loud', expected one of error, warning, info, debug"),
        ("[network]\nlisten = ['localhost:1']", "network.listen.0.: 'localhost:1'"),
        ("[network]\nlisten = ['::1:7001']", "write an IPv6 address in brackets"),
        ("[network]\nlisten = ['127.0.0.1:70000']", "port '70000', expected 0 to 65535"),
        ("[network]\nlisten = ['127.0.0.1:-1']", "port '-1'"),
        ("[network]\nlisten = ['127.0.0.1']", "is not ADDRESS:PORT, such as 127.0.0.1:7001"),
        ("[network]\nbootstrap = ['/ip4/192.0.2.1/tcp/1']", "network.bootstrap.0.: peer address"),
        ("[network]\nmember_connections_max = 3", "3, allowed 4 to 4096"),
        ("[network]\nmember_connections_max = true", "expected an integer, got true/false"),
        ("[network]\nmember_connections_max = 5.5", "expected an integer, got a decimal number"),
        ("[network]\nkeepalive_s = 29", "network.keepalive_s: 29, expected 0 or at least 30"),
        ("[network]\nkeepalive_s = 7201", "7201, allowed 0 to 7200"),
        ("[storage]\nquota_bytes = 1", "storage.quota_bytes: 1, allowed 1048576"),
        ("[floor]\napprovals_min = 0", "0, allowed 1 to 32"),
        ("[http]\nlisten = '127.0.0.1:7001'", "is already in network.listen"),
        ("[node", "not TOML"),
        ("a = 1\na = 2", "not TOML"),
    ],
)
def test_mistakes_are_errors_that_name_the_setting(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parse_config(text)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml: No such file"):
        load_config(tmp_path / "config.toml")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff", "not UTF-8"),
        (b"#" * (CONFIG_BYTES_MAX + 1), "over 262144 bytes"),
        (b"[nope]\n", r"config\.toml: unknown section"),
    ],
)
def test_an_unusable_file_is_named(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=words):
        load_config(path)


@pytest.mark.slow
@given(
    st.ip_addresses().filter(lambda address: not getattr(address, "scope_id", None)),
    st.integers(0, 65535),
)
def test_endpoints_are_written_as_they_are_read(address: object, port: int) -> None:
    endpoint = Endpoint(str(address), port)
    assert parse_endpoint(str(endpoint)) == endpoint


def changed_config() -> Config:
    """A configuration in which every setting differs from its default."""
    return parse_config(
        f"""
        [node]
        name = "ä \\" # name"
        groups = ["a", "b"]
        log_level = "error"
        [network]
        listen = []
        bootstrap = ["{PEER}", "/dnsaddr/fleet.example.org"]
        resolver = "192.0.2.53:53"
        peers_wanted = 3
        peer_exchange = false
        announce = ["203.0.113.7:7001"]
        forward = true
        forward_streams_max = 2
        forward_bytes_per_s = 65536
        lan_interface = "eth0"
        lan_networks = ["192.168.1.0/24"]
        member_connections_max = 5
        stranger_connections_max = 2
        lane_port = "off"
        metered = true
        keepalive_s = 30
        packing = "never"
        relay = "leaf"
        site = "depot"
        [http]
        listen = "off"
        serve_plain = true
        [traffic]
        up_kib_s = 16
        down_kib_s = 17
        peer_up_kib_s = 18
        peer_down_kib_s = 19
        lan_up_kib_s = 20
        lan_down_kib_s = 21
        schedule = ["Mon 08:00-18:00 up=64"]
        [storage]
        quota_bytes = 1048576
        files_max = 7
        reserve_bytes = 0
        keep_releases = 1
        scrub_days = 1
        scrub_bytes_per_s = 65536
        [floor]
        approvals_min = 2
        products = ["pump"]
        roles = ["auditor"]
        rule = '{{"k_of": {{"count": 1, "of": ["auditor"]}}}}'
        offer_freshness_ms = 1
        soak_ms = 1
        windows = ["Sat,Sun 01:00-05:00"]
        witnesses = [
            "w.example+65d6805e+BFeJeyppTXEOvZRINKVFIJb21UsTD5hTtJ6mhomzBm+o",
            "v.example+c5fc4057+BInbrFtKE45Vpw22mj9xCJeo5tmuEbBXdLq8F0vyiF6O",
        ]
        witness_threshold = 2
        witness_age_ms = 60000
        [ledger]
        view_timeout_ms = 50
        keep_blocks = 5
        """
    )


def test_the_changed_configuration_changes_everything() -> None:
    config, default = changed_config(), Config()
    for section in SECTIONS:
        for item in dataclasses.fields(SECTIONS[section]):
            changed = getattr(getattr(config, section), item.name)
            assert changed != getattr(getattr(default, section), item.name), item.name


@pytest.mark.parametrize("config", [Config(), changed_config()])
def test_the_written_file_reads_back(config: Config) -> None:
    assert parse_config(render_config(config)) == config


def test_the_written_file_explains_every_setting() -> None:
    names = [*SECTIONS] + [
        f"{section}.{item.name}"
        for section in SECTIONS
        for item in dataclasses.fields(SECTIONS[section])
    ]
    assert sorted(COMMENTS) == sorted(names)
    text = render_config(Config())
    for comment in COMMENTS.values():
        for line in comment.split("\n"):
            assert f"# {line}\n" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_value_without_a_form_is_a_defect_of_ours() -> None:
    with pytest.raises(LocalProtocolError, match="cannot be written"):
        config_template._toml(object())


def test_the_documentation_lists_every_setting_with_its_default() -> None:
    text = DOCUMENTATION.read_text()
    for section in SECTIONS:
        assert f"## `[{section}]`" in text
        values = getattr(Config(), section)
        for item in dataclasses.fields(values):
            default = config_template._toml(getattr(values, item.name))
            assert f"| `{item.name}` | `{default}` |" in text, f"{section}.{item.name}"
