"""`swarmd gov show|sign|submit`: looking at a decision, agreeing to it, handing it in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from protocol.errors import ConfigError, EncodingError, PolicyError
from swarmd.cli.key_options import key_options, open_key
from swarmd.cli.options import call, directory_option, examples, json_option, pass_output
from swarmd.cli.output import Output, describe

if TYPE_CHECKING:
    from protocol.digest import ChainId
    from protocol.governance import Recovery
    from swarmd.control.protocol import JSON
    from swarmd.decision import Decision

_FILE = click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE"
)


def _read(path: Path) -> Decision | Recovery:
    from protocol.governance import RECOVERY_BYTES_MAX, decode_recovery
    from swarmd.datadir import read_bounded
    from swarmd.decision import decode_decision

    raw = read_bounded(path, bytes_max=RECOVERY_BYTES_MAX)
    try:
        return decode_decision(raw)
    except EncodingError as first:
        try:
            return decode_recovery(raw)
        except EncodingError:
            raise EncodingError(f"{path}: neither a decision nor a recovery: {first}") from None


def _facts(item: Decision | Recovery) -> dict[str, Any]:
    from swarmd.decision import Decision
    from swarmd.decision_text import describe_decision, describe_recovery

    return describe_decision(item) if isinstance(item, Decision) else describe_recovery(item)


def _chain_of(recovery: Recovery) -> ChainId:
    from ledger.header import decode_header

    return decode_header(recovery.plan.header).chain


@click.command(epilog=examples("swarmd gov show checkpoint.decision"))
@_FILE
@json_option
@pass_output
def show(output: Output, file: Path) -> None:
    """Show what a decision or recovery file says and how many have signed it."""
    facts = _facts(_read(file))
    output.result(facts, describe(facts))


@click.command(
    epilog=examples("swarmd gov sign checkpoint.decision --key lab/keys/governance-1.key")
)
@_FILE
@key_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_output
def sign(
    output: Output,
    file: Path,
    key: str,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    yes: bool,
) -> None:
    """Agree to a decision or recovery: shows it, asks, and adds your signature to the file.

    Needs no node and no network. Whether your key counts is decided by the ledger.
    """
    from swarmd.datadir import PUBLIC_FILE_MODE, write_atomic
    from swarmd.decision import Decision

    item = _read(file)
    output.note(describe(_facts(item)))
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError("not a terminal, nobody to ask: add --yes to sign without asking")
        if not click.confirm("\nsign this?", err=True):
            raise PolicyError("approval.declined", "nothing was signed")
    signer = open_key(key, passphrase_file, passphrase_fd)
    signed = (
        item.signed_by(signer)
        if isinstance(item, Decision)
        else item.signed_by(signer, _chain_of(item))
    )
    write_atomic(file.absolute(), signed.encode(), mode=PUBLIC_FILE_MODE)
    count = len(signed.approvals)
    document: JSON = {"file": str(file.absolute()), "approvals": count}
    output.result(document, f"{file}: signed by you; {count} signatures so far")


@click.command(epilog=examples("swarmd gov submit checkpoint.decision -C lab/gateway-1"))
@_FILE
@directory_option
@json_option
@pass_output
def submit(output: Output, file: Path, directory: Path) -> None:
    """Hand a signed decision to a node and wait until it is final."""
    from swarmd.decision import Decision

    item = _read(file)
    if not isinstance(item, Decision):
        raise ConfigError("a recovery is adopted by each node: swarmd ledger recover")
    params: dict[str, JSON] = {"decision": [item.encode().hex()]}
    result = call(directory, "submit_decision", params)
    output.result(result, f"{item.kind} is final at height {result['height']}")
