"""Makes the genesis of a new chain: from join files and a plan, or a whole laboratory at once.

For a real network every operator makes keys on their own machine (`swarmd.enrolment`) and hands
over a join file; `create_network` needs nothing secret. `create_lab` makes all keys in one place,
which is right for trying things out and for nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.did import SubjectKind
from protocol.digest import ChainId
from protocol.errors import ConfigError, EncodingError, StorageError, VerificationError
from protocol.genesis import Genesis, Parameters
from protocol.group import Group, OwnerRoot, Policy
from protocol.keys import PrivateKey, PublicKey
from protocol.limits import VALIDATORS_MAX, VALIDATORS_MIN
from swarmd.clock import Clock
from swarmd.config import BOOTSTRAP_MAX, PORT_MAX, Config, Endpoint, LogLevel
from swarmd.config_template import render_config
from swarmd.datadir import (
    DIRECTORY_MODE,
    PUBLIC_FILE_MODE,
    DataDir,
    storage_errors,
    write_atomic,
    write_new,
)
from swarmd.enrolment import JoinFile, NodePlan, create_node, new_key
from swarmd.entropy import Entropy
from swarmd.keys.key_writer import write_key_file
from swarmd.net.address import PeerAddress
from swarmd.network_plan import NetworkPlan

LAB_PORT: Final = 7001
"""First port of a laboratory without `--base-port`."""
LAB_HOST: Final = "127.0.0.1"
"""A laboratory lives on one machine."""
LAB_GOVERNORS: Final = 3
"""Governance keys of a laboratory; two of them must agree."""
LAB_NODES_MAX: Final = 256
"""Nodes of a laboratory; one machine runs out of memory before."""


def build_genesis(plan: NetworkPlan, joins: Sequence[JoinFile], time_ms: int) -> Genesis:
    """Puts a genesis document together and checks it.

    Args:
        plan: names, groups and owners.
        joins: the first nodes; validators take their index from this order.
        time_ms: header time of the genesis block, milliseconds since 1970.

    Raises:
        ConfigError: the parts do not fit: too few validators, a node of an unknown group, a key or
            node named twice, a publisher that is not among the nodes.
    """
    validators = [join.record.did for join in joins if join.record.kind is SubjectKind.VALIDATOR]
    if not VALIDATORS_MIN <= len(validators) <= VALIDATORS_MAX:
        raise ConfigError(
            f"{len(validators)} validators, expected {VALIDATORS_MIN} to {VALIDATORS_MAX}"
        )
    ordered = sorted(joins, key=lambda join: join.record.did)
    try:
        return Genesis(
            name=plan.name,
            era=0,
            time_ms=time_ms,
            parameters=Parameters(heartbeat_ms=plan.heartbeat_ms, epoch_ms=plan.epoch_ms),
            validators=tuple(validators),
            joins=tuple(join.statement for join in ordered),
            groups=tuple(
                sorted(
                    (_with_publishers(group, plan, joins) for group in plan.groups),
                    key=lambda group: group.name.encode(),
                )
            ),
            governance_root=plan.governance,
        )
    except VerificationError as error:
        raise ConfigError(str(error)) from None


def _with_publishers(group: Group, plan: NetworkPlan, joins: Sequence[JoinFile]) -> Group:
    """Replaces the names of a group's publishers by their identities."""
    dids = []
    for name in plan.publishers.get(group.name, ()):
        found = [
            join.record.did
            for join in joins
            if join.record.name == name and join.record.kind is SubjectKind.PUBLISHER
        ]
        if len(found) != 1:
            raise ConfigError(
                f"group {group.name!r}: {len(found)} join files are of a publisher named {name!r}"
            )
        dids += found
    policy = dataclasses.replace(group.policy, publishers=tuple(sorted(dids)))
    return dataclasses.replace(group, policy=policy)


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedNetwork:
    """What `create_network` left behind."""

    chain: ChainId
    """Digest of the genesis document."""
    genesis: Path
    """The genesis document: public, the same for every node."""
    bootstrap: Path
    """Lines for the `[network]` section of every node's configuration."""


def create_network(
    directory: Path, plan: NetworkPlan, joins: Sequence[JoinFile], clock: Clock
) -> CreatedNetwork:
    """Writes `genesis.cbor` and `bootstrap.toml` into a new or empty directory.

    Raises:
        ConfigError: plan and join files do not make a valid genesis.
        StorageError: the directory is not empty or cannot be written.
    """
    genesis = build_genesis(plan, joins, clock.wall_ms())
    _make_empty(directory)
    created = CreatedNetwork(
        chain=genesis.chain,
        genesis=directory / "genesis.cbor",
        bootstrap=directory / "bootstrap.toml",
    )
    addresses = [address for join in _validators_first(joins) for address in join.addresses]
    lines = "".join(f'    "{address}",\n' for address in addresses[:BOOTSTRAP_MAX])
    text = f"# For the [network] section of config.toml\nbootstrap = [\n{lines}]\n"
    write_new(created.genesis, genesis.encode(), mode=PUBLIC_FILE_MODE)
    write_new(created.bootstrap, text.encode(), mode=PUBLIC_FILE_MODE)
    return created


