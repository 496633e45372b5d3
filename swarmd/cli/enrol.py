"""`swarmd enrol`: seats given away before the newcomer's keys exist."""

from __future__ import annotations

from typing import Final

import click

from swarmd.cli.lazy import Entry, LazySubgroup
from swarmd.cli.options import examples

COMMANDS: Final[dict[str, Entry]] = {
    "new-token": Entry("enrol_token", "Give a seat away, as an owner of its groups."),
    "sign-token": Entry("enrol_token", "Agree to a seat that another owner gives away."),
    "request": Entry("enrol_request", "Take a seat for a node that exists already."),
    "show": Entry("enrol_request", "Show a request and its code, or who waits at a member."),
    "submit": Entry("enrol_request", "Hand a newcomer's request to a member."),
    "confirm": Entry("enrol_confirm", "Confirm the newcomer that shows this code."),
}
"""Commands of the group, in the order of `--help`."""


@click.group(
    cls=LazySubgroup,
    entries=COMMANDS,
    epilog=examples(
        "swarmd enrol new-token gw9.token -C lab/gateway-1 --key ada.key --group fleet",
        "swarmd enrol sign-token gw9.token --key bob.key",
        "swarmd init gw9 --role gateway --token gw9.token --genesis genesis.cbor",
        "swarmd run -C gw9",
    ),
)
def enrol() -> None:
    """Let newcomers in by tokens that owners signed before.

    Owners make a token; the newcomer makes its keys itself, takes the seat and gets a request file.
    Its daemon hands that to a member by itself, or you do. A seat is taken once.
    """
