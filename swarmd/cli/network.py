"""`swarmd network create`: the genesis of a new network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from protocol.errors import ConfigError
from swarmd.cli.options import examples, json_option, pass_output
from swarmd.cli.output import Output

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON


@click.group()
def network() -> None:
    """Create a new network."""


@network.command(
    "create",
    epilog=examples(
        "swarmd network create lab --validators 4 --gateways 2",
        "swarmd network create acme --plan acme.toml --join v1.json --join v2.json \\",
        "       --join v3.json --join v4.json --join gw1.json --join factory.json",
    ),
)
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--join",
    "joins",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    metavar="FILE",
    help="A node's join file, from swarmd init; repeat it.",
)
@click.option(
    "--plan",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.toml",
    help="Chain name, groups, owners and thresholds.",
)
@click.option("--validators", type=int, metavar="N", help="Laboratory: number of validators.")
@click.option("--gateways", type=int, metavar="N", help="Laboratory: number of gateways.")
@click.option("--publishers", type=int, metavar="N", help="Laboratory: publishers [default: 1].")
@click.option("--group", metavar="GROUP", help="Laboratory: the device group [default: fleet].")
@click.option("--owners", type=int, metavar="N", help="Laboratory: owner keys [default: 3].")
@click.option(
    "--threshold", type=int, metavar="K", help="Laboratory: owners that must agree [default: 2]."
)
@click.option("--base-port", type=int, metavar="P", help="Laboratory: first port [default: 7001].")
@json_option
@pass_output
def network_create(
    output: Output,
    /,
    directory: Path,
    joins: tuple[Path, ...],
    plan: Path | None,
    **laboratory: int | str | None,
) -> None:
    """Create a new network in DIR.

    A real network is made of join files, each from the machine that keeps its keys, and a plan that
    names groups and owners. A laboratory (--validators and --gateways) makes all keys in one place,
    which is right for trying things out and for nothing else.
    """
    given = {name: value for name, value in laboratory.items() if value is not None}
    if joins or plan is not None:
        if given:
            raise ConfigError(f"--{next(iter(given)).replace('_', '-')} is for laboratories only")
        _create_from_joins(output, directory, joins, plan)
    elif {"validators", "gateways"} <= set(given):
        _create_lab(output, directory, given)
    else:
        raise ConfigError("give --join and --plan, or --validators and --gateways; see --help")


def _create_from_joins(
    output: Output, directory: Path, joins: tuple[Path, ...], plan: Path | None
) -> None:
    from swarmd.clock import SystemClock
    from swarmd.enrolment import load_join
    from swarmd.network_creation import create_network
    from swarmd.network_plan import load_plan

    if plan is None or not joins:
        raise ConfigError("--join and --plan belong together")
    files = [load_join(path) for path in joins]
    created = create_network(directory, load_plan(plan), files, SystemClock())
    output.note(
        f"copy {created.genesis} into each node's folder and the lines of {created.bootstrap} "
        "into each config.toml"
    )
    document: JSON = {
        "chain": created.chain.hex(),
        "genesis": str(created.genesis.absolute()),
        "bootstrap": str(created.bootstrap.absolute()),
        "nodes": [{"name": join.record.name, "role": join.role} for join in files],
    }
    output.result(document, created.chain.hex())


def _create_lab(output: Output, directory: Path, given: dict[str, int | str]) -> None:
    from swarmd.clock import SystemClock
    from swarmd.entropy import SystemEntropy
    from swarmd.network_creation import LAB_PORT, LabOptions, create_lab

    # 0 asks for the default, as scripts that compute a port like to say.
    given["base_port"] = given.get("base_port") or LAB_PORT
    options = LabOptions(**given)  # type: ignore[arg-type]  # click read each by its own type
    lab = create_lab(directory, options, SystemEntropy(), SystemClock())
    output.note(
        f"laboratory of {len(lab.nodes)} nodes: every private key is in {directory}, "
        "so use it for trials only"
    )
    nodes: list[JSON] = [
        {
            "name": node.name,
            "role": node.join.role,
            "directory": str(node.directory.path),
            "addresses": [address.multiaddr for address in node.join.addresses],
            "http": None if node.config.http.listen is None else str(node.config.http.listen),
        }
        for node in lab.nodes
    ]
    document: JSON = {
        "chain": lab.chain.hex(),
        "genesis": str(lab.genesis.absolute()),
        "group": options.group,
        "nodes": nodes,
        "owner_keys": [str(path.absolute()) for path in lab.owner_keys],
        "governance_keys": [str(path.absolute()) for path in lab.governance_keys],
    }
    starts = "\n".join(f"  swarmd run -C {directory / node.name}" for node in lab.nodes)
    output.result(document, f"chain {lab.chain.hex()}\nstart the nodes with:\n{starts}")
