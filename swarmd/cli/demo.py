"""`swarmd demo`: the whole job on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from protocol.errors import ConfigError
from protocol.limits import VALIDATORS_MAX, VALIDATORS_MIN
from swarmd.cli.options import examples, json_option, pass_output
from swarmd.cli.output import Output

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON

GATEWAYS_MAX = 64
"""Each gateway is a process of its own on this machine."""


@click.command(
    epilog=examples("swarmd demo", "swarmd demo --image old.bin --image new.bin --keep /tmp/lab")
)
@click.option(
    "--validators",
    type=click.IntRange(VALIDATORS_MIN, VALIDATORS_MAX),
    default=VALIDATORS_MIN,
    show_default=True,
    help="Nodes that order approvals.",
)
@click.option(
    "--gateways",
    type=click.IntRange(1, GATEWAYS_MAX),
    default=4,
    show_default=True,
    help="Nodes that fetch images.",
)
@click.option(
    "--image",
    "images",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Give it twice: the old and the new version. Default: real firmware from a registry.",
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Keep the network's folders in DIR.",
)
@json_option
@pass_output
def demo(
    output: Output, validators: int, gateways: int, images: tuple[Path, ...], keep: Path | None
) -> None:
    """Run a whole network on this machine: publish, approve, distribute, attack, revoke.

    Every node is a process of its own. Exits with 0 only if every check held.
    """
    if len(images) not in (0, 2):
        raise ConfigError("--image: give it twice (old and new version), or not at all")
    from swarmd.demo import DemoOptions, run_demo

    report = run_demo(
        DemoOptions(
            validators=validators, gateways=gateways, images=images, keep=keep, json=output.json
        )
    )
    if output.json:
        output.result(cast("JSON", report))
    failed = [name for name, held in report["checks"].items() if not held]
    if failed:
        output.reason(f"demo: failed checks: {', '.join(failed)}")
        click.get_current_context().exit(1)
