"""`swarmd access`: what owners let others do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from protocol.errors import ConfigError, EncodingError
from swarmd.cli.access_signing import Matter, decide, decision_options, view_of
from swarmd.cli.options import (
    HexDigest,
    call,
    directory_option,
    examples,
    json_option,
    pass_output,
)
from swarmd.cli.output import Output, describe

if TYPE_CHECKING:
    from typing import Any

_DAY_MS = 24 * 3_600_000


@click.group()
def access() -> None:
    """Let subjects do things in your groups, and take it back."""


@access.command(
    epilog=examples(
        "swarmd access grant did:swarm:0ce67565:mfrgg... --group pumps --can fetch --days 30 \\",
        "       -C lab/gateway-1 --key alice.key --key bob.key",
    )
)
@click.argument("subject", metavar="DID")
@click.option("--group", required=True, metavar="GROUP", help="Your group.")
@click.option(
    "--can",
    "verbs",
    multiple=True,
    required=True,
    metavar="VERB|ROLE",
    help="publish, fetch, serve, read-ledger, operate, approve-staging, relay; or a role: "
    "publisher, mirror, auditor, approver, operator.",
)
@click.option("--product", metavar="PRODUCT", help="Only for this product.")
@click.option("--manifest", type=HexDigest(), metavar="MANIFEST", help="Only for this manifest.")
@click.option(
    "--days", type=click.IntRange(1, 3660), default=30, show_default=True, help="Until when."
)
@click.option("--issue", type=click.IntRange(0), default=0, help="Number to grant it once more.")
@click.option(
    "--until-ms",
    type=click.IntRange(1),
    metavar="MS",
    help="Exactly until this header time, instead of --days: as another owner signed it.",
)
@decision_options
@json_option
@pass_output
def grant(
    output: Output,
    /,
    *,
    subject: str,
    group: str,
    verbs: tuple[str, ...],
    product: str | None,
    manifest: str | None,
    days: int,
    issue: int,
    until_ms: int | None,
    **options: Any,
) -> None:
    """Let DID do something in your group until a time.

    As many owners must sign as the group's policy asks for enrolments, and no fewer than its root
    does. Owners elsewhere add their signatures with --add and pass the file on.
    """
    from protocol.approval import Action
    from protocol.capability import Capability, verbs_of
    from protocol.digest import ManifestId

    view = view_of(options["directory"], subject, group)
    # Whole days, so that owners who sign on the same day sign the same bytes.
    expires_ms = until_ms or (view.now_ms // _DAY_MS + days + 1) * _DAY_MS
    try:
        capability = Capability(
            subject=view.subject,
            group=group,
            verbs=verbs_of(verbs),
            product=product,
            manifest=None if manifest is None else ManifestId(bytes.fromhex(manifest)),
            expires_ms=expires_ms,
            issue=issue,
        )
    except EncodingError as error:
        raise ConfigError(str(error)) from None
    shown = {
        "let": f"{view.name} ({subject})",
        "group": group,
        "do": ", ".join(verb.name.lower().replace("_", "-") for verb in capability.verbs),
        "product": product or "all",
        "manifest": manifest or "all",
        "until_ms": expires_ms,
        "capability": capability.capability_id.hex(),
    }
    matter = Matter(
        kind="cap.grant",
        action=Action.GRANT,
        digest=capability.capability_id,
        params={"content": [capability.encode().hex()]},
        shown=shown,
    )
    decide(output, view, matter, options)


@access.command(epilog=examples("swarmd access revoke 3f2a... -C lab/gateway-1 --key alice.key"))
@click.argument("capability", type=HexDigest(), metavar="CAPABILITY")
@decision_options
@json_option
@pass_output
def revoke(output: Output, /, *, capability: str, **options: Any) -> None:
    """Withdraw a capability for good; `swarmd access list` shows its identifier."""
    from protocol.approval import Action
    from protocol.digest import Digest

    view = view_of(options["directory"], capability=capability)
    matter = Matter(
        kind="cap.revoke",
        action=Action.WITHDRAW,
        digest=Digest(bytes.fromhex(capability)),
        params={"capability": capability},
        shown={"withdraw": capability, "from": view.name, "group": view.group},
    )
    decide(output, view, matter, options)


@access.command("list", epilog=examples("swarmd access list -C lab/gateway-1 --group pumps"))
@click.option("--group", metavar="GROUP", help="Of this group only.")
@directory_option
@json_option
@pass_output
def list_(output: Output, directory: Path, group: str | None) -> None:
    """List what is granted and not withdrawn."""
    rows = call(directory, "access_list", {} if group is None else {"group": group})
    output.result(rows, describe(rows) if rows else "no capabilities")
