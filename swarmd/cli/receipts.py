"""`swarmd receipts`: what a node decided and did."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from protocol.errors import ConfigError
from swarmd.cli.options import call, directory_option, examples, json_option, pass_output
from swarmd.cli.output import Output, describe


@click.command(
    epilog=examples(
        "swarmd receipts -C lab/gateway-1",
        "swarmd receipts -C lab/gateway-1 --since 2026-01-31 --count 1000 --json",
    )
)
@click.option(
    "--since", metavar="TIME", help="Not older than this: a date, or date and time, in UTC."
)
@click.option(
    "--count",
    type=click.IntRange(1, 1000),
    default=50,
    show_default=True,
    help="At most so many, the newest.",
)
@directory_option
@json_option
@pass_output
def receipts(output: Output, directory: Path, since: str | None, count: int) -> None:
    """List grants, denials, authorisations, fetches and offers that a node has noted.

    Each entry has a number, by which swarmd prove shows it to others once it is anchored.
    """
    params: dict[str, Any] = {"count": count}
    if since is not None:
        params["since_ms"] = _milliseconds(since)
    rows = call(directory, "receipts", params)
    output.result(rows, describe(rows) if rows else "no receipts")


def _milliseconds(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--since {text[:40]!r}: not a date such as 2026-01-31") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0, round(moment.timestamp() * 1000))
