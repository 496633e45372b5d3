"""`swarmd did sign` and `submit`: owners agree to a draft about a subject, a node passes it on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from swarmd.cli.approval import confirm_signing
from swarmd.cli.key_options import key_options, open_key
from swarmd.cli.options import call, directory_option, examples, json_option, pass_output
from swarmd.cli.output import Output, plain

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON
    from swarmd.subject_decision import SubjectDecision

_FILE = click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE"
)


def document_of(decision: SubjectDecision) -> dict[str, JSON]:
    """What a decision says, for scripts."""
    from protocol.did import did_text

    return {
        "kind": decision.kind,
        "did": did_text(decision.chain, decision.did),
        "group": decision.group,
        "attributes": dict(decision.attributes),
        "valid_until_ms": decision.valid_until_ms,
        "signatures": len(decision.approvals),
    }


def summary(decision: SubjectDecision) -> str:
    """What an owner reads before saying yes."""
    from protocol.did import did_text

    deciders = "the governance root" if decision.group is None else f"owners of {decision.group}"
    return "\n".join(
        [
            f"{decision.kind} {did_text(decision.chain, decision.did)}",
            f"  by          {plain(deciders)}",
            *(f"  attribute   {plain(name)} = {plain(v)}" for name, v in decision.attributes),
            f"  signatures  {len(decision.approvals)} so far",
        ]
    )


def _load(file: Path) -> SubjectDecision:
    from swarmd.datadir import read_bounded
    from swarmd.subject_decision import SUBJECT_DECISION_BYTES_MAX, decode_subject_decision

    return decode_subject_decision(read_bounded(file, bytes_max=SUBJECT_DECISION_BYTES_MAX))


@click.command("sign", epilog=examples("swarmd did sign gw.decision --key ada.key"))
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
    """Agree to a draft, as an owner: adds your signature to FILE."""
    from swarmd.datadir import PUBLIC_FILE_MODE, write_atomic

    signer = open_key(key, passphrase_file, passphrase_fd)
    decision = _load(file)
    output.note(summary(decision))
    confirm_signing("agree to this?", yes=yes)
    signed = decision.signed_by(signer)
    write_atomic(file.absolute(), signed.encode(), mode=PUBLIC_FILE_MODE)
    output.result(document_of(signed), f"{file}: signed by {len(signed.approvals)} owners")


@click.command("submit", epilog=examples("swarmd did submit gw.decision -C lab/gateway-1"))
@_FILE
@directory_option
@json_option
@pass_output
def submit(output: Output, file: Path, directory: Path) -> None:
    """Hand a draft that enough owners signed to a node, and wait until it is final."""
    decision = _load(file)
    result = call(directory, "decide_subject", {"decision": [decision.encode().hex()]})
    document: JSON = {**document_of(decision), **result}
    output.result(document, f"{decision.kind}: final in block {result['height']}")
