"""`swarmd init`: the folder and keys of a new node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from protocol.errors import ConfigError
from swarmd.cli.options import examples, json_option, pass_output
from swarmd.cli.output import Output

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON


@click.command(
    epilog=examples(
        "swarmd init /var/lib/swarmd --role gateway --group fleet \\",
        "       --listen 0.0.0.0:7001 --address gw7.example.org:7001",
        "swarmd init val1 --role validator --listen 192.0.2.7:7001",
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
) -> None:
    """Make the folder of a new node: its keys, its settings, and a public join file.

    The private keys never leave DIR. Give the join file to whoever creates the network.
    """
    from protocol.did import SubjectKind, did_key_text
    from swarmd.config import Endpoint, HTTPConfig, parse_endpoint
    from swarmd.datadir import DataDir
    from swarmd.enrolment import NodePlan, create_node, role_of
    from swarmd.entropy import SystemEntropy
    from swarmd.network_creation import node_config

    kind = role_of(role)
    endpoints = tuple(parse_endpoint(text, "--listen") for text in listen)
    reachable = tuple(_reachable(text) for text in addresses) or _dialable(endpoints)
    plan = NodePlan(
        kind=kind,
        name=name if name is not None else directory.absolute().name,
        groups=groups,
        reachable=reachable,
    )
    http: Endpoint | None = HTTPConfig().listen if kind is SubjectKind.GATEWAY else None
    node = DataDir(directory)
    join = create_node(node, plan, node_config(plan, listen=endpoints, http=http), SystemEntropy())
    if not reachable:
        output.note("the join file names no address: peers cannot call this node (see --address)")
    document: JSON = {
        "directory": str(node.path),
        "join": str(node.join),
        "role": join.role,
        "name": join.record.name,
        "keys": {purpose.name.lower(): did_key_text(key) for purpose, key in join.record.keys},
    }
    output.result(document, str(node.join))


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
