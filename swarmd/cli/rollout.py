"""`swarmd rollout`: how far a release has come, and owners' commands to go on or to stop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from protocol.errors import ConfigError, PolicyError, RemoteProtocolError
from swarmd.cli.approval import confirm_signing
from swarmd.cli.key_options import key_options, open_key
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

_GROUP_OPTION: Final = click.option(
    "--group", metavar="GROUP", help="The group [default: the only one you own]."
)
_SIGNING: Final[tuple[Callable[[Any], Any], ...]] = (
    manifest_argument,
    directory_option,
    key_options,
    _GROUP_OPTION,
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


def _signing(command: Callable[..., None]) -> Callable[..., None]:
    for decorate in reversed(_SIGNING):
        command = decorate(command)
    return command


@click.group(
    epilog=examples(
        "swarmd rollout show 3f2a... -C lab/gateway-1",
        "swarmd rollout pause 3f2a... -C lab/gateway-1 --key owner-1.key",
        "swarmd rollout promote 3f2a... -C lab/gateway-1 --key owner-1.key --collect go.txt",
    )
)
def rollout() -> None:
    """Show and steer how a release reaches devices, stage by stage."""


@rollout.command(epilog=examples("swarmd rollout show 3f2a... -C lab/gateway-1"))
@manifest_argument
@directory_option
@json_option
@pass_output
def show(output: Output, *, manifest: str, directory: Path) -> None:
    """Show stage, status and counters of a release."""
    reply = call(directory, "rollout", {"manifest": manifest})
    hidden = ("owners", "policy")
    groups: list[JSON] = [
        {name: value for name, value in group.items() if name not in hidden}
        for group in reply["groups"]
    ]
    document: JSON = {"manifest": manifest, "now_ms": reply["now_ms"], "groups": groups}
    output.result(document, None if groups else "no rollout: every device is offered it at once")


@rollout.command(
    epilog=examples(
        "swarmd rollout promote 3f2a... -C lab/gateway-1 --key owner-1.key --collect go.txt"
    )
)
@_signing
def promote(output: Output, **options: Any) -> None:
    """Go on to the next stage."""
    _command(output, "promote", **options)


@rollout.command(
    epilog=examples(
        "swarmd rollout resume 3f2a... -C lab/gateway-1 --key owner-1.key --collect resume.txt"
    )
)
@_signing
def resume(output: Output, **options: Any) -> None:
    """Offer again, after a pause or a halt; the stage begins anew."""
    _command(output, "resume", **options)


@rollout.command(epilog=examples("swarmd rollout pause 3f2a... -C lab/gateway-1 --key owner-1.key"))
@_signing
def pause(output: Output, **options: Any) -> None:
    """Offer to nobody, for a look; one owner suffices."""
    _command(output, "pause", **options)


@rollout.command(
    epilog=examples(
        "swarmd rollout halt 3f2a... -C lab/gateway-1 --key owner-1.key --collect halt.txt"
    )
)
@_signing
def halt(output: Output, **options: Any) -> None:
    """Offer to nobody until enough owners resume it."""
    _command(output, "halt", **options)


@rollout.command(
    epilog=examples("swarmd rollout priority 3f2a... --to 9 -C lab/gateway-1 --key owner-1.key")
)
@click.option(
    "--to",
    "priority",
    type=click.IntRange(0, 9),
    required=True,
    help="The new priority; the higher goes first.",
)
@_signing
def priority(output: Output, **options: Any) -> None:
    """Change which of two releases goes first."""
    _command(output, "priority", **options)


@rollout.command(
    "promote-due",
    epilog=examples("swarmd rollout promote-due 3f2a... -C lab/gateway-1 --group fleet"),
)
@manifest_argument
@directory_option
@click.option("--group", required=True, metavar="GROUP", help="The group.")
@json_option
@pass_output
def promote_due(output: Output, *, manifest: str, directory: Path, group: str) -> None:
    """Point out that an automatic promotion is due; needs no key."""
    view = _group_view(call(directory, "rollout", {"manifest": manifest}), group)
    params: dict[str, JSON] = {
        "manifest": manifest,
        "group": group,
        "command": "promote",
        "sequence": view["sequence"],
    }
    output.result(call(directory, "command_rollout", params), f"promoted in {plain(group)}")


def _group_view(reply: Any, group: str) -> dict[str, Any]:
    found = [view for view in reply["groups"] if view["group"] == group]
    if not found:
        raise PolicyError("rollout.unknown", f"no rollout of this release in {plain(group)}")
    return dict(found[0])


def _owned(reply: Any, did: str, group: str | None) -> dict[str, Any]:
    """The one group whose rollout this key may command.

    Raises:
        PolicyError: there is none.
        ConfigError: there are several.
    """
    owned = [
        dict(view)
        for view in reply["groups"]
        if group in (None, view["group"]) and did in [owner["key"] for owner in view["owners"]]
    ]
    if not owned:
        raise PolicyError("approval.owner", "this key owns no group with a rollout of this release")
    if len(owned) > 1:
        names = ", ".join(plain(view["group"]) for view in owned)
        raise ConfigError(f"this key owns several groups, choose one by --group: {names}")
    return owned[0]


def _summary(view: dict[str, Any], reply: Any, command: str) -> str:
    """What the owner reads before saying yes; product and version from the signed bytes."""
    from protocol.manifest import parse_manifest

    signed = parse_manifest(bytes.fromhex(reply["raw"]))
    if signed.manifest_id.hex() != reply["manifest"]:
        raise RemoteProtocolError("the daemon answers with another manifest")
    lines = {
        "release": f"{signed.manifest.product} {signed.manifest.version}",
        "manifest": signed.manifest_id.hex(),
        "group": view["group"],
        "status": view["status"],
        "stage": f"{view['stage']} of {len(view['stages'])} ({view['share']} of 10000 devices)",
        "sites": f"{view['success_sites']} with a success, {view['failure_sites']} with a failure",
        "reports": f"{view['successes']} good, {view['failures']} bad",
        "command": command,
    }
    return "\n".join(f"{name.ljust(8)}  {plain(str(text))}" for name, text in lines.items())


def _command(
    output: Output,
    command: str,
    *,
    manifest: str,
    directory: Path,
    key: str,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    group: str | None,
    collect: Path | None,
    yes: bool,
    priority: int = 0,
) -> None:
    from ledger.bodies.rollout import Command, command_digest
    from protocol.approval import Action, Approval
    from protocol.did import did_key_text
    from protocol.digest import ManifestId, PolicyId
    from protocol.limits import TRANSACTION_LIFETIME_MS_MAX
    from swarmd.cli.collecting import collect as collect_approvals
    from swarmd.datadir import open_data_dir

    signer = open_key(key, passphrase_file, passphrase_fd)
    chain = open_data_dir(directory).load_genesis().chain
    reply = call(directory, "rollout", {"manifest": manifest})
    view = _owned(reply, did_key_text(signer.public), group)
    what = f"{command} to {priority}" if command == "priority" else command
    output.note(_summary(view, {**reply, "manifest": manifest}, what))
    confirm_signing(f"\n{what} the rollout in {plain(view['group'])}?", yes=yes)
    approval = Approval(
        era=int(reply["era"]),
        action=Action.ROLLOUT,
        subject=command_digest(
            ManifestId(bytes.fromhex(manifest)),
            view["group"],
            Command[command.upper()],
            priority=priority,
            sequence=int(view["sequence"]),
        ),
        group=view["group"],
        policy=PolicyId(bytes.fromhex(view["policy"])),
        valid_until_ms=int(reply["now_ms"]) + TRANSACTION_LIFETIME_MS_MAX,
    )
    needed = {"pause": 1, "halt": int(view["revoke_threshold"])}.get(
        command, int(view["approve_threshold"])
    )
    approvals = collect_approvals(approval, signer, chain, path=collect, needed=needed)
    params: dict[str, JSON] = {
        "manifest": manifest,
        "group": view["group"],
        "command": command,
        "sequence": view["sequence"],
        "priority": priority,
        "approvals": [raw.hex() for raw in approvals],
    }
    result = call(directory, "command_rollout", params)
    document: JSON = {"manifest": manifest, "group": view["group"], "command": command, **result}
    output.result(document, f"{command} in {plain(view['group'])}: final at {result['height']}")
