"""`swarmd init`: the folder and keys of a new node."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from protocol.errors import ConfigError
from swarmd.cli.options import examples, json_option, pass_output
from swarmd.cli.output import Output

if TYPE_CHECKING:
    from protocol.did import SubjectKind
    from protocol.genesis import Genesis
    from swarmd.control.protocol import JSON
    from swarmd.datadir import DataDir
    from swarmd.enrolment import JoinFile
    from swarmd.enrolment_request import TokenFile


@click.command(
    epilog=examples(
        "swarmd init /var/lib/swarmd --role gateway --group fleet \\",
        "       --listen 0.0.0.0:7001 --address gw7.example.org:7001",
        "swarmd init val1 --role validator --listen 192.0.2.7:7001",
        "swarmd init gw9 --role gateway --token gw9.token --genesis genesis.cbor",
    )
)
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--role",
    type=click.Choice(["validator", "gateway", "publisher"]),
    required=True,
    help="What the node shall be.",
)
@click.option("--name", help="For people [default: the folder's name].")
@click.option(
    "--group", "groups", multiple=True, metavar="GROUP", help="Device group it belongs to."
)
@click.option(
    "--listen",
    multiple=True,
    metavar="ADDRESS:PORT",
    default=("127.0.0.1:7001",),
    show_default=True,
    help="Where it listens for peers.",
)
@click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="HOST:PORT",
    help="Where peers reach it, if not where it listens (NAT, 0.0.0.0).",
)
@click.option(
    "--token",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Take the seat of this enrolment token; groups and peers come from it.",
)
@click.option(
    "--genesis",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="With --token: the chain's genesis document, checked against the token.",
)
@json_option
@pass_output
def init(
    output: Output,
    directory: Path,
    role: str,
    name: str | None,
    groups: tuple[str, ...],
    listen: tuple[str, ...],
    addresses: tuple[str, ...],
    token: Path | None,
    genesis: Path | None,
) -> None:
    """Make the folder of a new node: its keys, its settings, and a public join file.

    The private keys never leave DIR. Give the join file to whoever creates the network. With
    --token, swarmd run joins by itself; where no member can be reached, hand DIR/enrol.cbor to one
    (swarmd enrol submit).
    """
    from protocol.did import SubjectKind
    from swarmd.config import Endpoint, HTTPConfig, parse_endpoint
    from swarmd.datadir import DataDir
    from swarmd.enrolment import NodePlan, create_node, role_of
    from swarmd.entropy import SystemEntropy
    from swarmd.network_creation import node_config

    kind = role_of(role)
    seat = None if token is None else _read_seat(token, genesis, kind, groups)
    if seat is None and genesis is not None:
        raise ConfigError("--genesis belongs to --token")
    endpoints = tuple(parse_endpoint(text, "--listen") for text in listen)
    reachable = tuple(_reachable(text) for text in addresses) or _dialable(endpoints)
    plan = NodePlan(
        kind=kind,
        name=name if name is not None else directory.absolute().name,
        groups=groups if seat is None else seat[0].claims.groups,
        reachable=reachable,
    )
    http: Endpoint | None = HTTPConfig().listen if kind is SubjectKind.GATEWAY else None
    config = node_config(plan, listen=endpoints, http=http)
    if seat is not None:
        network = dataclasses.replace(config.network, bootstrap=seat[0].addresses)
        config = dataclasses.replace(config, network=network)
    node = DataDir(directory)
    join = create_node(node, plan, config, SystemEntropy())
    if not reachable:
        output.note("the join file names no address: peers cannot call this node (see --address)")
    if seat is None:
        output.result(_document(node, join), str(node.join))
    else:
        _take_seat(output, node, join, *seat)


def _document(node: DataDir, join: JoinFile) -> dict[str, JSON]:
    from protocol.did import did_key_text

    return {
        "directory": str(node.path),
        "join": str(node.join),
        "role": join.role,
        "name": join.record.name,
        "keys": {purpose.name.lower(): did_key_text(key) for purpose, key in join.record.keys},
    }


def _read_seat(
    token: Path, genesis: Path | None, kind: SubjectKind, groups: tuple[str, ...]
) -> tuple[TokenFile, Genesis]:
    """Reads a token and the genesis it is for, before anything is made.

    Raises:
        ConfigError: they do not fit each other, the role, or the groups.
    """
    from protocol.genesis import GENESIS_BYTES_MAX, decode_genesis
    from swarmd.datadir import read_bounded
    from swarmd.enrolment_request import load_token_file

    if genesis is None:
        raise ConfigError("--token needs --genesis FILE, the chain's genesis document")
    file = load_token_file(token)
    document = decode_genesis(read_bounded(genesis, bytes_max=GENESIS_BYTES_MAX))
    if document.chain != file.claims.chain:
        raise ConfigError(f"{genesis} is of another chain than {token}")
    if groups and tuple(sorted(set(groups), key=str.encode)) != file.claims.groups:
        raise ConfigError("--group: with --token, the groups come from the token")
    if kind is not file.claims.kind:
        raise ConfigError(f"--role: the token is for a {file.claims.kind.name.lower()}")
    if file.seat_key is None:
        raise ConfigError("the token is bound to a key made before: use swarmd enrol request")
    return file, document


def _take_seat(
    output: Output, node: DataDir, join: JoinFile, file: TokenFile, genesis: Genesis
) -> None:
    from swarmd.cli.enrol_request import report
    from swarmd.datadir import PUBLIC_FILE_MODE, KeyName, write_new
    from swarmd.enrolment_request import make_request, write_request

    write_new(node.genesis, genesis.encode(), mode=PUBLIC_FILE_MODE)
    made = make_request(join.statement, file, node.load_key(KeyName.NODE))
    report(output, made, write_request(node, made), _document(node, join))


def _dialable(endpoints: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    """The addresses among those listened on that mean the same to everybody."""
    wildcards = ("0.0.0.0", "::")  # noqa: S104  (compared, not bound)
    return tuple((host, port) for host, port in endpoints if host not in wildcards and port)


def _reachable(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit()) or len(port) > 5:
        raise ConfigError(f"--address: {text[:80]!r} is not HOST:PORT")
    return host.lower(), int(port)
