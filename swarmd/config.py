"""The configuration of a node: `config.toml` as frozen dataclasses.

Every setting has a default, a unit in its name or docstring, and a range that is checked when the
file is read. Unknown sections and keys are errors that name the nearest known one, so that a typing
mistake never silently means "default". Limits that two nodes must agree on are no settings: they
live in `protocol.limits`. `config_template` writes the commented file that `swarmd init` leaves.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from protocol.address_statement import ADDRESSES_MAX as STATED_MAX
from protocol.address_statement import StatedAddress
from protocol.calendar import DURATION_MS_MAX
from protocol.encoding import check_identifier, check_text
from protocol.errors import ConfigError, EncodingError
from protocol.group import OWNERS_MAX, check_group_name
from protocol.limits import GIB, KIB, MIB, NAME_BYTES_MAX, TARGET_GROUPS_MAX
from protocol.owner_root import ROLES_MAX, check_role_name
from protocol.policy import WINDOWS_MAX, WITNESSES_MAX, Witnesses
from protocol.relay_messages import SITE_BYTES_MAX
from protocol.tlog import SignatureType, parse_note_key
from swarmd.floor import Floor, parse_floor_rule, parse_floor_window
from swarmd.limits.rates import (
    RATE_KIB_MAX,
    RatePlan,
    Rates,
    parse_schedule,
    parse_scheduled,
    rate_of,
)
from swarmd.net.address import Bootstrap, parse_bootstrap
from swarmd.net.keepalive import KEEPALIVE_IDLE_S, KEEPALIVE_METERED_IDLE_S
from swarmd.services.exchange_packing import PackingMode
from swarmd.services.exchange_relay_mode import RelayMode

CONFIG_BYTES_MAX: Final = 256 * KIB
"""A configuration with 128 bootstrap addresses takes about 20 KiB."""
LISTEN_MAX: Final = 8
"""Addresses one node listens on."""
BOOTSTRAP_MAX: Final = 128
"""Bootstrap addresses; three live ones are enough to find the rest."""
FLOOR_ENTRIES_MAX: Final = 64
"""Products a floor names."""
PORT_MAX: Final = 65535
"""Largest TCP port."""
METERED_PEERS: Final = 2
"""Peers of a metered node: a second one, so that no single one can keep it in the dark."""
METERED_FETCH_PEERS: Final = 8
"""Its peers while it fetches: validators hold no images."""
KEEPALIVE_S_MIN: Final = 30
"""Shortest time after which an idle peer is probed, seconds."""
KEEPALIVE_S_MAX: Final = 7200
"""Longest: what RFC 5382 has address translation wait at least, about."""
LANE_PORT: Final = 7002
"""Beside the default port for peers. A fixed one, because a firewall has to let it through."""
LAN_AUTO: Final = "auto"
"""Stands for the networks this machine is on."""
LAN_NETWORKS_MAX: Final = 16
"""Networks one configuration names as local."""
_READ: Final = "read"
_T = TypeVar("_T")
Reader = Callable[[object, str], Any]
"""Turns a TOML value into a setting; the text names the setting in errors."""


class LogLevel(StrEnum):
    """How much the daemon writes to stderr."""

    ERROR = "error"
    """Only what an operator must act on."""
    WARNING = "warning"
    """Also trouble with peers and policies."""
    INFO = "info"
    """Also the life cycle of the node."""
    DEBUG = "debug"
    """Also every message."""


class Endpoint(NamedTuple):
    """An address to listen on."""

    host: str
    """IPv4 or IPv6 address in canonical text form."""
    port: int
    """TCP port; 0 takes a free one."""

    def __str__(self) -> str:
        """`127.0.0.1:7001` or `[::1]:7001`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoint(text: str, what: str = "address") -> Endpoint:
    """Reads `HOST:PORT` or `[IPV6]:PORT`; the host is an address, never a name.

    Raises:
        ConfigError: it is something else.
    """
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigError(f"{what}: {text[:80]!r}: write an IPv6 address in brackets, [::1]:7001")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ConfigError(
            f"{what}: {text[:80]!r} is not ADDRESS:PORT, such as 127.0.0.1:7001"
        ) from None
    if not (port.isascii() and port.isdigit()) or len(port) > 5 or int(port) > PORT_MAX:
        raise ConfigError(f"{what}: port {port[:8]!r}, expected 0 to {PORT_MAX}")
    return Endpoint(str(address), int(port))


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{what}: expected text in quotes, got {_toml_type(value)}")
    return value


