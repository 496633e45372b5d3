"""`swarmd images`: what a node knows and holds; `pin`, `unpin`, `pins`, `collect`: what stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from swarmd.cli.options import (
    call,
    directory_option,
    examples,
    json_option,
    manifest_argument,
    pass_output,
)
from swarmd.cli.output import Output, describe, plain, size_text


@click.group(
    invoke_without_command=True,
    epilog=examples(
        "swarmd images -C lab/gateway-1",
        "swarmd images pin 3f2a... -C lab/gateway-1",
        "swarmd images collect -C lab/gateway-1 --dry-run",
    ),
)
@click.option(
    "-C",
    "--directory",
    type=click.Path(path_type=Path),
    envvar="SWARMD_DIR",
    metavar="DIR",
    help="The node's folder [or environment variable SWARMD_DIR].",
)
@json_option
@pass_output
@click.pass_context
def images(ctx: click.Context, output: Output, directory: Path | None) -> None:
    """List the images a node knows, and by which rule it has or refuses each."""
    if ctx.invoked_subcommand is not None:
        if directory is not None:
            ctx.default_map = {ctx.invoked_subcommand: {"directory": directory}}
        return
    if directory is None:
        raise click.UsageError("Missing option '-C' / '--directory'.", ctx)
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
    sealed = dict.fromkeys(state for one in components if (state := one.get("sealed")) is not None)
    if sealed:
        row["sealed"] = ", ".join(sealed)
    return {**row, "size": size_text(size), "chunks": f"{held}/{chunks}"}


@images.command(epilog=examples("swarmd images pin 3f2a... -C lab/gateway-1"))
@manifest_argument
@directory_option
@json_option
@pass_output
def pin(output: Output, manifest: str, directory: Path) -> None:
    """Keep a release on this node whatever comes after it.

    A pin does not fetch the release, and does not keep what its owners revoke.
    """
    result = call(directory, "pin", {"manifest": manifest})
    output.result(result, "pinned" if result["changed"] else "was pinned already")


@images.command(epilog=examples("swarmd images unpin 3f2a... -C lab/gateway-1"))
@manifest_argument
@directory_option
@json_option
@pass_output
def unpin(output: Output, manifest: str, directory: Path) -> None:
    """End a pin; the release stays as long as the others of its product do."""
    result = call(directory, "unpin", {"manifest": manifest})
    output.result(result, "unpinned" if result["changed"] else "was not pinned")


@images.command(epilog=examples("swarmd images pins -C lab/gateway-1"))
@directory_option
@json_option
@pass_output
def pins(output: Output, directory: Path) -> None:
    """List the releases that are pinned on a node."""
    result = call(directory, "pins", {})
    output.result(result, describe(result) if result else "nothing is pinned")


@images.command(
    epilog=examples(
        "swarmd images collect -C lab/gateway-1 --dry-run",
        "swarmd images collect -C lab/gateway-1 --room-mib 512",
    )
)
@directory_option
@click.option("--dry-run", "is_dry", is_flag=True, help="Say what would go, and delete nothing.")
@click.option(
    "--room-mib",
    type=click.IntRange(min=0, max=1 << 30),
    default=0,
    metavar="N",
    help="Have room for N MiB more afterwards, if older releases can make it.",
)
@json_option
@pass_output
def collect(output: Output, directory: Path, is_dry: bool, room_mib: int) -> None:
    """Delete the images that need not stay; say of each stored image why it stays or goes.

    Nodes do this by themselves. What devices run, what is pinned, fetched or handed out at the
    moment, and the newest release of each product never go.
    """
    result = call(directory, "collect", {"dry_run": is_dry, "room_bytes": room_mib << 20})
    rows = [_kept_row(item, is_dry=is_dry) for item in result]
    output.result(result, describe(rows) if rows else "nothing is stored")


def _kept_row(item: dict[str, Any], *, is_dry: bool) -> dict[str, Any]:
    done = "would go" if is_dry else "deleted" if item["deleted"] else "in use"
    return {
        "image": item["image"][:16],
        "release": ", ".join(plain(str(name)) for name in item["releases"][:3]) or "-",
        "size": size_text(item["size"]),
        "": done if item["goes"] else "stays",
        "reason": item["reason"],
    }
