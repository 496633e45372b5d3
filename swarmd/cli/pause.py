"""`swarmd pause`: hold offers back in an emergency; `confirm` and `lift` are the owners' answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from protocol.errors import ConfigError, PolicyError
from swarmd.cli.approval import confirm_signing
from swarmd.cli.key_options import key_options, open_key, passphrase_options
from swarmd.cli.options import (
    HexDigest,
    call,
    directory_option,
    examples,
    json_option,
    pass_output,
)
from swarmd.cli.output import Output, plain

if TYPE_CHECKING:
    from protocol.approval import Action, Approval
    from protocol.digest import Digest
    from swarmd.control.protocol import JSON

HOUR_MS: Final = 3_600_000
"""An hour of header time, milliseconds."""
_SCOPE: Final[tuple[Callable[[Any], Any], ...]] = (
    click.option("--group", metavar="GROUP", help="In this group."),
    click.option("--chain", "is_chain", is_flag=True, help="In every group of the chain."),
)
_DECIDING: Final[tuple[Callable[[Any], Any], ...]] = (
    directory_option,
    key_options,
    *_SCOPE,
    click.option(
        "--of",
        "paused_by",
        type=HexDigest(),
        metavar="KEY-ID",
        help="Which key's pause, from swarmd pause show [default: the only active one].",
    ),
    click.option(
        "--collect",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Add your signature to this file; it is handed over once enough have signed.",
    ),
    click.option("--yes", is_flag=True, help="Do not ask."),
    json_option,
    pass_output,
)


def _with(
    decorators: tuple[Callable[[Any], Any], ...],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def apply(command: Callable[..., None]) -> Callable[..., None]:
        for decorate in reversed(decorators):
            command = decorate(command)
        return command

    return apply


@click.group(
    invoke_without_command=True,
    epilog=examples(
        "swarmd pause -C lab/gateway-1 --group fleet --key emergency.key",
        "swarmd pause lift -C lab/gateway-1 --group fleet --key owner-1.key --collect lift.txt",
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
@click.option("--key", metavar="FILE|fd:N|pkcs11:...", help="Your emergency key.")
@passphrase_options
@_with(_SCOPE)
@click.option("--product", metavar="P", help="Only this product.")
@click.option("--manifest", type=HexDigest(), metavar="M", help="Only this release.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_output
def pause(output: Output, /, **options: Any) -> None:
    """Hold offers to devices back for 72 hours, with one emergency key.

    Revoking, rotating and override releases go on. A key may pause again a week after its pause has
    ended; owners may prolong or lift it.
    """
    if click.get_current_context().invoked_subcommand is None:
        _pause(output, **options)


@pause.command(epilog=examples("swarmd pause show -C lab/gateway-1"))
@directory_option
@click.option("--group", metavar="GROUP", help="This group [default: the node's own].")
@json_option
@pass_output
def show(output: Output, *, directory: Path, group: str | None) -> None:
    """Show the newest pause of every emergency key."""
    reply = call(directory, "pauses", {} if group is None else {"group": group})
    rows: list[JSON] = [row for scope in reply["scopes"] for row in scope["pauses"]]
    output.result({"now_ms": reply["now_ms"], "pauses": rows}, None if rows else "no pauses")


@pause.command(
    epilog=examples(
        "swarmd pause confirm -C lab/gateway-1 --group fleet --hours 240 --key owner-1.key"
    )
)
@click.option(
    "--hours",
    type=click.IntRange(1, 90 * 24),
    required=True,
    help="How long it shall last from now, in header time.",
)
@_with(_DECIDING)
def confirm(output: Output, *, hours: int, **options: Any) -> None:
    """Prolong a pause, as an owner."""
    _decide(output, hours=hours, **options)


@pause.command(
    epilog=examples("swarmd pause lift -C lab/gateway-1 --group fleet --key owner-1.key")
)
@_with(_DECIDING)
def lift(output: Output, **options: Any) -> None:
    """End a pause, as an owner."""
    _decide(output, hours=0, **options)


def _scope(reply: Any, group: str | None, *, is_chain: bool) -> dict[str, Any]:
    if is_chain == (group is not None):
        raise ConfigError("say where: either --group GROUP or --chain")
    for scope in reply["scopes"]:
        if scope["group"] == group:
            return dict(scope)
    raise PolicyError("group.unknown", f"the node knows no group {plain(str(group))}")


def _require_holder(scope: dict[str, Any], role: str, did: str) -> None:
    if did not in [holder["key"] for holder in scope[role]]:
        where = "the chain" if scope["group"] is None else plain(scope["group"])
        raise PolicyError("approval.owner", f"this key is not among the {role} keys of {where}")


def _approval(scope: dict[str, Any], reply: Any, action: Action, subject: Digest) -> Approval:
    from protocol.approval import Approval
    from protocol.digest import PolicyId
    from protocol.governance import GOVERNANCE_GROUP
    from protocol.limits import TRANSACTION_LIFETIME_MS_MAX

    return Approval(
        era=int(reply["era"]),
        action=action,
        subject=subject,
        group=GOVERNANCE_GROUP if scope["group"] is None else scope["group"],
        policy=PolicyId(bytes.fromhex(scope["policy"])),
        valid_until_ms=int(reply["now_ms"]) + TRANSACTION_LIFETIME_MS_MAX,
    )


def _pause(
    output: Output,
    *,
    directory: Path | None,
    key: str | None,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    group: str | None,
    is_chain: bool,
    product: str | None,
    manifest: str | None,
    yes: bool,
) -> None:
    from ledger.bodies.emergency import PauseOffers
    from protocol.approval import Action, sign_approval
    from protocol.did import did_key_text
    from protocol.digest import ManifestId
    from swarmd.datadir import open_data_dir

    if directory is None or key is None:
        raise ConfigError("missing -C DIR or --key FILE; see swarmd pause --help")
    signer = open_key(key, passphrase_file, passphrase_fd)
    chain = open_data_dir(directory).load_genesis().chain
    reply = call(directory, "pauses", {} if group is None else {"group": group})
    scope = _scope(reply, group, is_chain=is_chain)
    _require_holder(scope, "emergency", did_key_text(signer.public))
    body = PauseOffers(
        group=group,
        product=product,
        manifest=None if manifest is None else ManifestId(bytes.fromhex(manifest)),
        sequence=max(int(reply["now_ms"]), 1),
        approval=b"",
    )
    what = f"product {plain(product or 'any')}, release {manifest or 'any'}"
    where = "the whole chain" if group is None else plain(group)
    confirm_signing(f"hold offers back in {where} ({what}) for 72 hours?", yes=yes)
    approval = _approval(scope, reply, Action.PAUSE, body.subject)
    params: dict[str, JSON] = {
        "sequence": body.sequence,
        "approval": [sign_approval(approval, signer, chain).signed.raw.hex()],
    }
    chosen = {"group": group, "product": product, "manifest": manifest}
    params |= {name: value for name, value in chosen.items() if value is not None}
    result = call(directory, "pause_offers", params)
    document: JSON = {**chosen, **result}
    output.result(document, f"offers are held back in {where}: final at {result['height']}")


def _chosen(scope: dict[str, Any], paused_by: str | None) -> dict[str, Any]:
    """The active pause that is meant.

    Raises:
        PolicyError: there is none.
        ConfigError: there are several.
    """
    active = [
        dict(row) for row in scope["pauses"] if row["active"] and paused_by in (None, row["key_id"])
    ]
    if not active:
        raise PolicyError("pause.unknown", "there is no such active pause")
    if len(active) > 1:
        names = ", ".join(row["key_id"] for row in active)
        raise ConfigError(f"several pauses are active, choose one by --of: {names}")
    return active[0]


def _decide(
    output: Output,
    *,
    hours: int,
    directory: Path,
    key: str,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    group: str | None,
    is_chain: bool,
    paused_by: str | None,
    collect: Path | None,
    yes: bool,
) -> None:
    from ledger.bodies.emergency import DecidePause
    from protocol.approval import Action
    from protocol.did import did_key_text
    from protocol.digest import Digest
    from swarmd.cli.collecting import collect as collect_approvals
    from swarmd.datadir import open_data_dir

    signer = open_key(key, passphrase_file, passphrase_fd)
    chain = open_data_dir(directory).load_genesis().chain
    reply = call(directory, "pauses", {} if group is None else {"group": group})
    scope = _scope(reply, group, is_chain=is_chain)
    _require_holder(scope, "owners", did_key_text(signer.public))
    chosen = _chosen(scope, paused_by)
    now_hours = int(reply["now_ms"]) // HOUR_MS
    body = DecidePause(
        group=group,
        key_id=Digest(bytes.fromhex(chosen["key_id"])),
        sequence=int(chosen["sequence"]),
        # Whole hours, so that owners who sign within one mean the same.
        until_ms=(now_hours + hours) * HOUR_MS if hours else 0,
        approvals=(),
    )
    verb = f"prolong it to {body.until_ms}" if hours else "lift it"
    confirm_signing(f"pause by key {chosen['key_id'][:8]}: {verb}?", yes=yes)
    approvals = collect_approvals(
        _approval(scope, reply, Action.CONFIRM, body.subject),
        signer,
        chain,
        path=collect,
        needed=int(scope["needed"]),
    )
    params: dict[str, JSON] = {
        "key_id": chosen["key_id"],
        "sequence": body.sequence,
        "until_ms": body.until_ms,
        "approvals": [raw.hex() for raw in approvals],
    }
    if group is not None:
        params["group"] = group
    result = call(directory, "decide_pause", params)
    done = f"prolonged until {body.until_ms}" if hours else "lifted"
    document: JSON = {"group": group, "until_ms": body.until_ms, **result}
    output.result(document, f"the pause is {done}: final at {result['height']}")
