"""`swarmd quarantine`: who may not serve, or not exchange at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from swarmd.cli.access_signing import Matter, decide, decision_options, view_of
from swarmd.cli.options import call, directory_option, examples, json_option, pass_output
from swarmd.cli.output import Output, describe

if TYPE_CHECKING:
    from typing import Any

_DAY_MS = 24 * 3_600_000


@click.group()
def quarantine() -> None:
    """Look at quarantines, set them, end them."""


@quarantine.command("list", epilog=examples("swarmd quarantine list -C lab/gateway-1"))
@directory_option
@json_option
@pass_output
def list_(output: Output, directory: Path) -> None:
    """List quarantines and convictions, by group."""
    result = call(directory, "quarantines", {})
    parts = [describe(rows) for rows in result.values() if rows]
    output.result(result, "\n\n".join(parts) if parts else "none")


@quarantine.command(
    "set",
    epilog=examples(
        "swarmd quarantine set did:swarm:0ce67565:mfrgg... --group pumps --level 1 --days 7 \\",
        "       -C lab/gateway-1 --key alice.key --key bob.key",
    ),
)
@click.argument("subject", metavar="DID")
@click.option("--group", required=True, metavar="GROUP", help="Your group.")
@click.option(
    "--level",
    type=click.IntRange(1, 2),
    default=1,
    show_default=True,
    help="1: fetches, serves nobody. 2: exchanges nothing.",
)
@click.option("--days", type=click.IntRange(1, 3660), help="Until when [default: until released].")
@click.option(
    "--until-ms",
    type=click.IntRange(1),
    metavar="MS",
    help="Exactly until this header time, instead of --days: as another owner signed it.",
)
@decision_options
@json_option
@pass_output
def set_(
    output: Output,
    /,
    *,
    subject: str,
    group: str,
    level: int,
    days: int | None,
    until_ms: int | None,
    **options: Any,
) -> None:
    """Put a member of your group into quarantine; it goes on reading ledger and revocations."""
    from ledger.bodies.defence import quarantine_digest
    from protocol.approval import Action

    view = view_of(options["directory"], subject, group)
    if until_ms is None and days is not None:
        until_ms = (view.now_ms // _DAY_MS + days + 1) * _DAY_MS
    digest = quarantine_digest(
        view.subject, group, level=level, until_ms=until_ms, sequence=view.sequence
    )
    params: dict[str, Any] = {"subject": view.subject.hex(), "group": group, "level": level}
    if until_ms is not None:
        params["until_ms"] = until_ms
    matter = Matter(
        kind="quarantine.set",
        action=Action.QUARANTINE,
        digest=digest,
        params=params,
        shown={
            "quarantine": f"{view.name} ({subject})",
            "group": group,
            "level": level,
            "until_ms": until_ms if until_ms is not None else "released",
        },
    )
    decide(output, view, matter, options)


@quarantine.command(
    epilog=examples(
        "swarmd quarantine release did:swarm:0ce67565:mfrgg... --group pumps \\",
        "       -C lab/gateway-1 --key alice.key --key bob.key",
    )
)
@click.argument("subject", metavar="DID")
@click.option("--group", required=True, metavar="GROUP", help="Your group.")
@decision_options
@json_option
@pass_output
def release(output: Output, /, *, subject: str, group: str, **options: Any) -> None:
    """End a quarantine, whatever its cause; a conviction stays on record."""
    from ledger.bodies.defence import release_digest
    from protocol.approval import Action

    view = view_of(options["directory"], subject, group)
    matter = Matter(
        kind="quarantine.release",
        action=Action.RELEASE,
        digest=release_digest(view.subject, group, view.sequence),
        params={"subject": view.subject.hex(), "group": group},
        shown={"release": f"{view.name} ({subject})", "group": group, "level now": view.level},
    )
    decide(output, view, matter, options)
