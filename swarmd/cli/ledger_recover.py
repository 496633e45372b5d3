"""`swarmd ledger recover|backup`: going on in a new era, and copying a ledger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from swarmd.cli.options import directory_option, examples, json_option, pass_output
from swarmd.cli.output import Output

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON


@click.command(
    epilog=examples(
        "swarmd ledger recover recovery.cbor -C lab/gateway-1",
        "swarmd ledger recover recovery.cbor -C new/validator-5 --ledger survivor.db",
    )
)
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE"
)
@directory_option
@click.option(
    "--ledger",
    "backup",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Start from a survivor's ledger (swarmd ledger backup), on a node that has none.",
)
@json_option
@pass_output
def recover(output: Output, file: Path, directory: Path, backup: Path | None) -> None:
    """Begin a new era from a recovery file that the governance root has signed.

    Only after more validators were lost than the chain can do without. The daemon must be stopped.
    A node that holds a later final block than the file names refuses; one that is behind catches up
    first. Adopt it on every node; then start them.
    """
    from swarmd.datadir import open_data_dir
    from swarmd.ledger_recovery import adopt_recovery, load_recovery

    header = adopt_recovery(open_data_dir(directory), load_recovery(file), backup=backup)
    document: JSON = {
        "era": header.era,
        "epoch": header.epoch,
        "height": header.height,
        "header": header.block_id.hex(),
    }
    output.result(document, f"era {header.era} begins with block {header.height}; start the daemon")


@click.command(epilog=examples("swarmd ledger backup survivor.db -C lab/gateway-1"))
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@directory_option
@json_option
@pass_output
def backup(output: Output, target: Path, directory: Path) -> None:
    """Copy a node's ledger into one file, also while its daemon runs."""
    from swarmd.datadir import open_data_dir
    from swarmd.ledger_recovery import back_up

    back_up(open_data_dir(directory), target.absolute())
    size = target.stat().st_size
    output.result({"file": str(target.absolute()), "bytes": size}, f"{target}: {size} bytes")