def _name(value: object, what: str) -> str:
    try:
        return check_text(_text(value, what), what, maximum=NAME_BYTES_MAX)
    except EncodingError as error:
        raise ConfigError(str(error)) from None


def _group(value: object, what: str) -> str:
    try:
        return check_group_name(_text(value, what))
    except EncodingError as error:
        raise ConfigError(f"{what}: {error}") from None


def _log_level(value: object, what: str) -> LogLevel:
    text = _text(value, what)
    if text not in list(LogLevel):
        raise ConfigError(f"{what}: {text[:40]!r}, expected one of {', '.join(LogLevel)}")
    return LogLevel(text)


def _packing(value: object, what: str) -> PackingMode:
    text = _text(value, what)
    if text not in list(PackingMode):
        raise ConfigError(f"{what}: {text[:40]!r}, expected one of {', '.join(PackingMode)}")
    return PackingMode(text)


def _relay(value: object, what: str) -> RelayMode:
    text = _text(value, what)
    if text not in list(RelayMode):
        raise ConfigError(f"{what}: {text[:40]!r}, expected one of {', '.join(RelayMode)}")
    return RelayMode(text)


def _site(value: object, what: str) -> str:
    try:
        return check_text(_text(value, what), what, maximum=SITE_BYTES_MAX)
    except EncodingError as error:
        raise ConfigError(str(error)) from None


def _endpoint(value: object, what: str) -> Endpoint:
    return parse_endpoint(_text(value, what), what)


def _keepalive(value: object, what: str) -> int:
    """0, or a time within its range."""
    seconds: int = _integer(0, KEEPALIVE_S_MAX)(value, what)
    if 0 < seconds < KEEPALIVE_S_MIN:
        raise ConfigError(f"{what}: {seconds}, expected 0 or at least {KEEPALIVE_S_MIN}")
    return seconds


def _port_or_off(value: object, what: str) -> int | None:
    return None if value == "off" else int(_integer(0, PORT_MAX)(value, what))


