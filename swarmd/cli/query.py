"""`swarmd status`, `images`, `peers`: what a daemon knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from swarmd.cli.options import call, directory_option, examples, json_option, pass_output
from swarmd.cli.output import Output, describe, size_text


@click.command(epilog=examples("swarmd status -C lab/gateway-1"))
@directory_option
@json_option
@pass_output
def status(output: Output, directory: Path) -> None:
    """Show how a node is doing: its role, the chain's height and age, peers, images, alarms."""
    output.result(call(directory, "status", {}))


@click.command(epilog=examples("swarmd images -C lab/gateway-1"))
@directory_option
@json_option
@pass_output
def images(output: Output, directory: Path) -> None:
    """List the images a node knows, and by which rule it has or refuses each."""
    result = call(directory, "images", {})
    rows = [_image_row(image) for image in result]
    output.result(result, describe(rows) if rows else "no images yet")


def _image_row(image: dict[str, Any]) -> dict[str, Any]:
    """One line of the table: sizes instead of components."""
    components = image["components"]
    size = sum(component["size"] for component in components)
    held = sum(component["have"] for component in components)
    chunks = sum(component["chunks"] for component in components)
    row = {name: value for name, value in image.items() if name != "components"}
    return {**row, "size": size_text(size), "chunks": f"{held}/{chunks}"}


@click.command(epilog=examples("swarmd peers -C lab/gateway-1"))
@directory_option
@json_option
@pass_output
def peers(output: Output, directory: Path) -> None:
    """List the peers a node is connected to."""
    result = call(directory, "peers", {})
    output.result(result, describe(result) if result else "no peers")
