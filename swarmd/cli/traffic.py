"""`swarmd traffic`: how many bytes of images may go; rates by hand, and the off switch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from swarmd.cli.options import call, directory_option, examples, json_option, pass_output
from swarmd.cli.output import Output, size_text


@click.group(
    invoke_without_command=True,
    epilog=examples(
        "swarmd traffic -C lab/gateway-1",
        "swarmd traffic limit -C lab/gateway-1 --up 64 --down 256",
        "swarmd traffic off -C lab/gateway-1",
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
def traffic(ctx: click.Context, output: Output, directory: Path | None) -> None:
    """Show how many bytes of images may go to and come from peers."""
    if ctx.invoked_subcommand is not None:
        if directory is not None:
            ctx.default_map = {ctx.invoked_subcommand: {"directory": directory}}
        return
    if directory is None:
        raise click.UsageError("Missing option '-C' / '--directory'.", ctx)
    _show(output, call(directory, "traffic", {}))


def _show(output: Output, result: dict[str, Any]) -> None:
    """One line for people."""
    if result["is_off"]:
        text = "off: no image goes to or comes from peers"
    else:
        by_hand = " (set by hand)" if result["is_by_hand"] else ""
        text = f"on; up {_rate(result['up'])}, down {_rate(result['down'])}{by_hand}"
    output.result(result, text)


def _rate(bytes_per_s: int | None) -> str:
    return "unlimited" if bytes_per_s is None else f"{size_text(bytes_per_s)}/s"


@traffic.command(epilog=examples("swarmd traffic off -C lab/gateway-1"))
@directory_option
@json_option
@pass_output
def off(output: Output, directory: Path) -> None:
    """Let no image go to or come from peers, until `swarmd traffic on`; also after a restart.

    The node follows the ledger all the same, so that it learns of revocations, and goes on handing
    devices the images it has. Fetches wait.
    """
    _show(output, call(directory, "traffic.switch", {"to": "off"}))


@traffic.command(epilog=examples("swarmd traffic on -C lab/gateway-1"))
@directory_option
@json_option
@pass_output
def on(output: Output, directory: Path) -> None:
    """Let images go to and come from peers again, within the rates that hold."""
    _show(output, call(directory, "traffic.switch", {"to": "on"}))


@traffic.command(
    epilog=examples(
        "swarmd traffic limit -C lab/gateway-1 --up 64 --down 256",
        "swarmd traffic limit -C lab/gateway-1",
    )
)
@directory_option
@click.option(
    "--up", type=click.IntRange(min=0), metavar="KIB", help="KiB/s to peers; 0: no limit."
)
@click.option(
    "--down", type=click.IntRange(min=0), metavar="KIB", help="KiB/s from peers; 0: no limit."
)
@json_option
@pass_output
def limit(output: Output, directory: Path, up: int | None, down: int | None) -> None:
    """Set rates by hand, at once and also after a restart; what is not given is as configured.

    Rates hold for all peers beyond the site together, whatever the
    schedule says.
    """
    rates = {"up_kib_s": up, "down_kib_s": down}
    params = {name: rate for name, rate in rates.items() if rate is not None}
    _show(output, call(directory, "traffic.limit", params))