def _validators_first(joins: Sequence[JoinFile]) -> list[JoinFile]:
    return sorted(joins, key=lambda join: join.record.kind)


def _make_empty(directory: Path) -> None:
    with storage_errors(f"cannot create {directory}"):
        directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise StorageError(f"{directory} is not empty: refusing to overwrite it")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabOptions:
    """The shape of a laboratory."""

    validators: int = VALIDATORS_MIN
    """4 to 32."""
    gateways: int = 4
    """0 or more."""
    publishers: int = 1
    """0 or more."""
    group: str = "fleet"
    """The one device group; gateways and publishers belong to it."""
    owners: int = 3
    """Keys of the group's owner root, 1 to 32."""
    threshold: int = 2
    """Owners that must agree, for approving and for revoking."""
    base_port: int = LAB_PORT
    """Port of the first node; one port for each node, then one for each gateway's HTTP."""
    log_level: LogLevel = LogLevel.INFO
    """Of every node."""
    heartbeat_ms: int = Parameters().heartbeat_ms
    """Of the chain, milliseconds."""
    epoch_ms: int = Parameters().epoch_ms
    """Length of the chain's epochs, milliseconds."""

    def __post_init__(self) -> None:
        """Refuses shapes that cannot be made.

        Raises:
            ConfigError: a count or port is out of range.
        """
        if not VALIDATORS_MIN <= self.validators <= VALIDATORS_MAX:
            raise ConfigError(
                f"{self.validators} validators, expected {VALIDATORS_MIN} to {VALIDATORS_MAX}"
            )
        if min(self.gateways, self.publishers) < 0 or self.node_count > LAB_NODES_MAX:
            raise ConfigError(f"{self.node_count} nodes, at most {LAB_NODES_MAX}")
        if not 1 <= self.base_port <= PORT_MAX - self.node_count - self.gateways:
            raise ConfigError(f"base port {self.base_port} leaves no room for the nodes' ports")

    @property
    def node_count(self) -> int:
        """Nodes of all kinds."""
        return self.validators + self.gateways + self.publishers


@dataclass(frozen=True, slots=True, kw_only=True)
class LabNode:
    """One node of a laboratory."""

    directory: DataDir
    """Its data directory; the folder's name is the node's name."""
    join: JoinFile
    """Its public record."""
    config: Config
    """Its settings as written."""

    @property
    def name(self) -> str:
        """Such as `validator-1`."""
        return self.join.record.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """A laboratory on disk, ready for `swarmd run` of each node."""

    chain: ChainId
    """Digest of the genesis document."""
    genesis: Path
    """The genesis document, also in each node's folder."""
    nodes: tuple[LabNode, ...]
    """Validators, then gateways, then publishers, each by number."""
    owner_keys: tuple[Path, ...]
    """Keys of the group's owners: `keys/owner-<n>.key`."""
    governance_keys: tuple[Path, ...]
    """Keys of the governance root: `keys/governance-<n>.key`."""

    def of_kind(self, kind: SubjectKind) -> tuple[LabNode, ...]:
        """The nodes of one kind, by number."""
        return tuple(node for node in self.nodes if node.join.record.kind is kind)


def create_lab(directory: Path, options: LabOptions, entropy: Entropy, clock: Clock) -> Lab:
    """Makes a whole network in one directory, every private key included.

    Raises:
        ConfigError: the options contradict each other.
        StorageError: the directory is not empty or cannot be written.
    """
    owners = [new_key(entropy) for _ in range(options.owners)]
    governors = [new_key(entropy) for _ in range(LAB_GOVERNORS)]
    plan = _lab_plan(options, owners, governors)
    _make_empty(directory)
    keys = directory / "keys"
    with storage_errors(f"cannot create {keys}"):
        keys.mkdir(mode=DIRECTORY_MODE)
    owner_keys = _write_keys(keys, "owner", owners)
    governance_keys = _write_keys(keys, "governance", governors)
    nodes = _create_nodes(directory, options, entropy)
    genesis = build_genesis(plan, [node.join for node in nodes], clock.wall_ms())
    path = directory / "genesis.cbor"
    write_new(path, genesis.encode(), mode=PUBLIC_FILE_MODE)
    return Lab(
        chain=genesis.chain,
        genesis=path,
        nodes=tuple(_introduce(node, nodes, genesis) for node in nodes),
        owner_keys=owner_keys,
        governance_keys=governance_keys,
    )


