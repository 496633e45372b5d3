"""`swarmd gov`: what the governance root decides about the whole chain."""

from __future__ import annotations

from typing import Final

import click

from swarmd.cli.lazy import Entry, LazySubgroup
from swarmd.cli.options import examples

COMMANDS: Final[dict[str, Entry]] = {
    "status": Entry("gov_draft", "Show the epoch, its validators and the last checkpoint."),
    "validators": Entry("gov_draft", "Draft another set of validators."),
    "parameters": Entry("gov_draft", "Draft other numbers of the chain."),
    "upgrade": Entry("gov_draft", "Draft a protocol version from an epoch on."),
    "checkpoint": Entry("gov_draft", "Draft a checkpoint of the newest closed epoch."),
    "recovery": Entry("gov_recovery", "Draft a recovery, after validators were lost for good."),
    "seat": Entry("gov_recovery", "Take a seat in a drafted recovery, as a validator."),
    "show": Entry("gov_sign", "Show what a decision or recovery file says."),
    "sign": Entry("gov_sign", "Agree to a decision or recovery, as a holder of governance."),
    "submit": Entry("gov_sign", "Hand a signed decision to a node."),
}
"""Commands of the group, in the order of `--help`."""


@click.group(
    cls=LazySubgroup,
    entries=COMMANDS,
    epilog=examples(
        "swarmd gov checkpoint -C lab/gateway-1 -o checkpoint.decision",
        "swarmd gov sign checkpoint.decision --key lab/keys/governance-1.key",
        "swarmd gov submit checkpoint.decision -C lab/gateway-1",
    ),
)
def gov() -> None:
    """Decide about the whole chain, as holders of the governance root.

    A decision is a file: drafted at a node, signed by one holder after the other on machines of
    their own, and handed to any node once enough have signed.
    """
