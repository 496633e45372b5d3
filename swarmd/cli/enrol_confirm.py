"""`swarmd enrol confirm`: an owner lets in the newcomer that shows a code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from protocol.errors import ConfigError, PolicyError
from swarmd.cli.approval import confirm_signing
from swarmd.cli.key_options import key_options, open_key
from swarmd.cli.options import call, directory_option, examples, json_option, pass_output
from swarmd.cli.output import Output, plain

if TYPE_CHECKING:
    from protocol.keys import Signer
    from swarmd.control.protocol import JSON
    from swarmd.enrolment_request import EnrolmentRequest

_CODE_DIGITS = 6


@click.command(
    "confirm", epilog=examples("swarmd enrol confirm 204117 -C lab/gateway-1 --key ada.key")
)
@click.argument("code", metavar="CODE")
@directory_option
@key_options
@click.option("--group", "groups", multiple=True, metavar="GROUP", help="As owner of these only.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_output
def confirm(
    output: Output,
    code: str,
    directory: Path,
    key: str,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    groups: tuple[str, ...],
    yes: bool,
) -> None:
    """Confirm the newcomer that shows CODE, as an owner of its groups.

    Read the code from the newcomer itself, not from whoever brought the request. It is computed
    here from the request that waits at the member; the member cannot show another one for it.
    """
    from swarmd.datadir import open_data_dir

    signer = open_key(key, passphrase_file, passphrase_fd)
    chain = open_data_dir(directory).load_genesis().chain
    answer = call(directory, "enrol_pending", {})
    if answer["chain"] != chain.hex():
        raise ConfigError("the daemon answers for another chain than genesis.cbor names")
    found = _find(answer, code)
    record = found.join.record
    wanted = tuple(name for name in record.groups if not groups or name in groups)
    if not wanted:
        raise PolicyError("seat.groups", f"the newcomer asks for {', '.join(record.groups)}")
    output.note(
        f"name    {plain(record.name)}\nrole    {record.kind.name.lower()}\n"
        f"groups  {', '.join(map(plain, wanted))}\nseat    {found.claims.seat.hex()}"
    )
    confirm_signing("let this newcomer in?", yes=yes)
    approvals: list[JSON] = [raw.hex() for raw in _sign(found, answer, wanted, signer)]
    params: dict[str, JSON] = {"did": found.did.hex(), "approvals": approvals}
    result = call(directory, "enrol_confirm", params)
    output.result(result, f"{result['did']}: member since block {result['height']}")


def _find(answer: Any, code: str) -> EnrolmentRequest:
    """The one waiting request with this code."""
    from swarmd.enrolment_request import decode_request

    if len(code) != _CODE_DIGITS or not (code.isascii() and code.isdigit()):
        raise ConfigError(f"{code[:40]!r} is not a code of {_CODE_DIGITS} digits")
    requests = [decode_request(bytes.fromhex(text)) for text in answer["requests"]]
    found = [request for request in requests if request.code == code]
    if len(found) != 1:
        raise PolicyError("seat.code", f"{len(found)} of {len(requests)} newcomers have this code")
    return found[0]


def _sign(
    request: EnrolmentRequest, answer: Any, groups: tuple[str, ...], signer: Signer
) -> list[bytes]:
    from protocol.approval import Action, Approval, sign_approval
    from protocol.digest import Digest, PolicyId
    from protocol.limits import TRANSACTION_LIFETIME_MS_MAX

    signed: list[bytes] = []
    for group in groups:
        policy = bytes.fromhex(answer["policies"].get(group, ""))
        if len(policy) != 32:
            raise PolicyError("group.unknown", f"the member knows no group {group!r}")
        approval = Approval(
            era=int(answer["era"]),
            action=Action.ENROL,
            subject=Digest(request.did),
            group=group,
            policy=PolicyId(policy),
            valid_until_ms=int(answer["now_ms"]) + TRANSACTION_LIFETIME_MS_MAX,
        )
        signed.append(sign_approval(approval, signer, request.claims.chain).signed.raw)
    return signed