def _write_keys(folder: Path, role: str, keys: Sequence[PrivateKey]) -> tuple[Path, ...]:
    paths = tuple(folder / f"{role}-{number}.key" for number in range(1, len(keys) + 1))
    for path, key in zip(paths, keys, strict=True):
        write_key_file(path, key)
    return paths


def owner_root(keys: Sequence[tuple[PublicKey, str]], threshold: int) -> OwnerRoot:
    """A first owner root; keys in any order.

    Raises:
        ConfigError: a threshold the keys cannot meet, a repeated key or a bad name.
    """
    try:
        return OwnerRoot(version=1, threshold=threshold, owners=tuple(sorted(keys)))
    except EncodingError as error:
        raise ConfigError(f"owners: {error}") from None


def _lab_plan(
    options: LabOptions, owners: Sequence[PrivateKey], governors: Sequence[PrivateKey]
) -> NetworkPlan:
    root = owner_root(_named(owners, "owner"), options.threshold)
    try:
        policy = Policy(
            approve_threshold=options.threshold,
            revoke_threshold=options.threshold,
            amend_threshold=options.threshold,
            enrol_threshold=options.threshold,
        )
        group = Group(name=options.group, owner_root=root, policy=policy)
    except EncodingError as error:
        raise ConfigError(str(error)) from None
    return NetworkPlan(
        name=f"lab-{options.group}"[:64],
        heartbeat_ms=options.heartbeat_ms,
        epoch_ms=options.epoch_ms,
        groups=(group,),
        publishers={},
        governance=owner_root(_named(governors, "governance"), LAB_GOVERNORS // 2 + 1),
    )


def _named(keys: Sequence[PrivateKey], role: str) -> list[tuple[PublicKey, str]]:
    return [(key.public, f"{role}-{number}") for number, key in enumerate(keys, 1)]


def _create_nodes(directory: Path, options: LabOptions, entropy: Entropy) -> list[LabNode]:
    counts = (
        (SubjectKind.VALIDATOR, options.validators),
        (SubjectKind.GATEWAY, options.gateways),
        (SubjectKind.PUBLISHER, options.publishers),
    )
    nodes: list[LabNode] = []
    http_port = options.base_port + options.node_count
    for kind, count in counts:
        for number in range(1, count + 1):
            port = options.base_port + len(nodes)
            http = None
            if kind is SubjectKind.GATEWAY:
                http, http_port = Endpoint(LAB_HOST, http_port), http_port + 1
            plan = NodePlan(
                kind=kind,
                name=f"{kind.name.lower()}-{number}",
                groups=() if kind is SubjectKind.VALIDATOR else (options.group,),
                reachable=((LAB_HOST, port),),
            )
            config = node_config(plan, listen=(Endpoint(LAB_HOST, port),), http=http)
            # The nodes of a laboratory share one machine: lanes take whatever port is free.
            network = dataclasses.replace(config.network, lane_port=0)
            config = dataclasses.replace(config, network=network)
            config = dataclasses.replace(
                config, node=dataclasses.replace(config.node, log_level=options.log_level)
            )
            node = DataDir(directory / plan.name)
            join = create_node(node, plan, config, entropy)
            nodes.append(LabNode(directory=node, join=join, config=config))
    return nodes


def node_config(plan: NodePlan, *, listen: tuple[Endpoint, ...], http: Endpoint | None) -> Config:
    """The first configuration of a node: the defaults, its name, groups and addresses."""
    config = Config()
    return dataclasses.replace(
        config,
        node=dataclasses.replace(config.node, name=plan.name, groups=plan.groups),
        network=dataclasses.replace(config.network, listen=listen),
        http=dataclasses.replace(config.http, listen=http),
    )


def _introduce(node: LabNode, nodes: Sequence[LabNode], genesis: Genesis) -> LabNode:
    """Gives a node the genesis and the addresses of the others, validators first."""
    write_new(node.directory.genesis, genesis.encode(), mode=PUBLIC_FILE_MODE)
    others: list[PeerAddress] = []
    for other in nodes:
        if other is not node:
            others += other.join.addresses
    network = dataclasses.replace(node.config.network, bootstrap=tuple(others[:BOOTSTRAP_MAX]))
    config = dataclasses.replace(node.config, network=network)
    write_atomic(node.directory.config, render_config(config).encode())
    return dataclasses.replace(node, config=config)