def _boolean(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{what}: expected true or false, got {_toml_type(value)}")
    return value


def _http_endpoint(value: object, what: str) -> Endpoint | None:
    return None if value == "off" else _endpoint(value, what)


def _bootstrap(value: object, what: str) -> Bootstrap:
    try:
        return parse_bootstrap(_text(value, what))
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from None


def _lan_network(value: object, what: str) -> str:
    text = _text(value, what)
    if text == LAN_AUTO:
        return text
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise ConfigError(f'{what}: {text[:40]!r} is neither a network nor "auto"') from None


def _announced(value: object, what: str) -> Endpoint:
    endpoint = _endpoint(value, what)
    try:
        StatedAddress(endpoint.host, endpoint.port)
    except EncodingError as error:
        raise ConfigError(f"{what}: {error}") from None
    return endpoint


def _resolver(value: object, what: str) -> str:
    text = _text(value, what)
    if not text:
        return text
    endpoint = parse_endpoint(text, what)
    if not endpoint.port:
        raise ConfigError(f"{what}: port 0, expected 1 to {PORT_MAX}")
    return str(endpoint)


def _product(value: object, what: str) -> str:
    try:
        return check_identifier(_text(value, what), what)
    except EncodingError as error:
        raise ConfigError(str(error)) from None


def _role(value: object, what: str) -> str:
    try:
        return check_role_name(_text(value, what))
    except EncodingError as error:
        raise ConfigError(f"{what}: {error}") from None


def _floor_rule(value: object, what: str) -> str:
    text = _text(value, what)
    parse_floor_rule(text, what)
    return text


def _witness(value: object, what: str) -> str:
    """A verifier key that cosigns."""
    text = _text(value, what)
    try:
        if parse_note_key(text).kind is not SignatureType.COSIGNATURE:
            raise ConfigError(f"{what}: not a key for cosignatures")
    except EncodingError as error:
        raise ConfigError(f"{what}: {error}") from error
    return text


def _floor_window(value: object, what: str) -> str:
    text = _text(value, what)
    parse_floor_window(text, what)
    return text


def _integer(minimum: int, maximum: int) -> Reader:
    def read(value: object, what: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"{what}: expected an integer, got {_toml_type(value)}")
        if not minimum <= value <= maximum:
            raise ConfigError(f"{what}: {value}, allowed {minimum} to {maximum}")
        return value

    return read


def _list_of(read_item: Callable[[object, str], _T], *, maximum: int) -> Reader:
    def read(value: object, what: str) -> tuple[_T, ...]:
        if not isinstance(value, list):
            raise ConfigError(f"{what}: expected a list in brackets, got {_toml_type(value)}")
        if len(value) > maximum:
            raise ConfigError(f"{what}: {len(value)} entries, at most {maximum}")
        items = tuple(read_item(item, f"{what}[{index}]") for index, item in enumerate(value))
        if len(set(items)) != len(items):
            raise ConfigError(f"{what}: an entry appears twice")
        return items

    return read


def _rate(value: object, what: str) -> int:
    kib_per_s = int(_integer(0, RATE_KIB_MAX)(value, what))
    rate_of(kib_per_s, what)
    return kib_per_s


def _scheduled(value: object, what: str) -> str:
    text = _text(value, what)
    parse_scheduled(text, what)
    return text


def _toml_type(value: object) -> str:
    names = {bool: "true/false", int: "an integer", float: "a decimal number", str: "text"}
    return names.get(type(value), "a table" if isinstance(value, dict) else "another type")


def _by(read: Reader) -> Mapping[str, Reader]:
    """Field metadata that says how a setting is read and checked."""
    return {_READ: read}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """`[node]`: what this node is to the people who run it."""

    name: str = field(default="", metadata=_by(_name))
    """For people, at most 64 bytes; shown in status and logs, never trusted."""
    groups: tuple[str, ...] = field(
        default=(), metadata=_by(_list_of(_group, maximum=TARGET_GROUPS_MAX))
    )
    """Device groups whose images this node holds and serves; its ledger record names them too."""
    log_level: LogLevel = field(default=LogLevel.INFO, metadata=_by(_log_level))
    """How much goes to stderr."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSection:
    """`[network]`: where this node listens, whom it calls first, what peers may cost it."""

    listen: tuple[Endpoint, ...] = field(
        default=(Endpoint("127.0.0.1", 7001),),
        metadata=_by(_list_of(_endpoint, maximum=LISTEN_MAX)),
    )
    """Addresses for peers; empty: this node only calls others."""
    bootstrap: tuple[Bootstrap, ...] = field(
        default=(), metadata=_by(_list_of(_bootstrap, maximum=BOOTSTRAP_MAX))
    )
    """Peers called first: multiaddrs with /p2p/, or /dnsaddr/NAME whose TXT records list such."""
    resolver: str = field(default="", metadata=_by(_resolver))
    """Address and port of the DNS server to ask for names; empty: whom the system asks."""
    peers_wanted: int = field(default=16, metadata=_by(_integer(0, 1024)))
    """Members to be connected to; beyond the bootstrap, peers met by exchange are called for it."""
    peer_exchange: bool = field(default=True, metadata=_by(_boolean))
    """Whether addresses are exchanged with other members."""
    announce: tuple[Endpoint, ...] = field(
        default=(), metadata=_by(_list_of(_announced, maximum=STATED_MAX))
    )
    """Addresses at which others reach this node, told to members; found ones are added."""
    forward: bool = field(default=False, metadata=_by(_boolean))
    """Whether connections between members that cannot reach each other are passed on here."""
    forward_streams_max: int = field(default=32, metadata=_by(_integer(1, 1024)))
    """Connections passed on at a time."""
    forward_bytes_per_s: int = field(default=4 * MIB, metadata=_by(_integer(64 * KIB, GIB)))
    """Bytes passed on each second, all together; one member gets at most a quarter."""
    lan_interface: str = field(default="", metadata=_by(_text))
    """Interface (name or IPv4 address) on which peers are looked for by mDNS; empty: none."""
    lan_networks: tuple[str, ...] = field(
        default=(LAN_AUTO,), metadata=_by(_list_of(_lan_network, maximum=LAN_NETWORKS_MAX))
    )
    """Networks whose peers are on the LAN of this node; "auto": those without a router between."""
    member_connections_max: int = field(default=192, metadata=_by(_integer(4, 4096)))
    """Connections of members at a time; each costs about 100 KiB of memory."""
    stranger_connections_max: int = field(default=16, metadata=_by(_integer(1, 256)))
    """Connections of peers that have not shown membership yet."""
    lane_port: int | None = field(default=LANE_PORT, metadata=_by(_port_or_off))
    """TCP port of bulk lanes, at the addresses of `listen`; 0 takes a free one, None ("off"): no
    lanes in either direction, chunks go over the connections for peers."""
    metered: bool = field(default=False, metadata=_by(_boolean))
    """Whether bytes cost money here: listens nowhere, keeps to two peers, joins no topic of gossip,
    relays nothing for others."""

    keepalive_s: int = field(default=0, metadata=_by(_keepalive))
    """Idle seconds after which TCP probes a peer that this node called; 0: 120, metered 300."""

    @property
    def probe_after_s(self) -> int:
        """Idle seconds after which TCP probes a peer that this node called."""
        usual = KEEPALIVE_METERED_IDLE_S if self.metered else KEEPALIVE_IDLE_S
        return self.keepalive_s or usual

    def effective(self) -> NetworkSection:
        """What holds, once metering has had its say."""
        if not self.metered:
            return self
        return dataclasses.replace(
            self,
            listen=(),
            peers_wanted=METERED_PEERS,
            peer_exchange=False,
            forward=False,
            relay=RelayMode.LEAF if self.relay is RelayMode.ON else self.relay,
        )

    packing: PackingMode = field(default=PackingMode.AUTO, metadata=_by(_packing))
    """Whether chunks are compressed on their way to peers."""
    relay: RelayMode = field(default=RelayMode.ON, metadata=_by(_relay))
    """Whether chunks are taken unasked from relays of images that are fetched, and passed on."""
    site: str = field(default="", metadata=_by(_site))
    """Name of the local network: nodes of the same name are served first, and images cross between
    two names once. Empty: no network is told from others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPConfig:
    """`[http]`: read-only access to authorised images for devices on this network."""

    listen: Endpoint | None = field(
        default=Endpoint("127.0.0.1", 7080), metadata=_by(_http_endpoint)
    )
    """Address for devices; None ("off"): no HTTP at all."""
    serve_plain: bool = field(default=False, metadata=_by(_boolean))
    """Whether sealed images that this node can open are served plain, too, by their salted plain
    digest; as ciphertext they are served in any case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig:
    """`[storage]`: how much disk images may take."""

    quota_bytes: int = field(default=8 * GIB, metadata=_by(_integer(1 * MIB, 1 << 50)))
    """Bytes of images and downloads together; beyond it, intake stops and nothing else does."""
    files_max: int = field(default=1024, metadata=_by(_integer(1, 65_536)))
    """Images and downloads, each of which is one file."""
    reserve_bytes: int = field(default=64 * MIB, metadata=_by(_integer(0, 1 << 40)))
    """Bytes of the file system that images leave free, for the ledger and a validator's votes."""
    keep_releases: int = field(default=2, metadata=_by(_integer(1, 64)))
    """Newest whole releases of each product in each group that are kept while there is room."""
    scrub_days: int = field(default=30, metadata=_by(_integer(0, 3650)))
    """Within so many days everything stored is read and hashed again; 0: never."""
    scrub_bytes_per_s: int = field(default=4 * MIB, metadata=_by(_integer(64 * KIB, 1 * GIB)))
    """How fast that reads at most, bytes a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FloorConfig:
    """`[floor]`: what this gateway demands beyond the group's policy; it can only tighten."""

    approvals_min: int = field(default=1, metadata=_by(_integer(1, OWNERS_MAX)))
    """Owner approvals a manifest needs here; the policy's threshold holds if it is higher."""
    products: tuple[str, ...] = field(
        default=(), metadata=_by(_list_of(_product, maximum=FLOOR_ENTRIES_MAX))
    )
    """The only products taken; empty: any."""
    roles: tuple[str, ...] = field(default=(), metadata=_by(_list_of(_role, maximum=ROLES_MAX + 1)))
    """Roles of which one holder each must have approved; `owner` stands for the owners."""
    rule: str = field(default="", metadata=_by(_floor_rule))
    """JSON of a rule about the manifest and its approvals that must hold; empty: none."""
    offer_freshness_ms: int = field(default=0, metadata=_by(_integer(0, DURATION_MS_MAX)))
    """Age of knowledge beyond which nothing is offered here, milliseconds; 0: the policy's."""
    soak_ms: int = field(default=0, metadata=_by(_integer(0, DURATION_MS_MAX)))
    """Least ledger time between authorisation and offers, milliseconds."""
    windows: tuple[str, ...] = field(
        default=(), metadata=_by(_list_of(_floor_window, maximum=WINDOWS_MAX))
    )
    """When releases are offered here, such as `Sat,Sun 01:00-05:00` (UTC); empty: always."""
    witnesses: tuple[str, ...] = field(
        default=(), metadata=_by(_list_of(_witness, maximum=WITNESSES_MAX))
    )
    """Verifier keys (C2SP) of outside witnesses; what they have not seen is not offered here."""
    witness_threshold: int = field(default=1, metadata=_by(_integer(1, WITNESSES_MAX)))
    """How many of them must have cosigned the log."""
    witness_age_ms: int = field(
        default=7 * 86_400_000, metadata=_by(_integer(60_000, DURATION_MS_MAX))
    )
    """How old their cosignatures may be, milliseconds; weekly rounds are the slowest in use."""

    def demands(self) -> Floor:
        """These settings as the authority asks them."""
        return Floor(
            approvals_min=self.approvals_min,
            products=self.products,
            roles=self.roles,
            rule=parse_floor_rule(self.rule, "floor.rule"),
            offer_freshness_ms=self.offer_freshness_ms or None,
            soak_ms=self.soak_ms,
            windows=tuple(parse_floor_window(one, "floor.windows") for one in self.windows),
            witnesses=self._outside(),
            witness_age_ms=self.witness_age_ms,
        )

    def _outside(self) -> Witnesses | None:
        """The witnesses asked for.

        Raises:
            ConfigError: fewer than the threshold, or one twice.
        """
        if not self.witnesses:
            return None
        try:
            return Witnesses(
                self.witness_threshold, tuple(map(parse_note_key, sorted(self.witnesses)))
            )
        except EncodingError as error:
            raise ConfigError(f"floor.witnesses: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerConfig:
    """`[ledger]`: how this node follows the chain or takes part in it."""

    view_timeout_ms: int = field(default=1000, metadata=_by(_integer(50, 60_000)))
    """A validator's first estimate of a message delay, milliseconds; grows while views fail."""
    keep_blocks: int = field(default=10_000, metadata=_by(_integer(0, 1 << 40)))
    """Bodies of final blocks kept; 0: all. Headers and certificates stay in any case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficConfig:
    """`[traffic]`: how many bytes of images may go to and come from peers."""

    up_kib_s: int = field(default=0, metadata=_by(_rate))
    """KiB per second to all peers beyond the site together; 0: no limit."""
    down_kib_s: int = field(default=0, metadata=_by(_rate))
    """From all of them together."""
    peer_up_kib_s: int = field(default=0, metadata=_by(_rate))
    """To each of them."""
    peer_down_kib_s: int = field(default=0, metadata=_by(_rate))
    """From each of them."""
    lan_up_kib_s: int = field(default=0, metadata=_by(_rate))
    """To all peers of the same site together: those with private addresses."""
    lan_down_kib_s: int = field(default=0, metadata=_by(_rate))
    """From all of them together."""
    schedule: tuple[str, ...] = field(
        default=(), metadata=_by(_list_of(_scheduled, maximum=WINDOWS_MAX))
    )
    """Other rates at some times of the week, such as `Mon,Tue 08:00-18:00 up=64 down=256` (UTC)."""

    def plan(self) -> RatePlan:
        """These settings as the limits use them."""
        general = Rates(
            **{
                item.name.removesuffix("_kib_s"): rate_of(getattr(self, item.name), item.name)
                for item in dataclasses.fields(self)
                if item.name.endswith("_kib_s")
            }
        )
        return RatePlan(general=general, schedule=parse_schedule(self.schedule, "traffic.schedule"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings of a node."""

    node: NodeConfig = field(default_factory=NodeConfig)
    """What this node is."""
    network: NetworkSection = field(default_factory=NetworkSection)
    """Peers."""
    http: HTTPConfig = field(default_factory=HTTPConfig)
    """Devices."""
    storage: StorageConfig = field(default_factory=StorageConfig)
    """Disk."""
    floor: FloorConfig = field(default_factory=FloorConfig)
    """Local demands."""
    ledger: LedgerConfig = field(default_factory=LedgerConfig)
    """The chain."""
    traffic: TrafficConfig = field(default_factory=TrafficConfig)
    """Rates."""


SECTIONS: Final[Mapping[str, type[Any]]] = {
    "node": NodeConfig,
    "network": NetworkSection,
    "http": HTTPConfig,
    "storage": StorageConfig,
    "floor": FloorConfig,
    "ledger": LedgerConfig,
    "traffic": TrafficConfig,
}
"""Section names, in the order of the file, with the class that reads each."""


def _unknown(kind: str, name: str, known: list[str]) -> ConfigError:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return ConfigError(f"unknown {kind} {name[:64]!r}; the nearest known is {near[0]!r}")


def _read_section(name: str, table: object) -> Any:
    section = SECTIONS[name]
    if not isinstance(table, dict):
        raise ConfigError(f"[{name}]: expected a section, got {_toml_type(table)}")
    readers = {item.name: item.metadata[_READ] for item in dataclasses.fields(section)}
    for key in table:
        if key not in readers:
            raise _unknown("key", f"{name}.{key}", [f"{name}.{known}" for known in readers])
    return section(**{key: readers[key](value, f"{name}.{key}") for key, value in table.items()})


def parse_config(text: str) -> Config:
    """Reads and checks the text of a configuration file.

    Raises:
        ConfigError: not TOML, an unknown section or key, a wrong type, or a value out of range.
    """
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise ConfigError(f"not TOML: {error}") from None
    for name in document:
        if name not in SECTIONS:
            raise _unknown("section", name, list(SECTIONS))
    config = Config(**{name: _read_section(name, table) for name, table in document.items()})
    _check_config(config)
    return config


def _check_config(config: Config) -> None:
    """Checks what spans several settings."""
    http = config.http.listen
    if http is not None and http.port and http in config.network.listen:
        raise ConfigError(f"http.listen: {http} is already in network.listen")


def load_config(path: Path) -> Config:
    """Reads a configuration file.

    Raises:
        ConfigError: missing, unreadable, too long, or not valid; the message names the file.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if len(raw) > CONFIG_BYTES_MAX:
        raise ConfigError(f"{path}: over {CONFIG_BYTES_MAX} bytes")
    try:
        return parse_config(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
