"""`swarmd did suspend`, `resume`, `revoke`, `certify`: drafts of what owners decide about a DID."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from protocol.errors import ConfigError, EncodingError, PolicyError
from swarmd.cli.options import (
    call,
    directory_option,
    examples,
    json_option,
    output_option,
    pass_output,
)
from swarmd.cli.output import Output

if TYPE_CHECKING:
    from swarmd.subject_decision import SubjectDecision

_DECORATORS: tuple[Callable[[Any], Any], ...] = (
    click.argument("did", metavar="DID"),
    directory_option,
    output_option("The draft to write; owners sign it by swarmd did sign."),
    json_option,
    pass_output,
)


def _draft(command: Callable[..., None]) -> Callable[..., None]:
    for decorate in reversed(_DECORATORS):
        command = decorate(command)
    return command


_GROUP = click.option("--group", required=True, metavar="GROUP", help="The group that decides.")


@click.command(
    "suspend", epilog=examples("swarmd did suspend DID --group fleet -C lab/gateway-1 -o d")
)
@_GROUP
@_draft
def suspend(output: Output, did: str, directory: Path, target: Path, group: str) -> None:
    """Draft a suspension: the subject may read the ledger and nothing else."""
    _write(output, target, _make("did.suspend", did, directory, group))


@click.command(
    "resume", epilog=examples("swarmd did resume DID --group fleet -C lab/gateway-1 -o d")
)
@_GROUP
@_draft
def resume(output: Output, did: str, directory: Path, target: Path, group: str) -> None:
    """Draft the end of a suspension, by the group that imposed it."""
    _write(output, target, _make("did.resume", did, directory, group))


@click.command(
    "revoke", epilog=examples("swarmd did revoke DID --group fleet -C lab/gateway-1 -o d")
)
@click.option("--group", metavar="GROUP", help="The group that decides [default: governance].")
@_draft
def revoke(output: Output, did: str, directory: Path, target: Path, group: str | None) -> None:
    """Draft a revocation: the subject ends, and its name and keys never return."""
    _write(output, target, _make("did.revoke", did, directory, group))


@click.command(
    "certify",
    epilog=examples(
        "swarmd did certify DID --group fleet --set class=pump --set region=north \\",
        "       -C lab/gateway-1 -o d",
    ),
)
@_GROUP
@click.option(
    "--set", "attributes", multiple=True, metavar="NAME=VALUE", help="One attribute; at most 16."
)
@_draft
def certify(
    output: Output,
    did: str,
    directory: Path,
    target: Path,
    group: str,
    attributes: tuple[str, ...],
) -> None:
    """Draft a certificate of attributes, in place of all the group certified before."""
    _write(output, target, _make("did.certify", did, directory, group, attributes))


def _make(
    kind: str, did: str, directory: Path, group: str | None, given: tuple[str, ...] = ()
) -> SubjectDecision:
    from protocol.digest import PolicyId
    from protocol.governance import GOVERNANCE_POLICY
    from protocol.limits import TRANSACTION_LIFETIME_MS_MAX
    from swarmd.cli.did_resolve import read_did
    from swarmd.datadir import open_data_dir
    from swarmd.subject_decision import SubjectDecision, decode_subject_decision

    chain = open_data_dir(directory).load_genesis().chain
    name = read_did(did, chain)
    known = call(directory, "resolve", {"did": name.hex(), "proof": False})
    if group is not None and group not in known["policies"]:
        raise PolicyError("did.group", f"the subject does not belong to group {group[:64]!r}")
    number = 0
    if kind == "did.resume":
        number = int(known["changes"])
    if kind == "did.certify":
        number = int(known["versions"][group]) + 1
    policy = bytes.fromhex(known["policies"][group]) if group is not None else GOVERNANCE_POLICY
    try:
        decision = SubjectDecision(
            chain=chain,
            era=int(known["era"]),
            valid_until_ms=int(known["now_ms"]) + TRANSACTION_LIFETIME_MS_MAX,
            kind=kind,
            did=name,
            group=group,
            policy=PolicyId(policy),
            number=number,
            attributes=tuple(sorted(_attribute(text) for text in given)),
        )
        # What nobody could read back must not be passed around: attributes are checked there.
        return decode_subject_decision(decision.encode())
    except EncodingError as error:
        raise ConfigError(str(error)) from None


def _attribute(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set: {text[:80]!r} is not NAME=VALUE")
    return name, value


def _write(output: Output, target: Path, decision: SubjectDecision) -> None:
    from swarmd.cli.did_sign import document_of, summary
    from swarmd.datadir import PUBLIC_FILE_MODE, write_atomic

    write_atomic(target.absolute(), decision.encode(), mode=PUBLIC_FILE_MODE)
    output.note(summary(decision))
    output.result(
        {"file": str(target.absolute()), **document_of(decision)},
        f"{target}: owners sign it with swarmd did sign",
    )
