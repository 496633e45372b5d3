"""What commands about groups and policies share: asking the node, drafting, signing, submitting."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from protocol.errors import ConfigError, PolicyError
from swarmd.cli.key_options import open_key, passphrase_options
from swarmd.cli.options import call, directory_option, json_option, output_option, pass_output
from swarmd.cli.output import Output, describe

if TYPE_CHECKING:
    from ledger.transition.kind import Body
    from swarmd.decision import Decision

DAYS_VALID: Final = 30
"""Default life of approvals, days: owners need time to meet."""
_F = TypeVar("_F", bound=Callable[..., Any])

group_option = click.option("--group", required=True, metavar="GROUP", help="Which device group.")
"""Adds `--group`."""


def draft_options(command: _F) -> _F:
    """Adds what every drafting command takes; `finish` reads it."""
    decorators: tuple[Callable[[Any], Any], ...] = (
        pass_output,
        json_option,
        click.option("--yes", is_flag=True, help="Do not ask before signing."),
        passphrase_options,
        click.option(
            "--key",
            "keys",
            multiple=True,
            metavar="FILE|fd:N|pkcs11:...",
            help="Sign with this key; may be given again. None: only write the file.",
        ),
        click.option(
            "--valid-days",
            type=click.IntRange(1, 365),
            default=DAYS_VALID,
            show_default=True,
            help="How long signatures under it may be used.",
        ),
        output_option(
            "Write a decision file for others to sign, instead of submitting.", required=False
        ),
        directory_option,
    )
    for decorate in decorators:
        command = decorate(command)
    return command


def ask_group(directory: Path, group: str) -> dict[str, Any]:
    """How a group stands, from the daemon of `directory`."""
    facts: dict[str, Any] = call(directory, "group", {"group": group})
    return facts


def finish(
    output: Output,
    body: Body,
    facts: dict[str, Any],
    *,
    directory: Path,
    target: Path | None,
    valid_days: int,
    keys: tuple[str, ...],
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    yes: bool,
    by_governance: bool = False,
) -> None:
    """Drafts a decision, signs it with the keys given, and writes or submits it.

    Raises:
        ConfigError: neither a file to write nor a key to sign with, or nobody to ask.
        PolicyError: the person said no, or the ledger refuses.
    """
    from protocol.calendar import DAY_MS
    from protocol.digest import ChainId, PolicyId
    from swarmd.decision import draft_decision
    from swarmd.decision_text import describe_decision

    if target is None and not keys:
        raise ConfigError("give --key to sign and submit, or -o FILE for others to sign")
    decision = draft_decision(
        body,
        chain=ChainId(bytes.fromhex(facts["chain"])),
        era=facts["era"],
        epoch=facts["epoch"],
        valid_until_ms=facts["now_ms"] + valid_days * DAY_MS,
        policy=None if by_governance else PolicyId(bytes.fromhex(facts["policy_id"])),
    )
    if keys:
        output.note(describe(describe_decision(decision)))
        _confirm(yes=yes)
    for key in keys:
        decision = decision.signed_by(open_key(key, passphrase_file, passphrase_fd))
    if target is not None:
        _write(output, decision, target)
        return
    result = call(directory, "submit_decision", {"decision": [decision.encode().hex()]})
    output.result(result, f"{decision.kind} is final at height {result['height']}")


def _write(output: Output, decision: Decision, target: Path) -> None:
    from swarmd.datadir import PUBLIC_FILE_MODE, write_atomic

    write_atomic(target.absolute(), decision.encode(), mode=PUBLIC_FILE_MODE)
    count = len(decision.approvals)
    output.result(
        {"file": str(target.absolute()), "kind": decision.kind, "approvals": count},
        f"{target}: {decision.kind}, {count} signatures; next: swarmd gov sign {target} --key "
        "FILE, then swarmd gov submit",
    )


def _confirm(*, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("not a terminal, nobody to ask: add --yes to sign without being asked")
    if not click.confirm("\nsign this?", err=True):
        raise PolicyError("approval.declined", "nothing was signed")
