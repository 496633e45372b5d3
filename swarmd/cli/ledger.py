"""`swarmd ledger`: the newest blocks, and commands about the ledger as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from protocol.errors import ConfigError
from swarmd.cli.lazy import Entry, LazySubgroup
from swarmd.cli.options import call, examples, json_option, pass_output
from swarmd.cli.output import Output

COMMANDS: Final[dict[str, Entry]] = {
    "explain": Entry("ledger_explain", "Say why a release is or is not authorised and offered."),
    "export": Entry("ledger_export", "Write blocks as JSON Lines, CSV or an audit report."),
    "tlog": Entry("ledger_export", "Write the log as C2SP static files, for anybody's tools."),
    "recover": Entry("ledger_recover", "Begin a new era from a recovery file of the governance."),
    "backup": Entry("ledger_recover", "Copy the ledger into one file."),
}
"""Commands of the group, in the order of `--help`."""


@click.group(
    cls=LazySubgroup,
    entries=COMMANDS,
    invoke_without_command=True,
    epilog=examples(
        "swarmd ledger -C lab/gateway-1", "swarmd ledger -C lab/gateway-1 --from 10 --json"
    ),
)
@click.option("--from", "height", type=click.IntRange(min=0), help="First block to show.")
@click.option(
    "-C",
    "--directory",
    type=click.Path(path_type=Path),
    envvar="SWARMD_DIR",
    metavar="DIR",
    help="The node's folder [or environment variable SWARMD_DIR].",
)
@json_option
@click.pass_context
@pass_output
def ledger(output: Output, ctx: click.Context, height: int | None, directory: Path | None) -> None:
    """Show the chain as this node has verified it: its head and the newest blocks."""
    if ctx.invoked_subcommand is not None:
        return
    if directory is None:
        raise ConfigError("which node? give its folder with -C DIR")
    output.result(call(directory, "ledger", {} if height is None else {"from": height}))
