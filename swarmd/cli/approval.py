"""`swarmd approve` and `swarmd revoke`: an owner's decision, signed here and nowhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from protocol.errors import ConfigError, PolicyError
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
from swarmd.cli.salts import find_salts, salt_option

if TYPE_CHECKING:
    from protocol.approval import Action
    from swarmd.control.protocol import JSON

_DECORATORS: tuple[Callable[[Any], Any], ...] = (
    manifest_argument,
    directory_option,
    key_options,
    click.option(
        "--image",
        "images",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        multiple=True,
        metavar="FILE",
        help="Your own copy of the image: go on only if it is the one in the manifest.",
    ),
    salt_option,
    click.option(
        "--group",
        "wanted",
        multiple=True,
        metavar="GROUP",
        help="Decide for this group only [default: every target group you own].",
    ),
    click.option("--yes", is_flag=True, help="Do not ask."),
    json_option,
    pass_output,
)


def _decision(command: Callable[..., None]) -> Callable[..., None]:
    for decorate in reversed(_DECORATORS):
        command = decorate(command)
    return command


@click.command(
    epilog=examples(
        "swarmd approve 3f2a... -C lab/gateway-1 --key lab/keys/owner-1.key \\",
        "       --image rootfs.img",
    )
)
@_decision
def approve(output: Output, **options: Any) -> None:
    """Agree to an image, as an owner of its group.

    Shows what would be agreed to, asks, and signs with your key. The key stays in this process; the
    node only passes the signature on. Look at the image first: --image compares your own copy.
    """
    from protocol.approval import Action

    _decide(output, Action.AUTHORISE, **options)


@click.command(epilog=examples("swarmd revoke 3f2a... -C lab/gateway-1 --key lab/keys/owner-1.key"))
@_decision
def revoke(output: Output, **options: Any) -> None:
    """Take an image back, as an owner of its group.

    Once enough owners have revoked it, no gateway serves or offers it any more.
    """
    from protocol.approval import Action

    _decide(output, Action.REVOKE, **options)


def _decide(
    output: Output,
    action: Action,
    *,
    manifest: str,
    directory: Path,
    key: str,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    images: tuple[Path, ...],
    salt_texts: tuple[str, ...],
    wanted: tuple[str, ...],
    yes: bool,
) -> None:
    from protocol.approval import Action
    from protocol.digest import ManifestId
    from swarmd.cli.judgement import (
        check_image,
        owned_groups,
        read_view,
        sign_judgement,
        summary,
    )
    from swarmd.datadir import open_data_dir

    secret = open_key(key, passphrase_file, passphrase_fd)
    chain = open_data_dir(directory).load_genesis().chain
    reply = call(directory, "manifest", {"manifest": manifest})
    view = read_view(reply, ManifestId(bytes.fromhex(manifest)), chain)
    groups = owned_groups(view, secret, wanted, action)
    output.note(summary(view, groups, action))
    salts = find_salts(directory, view.manifest_id, view.manifest, salt_texts) if images else {}
    for path in images:
        component = check_image(view.manifest, path, salts)
        output.note(f"\n{path} is component {plain(component.name)}: same sha256")
    verb = action.name.lower().replace("authorise", "approve")
    confirm_signing(f"\n{verb} in {', '.join(plain(group.name) for group in groups)}?", yes=yes)
    # A new connection each time: the daemon hangs up on one that waits while a person reads.
    approvals: list[JSON] = [raw.hex() for raw in sign_judgement(view, groups, action, secret)]
    params: dict[str, JSON] = {
        "manifest": manifest,
        "action": action.name.lower(),
        "approvals": approvals,
    }
    result = call(directory, "submit_approvals", params)
    names: list[JSON] = [group.name for group in groups]
    document: JSON = {
        "manifest": manifest,
        "action": action.name.lower(),
        "groups": names,
        **result,
    }
    done = "approved" if action is Action.AUTHORISE else "revoked"
    output.result(document, f"{done} by you in {', '.join(plain(group.name) for group in groups)}")


def confirm_signing(question: str, *, yes: bool) -> None:
    """Asks the person at the terminal before their key signs.

    Raises:
        ConfigError: nobody to ask, and `yes` was not given.
        PolicyError: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("not a terminal, nobody to ask: add --yes to sign without being asked")
    if not click.confirm(question, err=True):
        raise PolicyError("approval.declined", "nothing was signed")
