"""`swarmd group show|create|update|adopt|rotate`: device groups, their owners and their place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from protocol.errors import ConfigError
from swarmd.cli.contract_draft import DAYS_VALID, ask_group, draft_options, finish, group_option
from swarmd.cli.key_options import key_options, open_key
from swarmd.cli.options import (
    call,
    directory_option,
    examples,
    json_option,
    output_option,
    pass_output,
)
from swarmd.cli.output import Output, describe

if TYPE_CHECKING:
    from protocol.owner_root import OwnerRoot

_FILE: Final = click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE"
)
_ADOPTIONS_MAX: Final = 32
"""Approvals that a parent's owners may give at once."""


@click.group(
    epilog=examples(
        "swarmd group show fleet -C lab/gateway-1",
        "swarmd group create pumps.toml -C lab/gateway-1 -o pumps.decision",
    )
)
def group() -> None:
    """Show, create and change device groups and who owns them."""


def _read_text(path: Path) -> str:
    from swarmd.datadir import read_bounded
    from swarmd.policy_text import POLICY_FILE_BYTES_MAX

    try:
        return read_bounded(path, bytes_max=POLICY_FILE_BYTES_MAX).decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None


def _root_of(facts: dict[str, Any]) -> OwnerRoot:
    from protocol.encoding import decode_canonical
    from protocol.group import GROUP_BYTES_MAX
    from protocol.owner_root import OwnerRoot

    raw = bytes.fromhex(facts["owner_root"])
    return OwnerRoot.from_value(decode_canonical(raw, bytes_max=GROUP_BYTES_MAX))


@group.command(epilog=examples("swarmd group show fleet -C lab/gateway-1"))
@click.argument("name", metavar="GROUP")
@directory_option
@json_option
@pass_output
def show(output: Output, name: str, directory: Path) -> None:
    """Show who owns a group, which rules hold and where it stands among others."""
    from protocol.group import decode_placement
    from protocol.policy import decode_policy
    from swarmd.decision_text import describe_root
    from swarmd.policy_words import policy_sentences, rule_words

    facts = ask_group(directory, name)
    root, selector = _root_of(facts), decode_placement(bytes.fromhex(facts["placement"])).selector
    scheduled = facts["scheduled"]
    shown = {
        "group": facts["group"],
        "parent": facts["parent"],
        "children": facts["children"],
        "takes": "those that name it" if selector is None else rule_words(selector),
        **describe_root(root),
        "policy": facts["policy_id"],
        "means": policy_sentences(decode_policy(bytes.fromhex(facts["policy"])), root),
        "waiting policy": None if scheduled is None else scheduled["effective_ms"],
    }
    output.result(facts, describe(shown))


@group.command(epilog=examples("swarmd group create pumps.toml -C lab/gateway-1 -o pumps.decision"))
@_FILE
@draft_options
def create(output: Output, file: Path, directory: Path, **options: Any) -> None:
    """Add a group; holders of the governance root must sign."""
    from ledger.bodies.group import CreateGroup
    from protocol.digest import ChainId
    from swarmd.group_text import parse_group

    facts = call(directory, "epoch", {})
    made = parse_group(_read_text(file), ChainId(bytes.fromhex(facts["chain"])), str(file))
    body = CreateGroup(group=made.encode(), approvals=())
    finish(output, body, facts, directory=directory, by_governance=True, **options)


@group.command(
    epilog=examples("swarmd group update place.toml --group pumps -C lab/gateway-1 --key ada.key")
)
@_FILE
@group_option
@click.option(
    "--adoption",
    "adoptions",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Consent of a new parent's owner, from swarmd group adopt; may be given again.",
)
@draft_options
def update(
    output: Output,
    file: Path,
    group: str,
    adoptions: tuple[Path, ...],
    directory: Path,
    **options: Any,
) -> None:
    """Give a group another parent or selector (keys `parent` and `selector` of FILE)."""
    from ledger.bodies.group import UpdateGroup
    from protocol.approval import APPROVAL_BYTES_MAX
    from swarmd.datadir import read_bounded
    from swarmd.group_text import parse_placement
    from swarmd.policy_text import parse_document

    if len(adoptions) > _ADOPTIONS_MAX:
        raise ConfigError(f"{len(adoptions)} adoptions, at most {_ADOPTIONS_MAX}")
    placement = parse_placement(parse_document(_read_text(file), str(file)), str(file))
    consent = tuple(read_bounded(path, bytes_max=APPROVAL_BYTES_MAX) for path in adoptions)
    body = UpdateGroup(group=group, placement=placement.encode(), approvals=(), adoption=consent)
    finish(output, body, ask_group(directory, group), directory=directory, **options)


@group.command(
    epilog=examples("swarmd group adopt pumps --group fleet -C lab/gateway-1 --key ada.key -o a.ok")
)
@click.argument("child", metavar="CHILD")
@group_option
@directory_option
@key_options
@output_option("Where to write the consent.")
@json_option
@pass_output
def adopt(
    output: Output,
    child: str,
    group: str,
    directory: Path,
    key: str,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    target: Path,
) -> None:
    """Agree, as an owner of GROUP, that CHILD becomes its child group."""
    from protocol.approval import Action, Approval, sign_approval
    from protocol.calendar import DAY_MS
    from protocol.digest import ChainId, PolicyId
    from protocol.group import adoption_digest, check_group_name
    from swarmd.datadir import PUBLIC_FILE_MODE, write_atomic

    facts = ask_group(directory, group)
    approval = Approval(
        era=facts["era"],
        action=Action.UPDATE_GROUP,
        subject=adoption_digest(check_group_name(child)),
        group=group,
        policy=PolicyId(bytes.fromhex(facts["policy_id"])),
        valid_until_ms=facts["now_ms"] + DAYS_VALID * DAY_MS,
    )
    signer = open_key(key, passphrase_file, passphrase_fd)
    signed = sign_approval(approval, signer, ChainId(bytes.fromhex(facts["chain"])))
    write_atomic(target.absolute(), signed.signed.raw, mode=PUBLIC_FILE_MODE)
    output.result(
        {"file": str(target.absolute()), "child": child, "parent": group},
        f"{target}: you agree that {child} becomes a child of {group}",
    )


@group.command(
    epilog=examples("swarmd group rotate owners.toml --group fleet -C lab/gateway-1 -o r.decision")
)
@_FILE
@group_option
@draft_options
def rotate(output: Output, file: Path, group: str, directory: Path, **options: Any) -> None:
    """Replace a group's owners: FILE holds the next root, as [owners] of a group file does.

    A threshold of the old owners and one of the new ones must sign.
    """
    from ledger.bodies.group import RotateRoot
    from protocol.encoding import encode_canonical
    from swarmd.group_text import parse_root
    from swarmd.policy_text import parse_document

    facts = ask_group(directory, group)
    root = parse_root(parse_document(_read_text(file), str(file)), str(file))
    expected = _root_of(facts).version + 1
    if root.version != expected:
        raise ConfigError(f"{file}: version is {root.version}, the next root is {expected}")
    raw = encode_canonical(root.to_value())
    body = RotateRoot(group=group, root=raw, approvals=())
    finish(output, body, facts, directory=directory, **options)
