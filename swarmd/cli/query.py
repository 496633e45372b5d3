"""`swarmd status`, `peers`: what a daemon knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from swarmd.cli.options import call, directory_option, examples, json_option, pass_output
from swarmd.cli.output import Output, describe


@click.command(epilog=examples("swarmd status -C lab/gateway-1"))
@directory_option
@json_option
@pass_output
def status(output: Output, directory: Path) -> None:
    """Show how a node is doing: its role, the chain's height and age, peers, images, alarms."""
    output.result(call(directory, "status", {}))


@click.command(
    epilog=examples("swarmd peers -C lab/gateway-1", "swarmd peers --addresses -C lab/gateway-1")
)
@directory_option
@json_option
@click.option(
    "--addresses",
    is_flag=True,
    help="Also those not connected: every address, its age and its last error.",
)
@pass_output
def peers(output: Output, directory: Path, addresses: bool) -> None:
    """List the peers a node is connected to, and how it reaches each."""
    if addresses:
        found = call(directory, "reach", {})
        rows = [_address_row(peer, item) for peer in found["peers"] for item in peer["addresses"]]
        output.result(found, describe(rows) if rows else "no addresses")
        return
    result = call(directory, "peers", {})
    output.result(result, describe(result) if result else "no peers")


def _address_row(peer: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    """One line of the table: the name instead of the key."""
    shown = ("origin", "good_s_ago", "tried_s_ago", "error")
    place = item["address"].partition("/p2p/")[0]
    return {"name": peer["name"], "address": place, **{key: item[key] for key in shown}}
