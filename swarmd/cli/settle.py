"""`swarmd settle`: has a release judged again that only waited for time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from swarmd.cli.options import (
    call,
    directory_option,
    examples,
    json_option,
    manifest_argument,
    pass_output,
)
from swarmd.cli.output import Output, plain

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON


@click.command(epilog=examples("swarmd settle 3f2a... -C lab/gateway-1"))
@manifest_argument
@click.option(
    "--group",
    "wanted",
    multiple=True,
    metavar="GROUP",
    help="In this group only [default: every target group where it waits].",
)
@directory_option
@json_option
@pass_output
def settle(output: Output, manifest: str, wanted: tuple[str, ...], directory: Path) -> None:
    """Have a release judged again that only waited for time.

    Its soak is over, a freeze has ended, or its owners have changed: nobody has to sign anything
    more. Nodes ask by themselves; this asks at once. `swarmd ledger explain` says what is missing.
    """
    params: dict[str, JSON] = {"manifest": manifest}
    if wanted:
        params["groups"] = [*wanted]
    result = call(directory, "settle", params)
    output.result(result, f"authorised in {', '.join(plain(name) for name in result['groups'])}")
