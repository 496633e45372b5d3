"""`swarmd status`, `peers`: what a daemon knows."""

from __future__ import annotations

from pathlib import Path

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


@click.command(epilog=examples("swarmd peers -C lab/gateway-1"))
@directory_option
@json_option
@pass_output
def peers(output: Output, directory: Path) -> None:
    """List the peers a node is connected to."""
    result = call(directory, "peers", {})
    output.result(result, describe(result) if result else "no peers")
