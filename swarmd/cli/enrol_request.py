"""`swarmd enrol request`, `show` and `submit`: a newcomer takes a seat, a member passes it on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from protocol.digest import Digest
from swarmd.cli.key_options import chosen_passphrases, passphrase_options
from swarmd.cli.options import call, directory_option, examples, json_option, pass_output
from swarmd.cli.output import Output, plain, table

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON
    from swarmd.enrolment_request import EnrolmentRequest

_REQUEST = click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="REQUEST"
)


@click.command("request", epilog=examples("swarmd enrol request -C gw9 --token gw9.token"))
@directory_option
@click.option(
    "--token",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="The owners' token.",
)
@passphrase_options
@json_option
@pass_output
def request(
    output: Output,
    directory: Path,
    token: Path,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
) -> None:
    """Take a seat for a node whose folder exists: writes DIR/enrol.cbor.

    For seats that are bound to the node's own key; swarmd init --token does the same for the
    others.
    """
    from swarmd.datadir import KeyName, open_data_dir
    from swarmd.enrolment import load_join
    from swarmd.enrolment_request import load_token_file, make_request, write_request

    data = open_data_dir(directory)
    passphrases = chosen_passphrases(passphrase_file, passphrase_fd)
    node_key = data.load_key(KeyName.NODE, passphrases)
    made = make_request(load_join(data.join).statement, load_token_file(token), node_key)
    report(output, made, write_request(data, made))


def report(
    output: Output,
    made: EnrolmentRequest,
    path: Path,
    more: Mapping[str, JSON] | None = None,
) -> None:
    """Says what a request asks for, and its code if an owner must confirm it."""
    claims, record = made.claims, made.join.record
    document: dict[str, JSON] = {
        **(more or {}),
        "request": str(path.absolute()),
        "name": record.name,
        "role": record.kind.name.lower(),
        "groups": list(record.groups),
        "seat": claims.seat.hex(),
        "code": made.code if claims.confirmed else None,
    }
    text = f"{path}: {plain(record.name)} asks for a seat in {', '.join(record.groups)}"
    if claims.confirmed:
        text += f"\nconfirmation code {made.code}: tell it an owner by another way than this file"
    output.result(document, text)


@click.command(
    "show",
    epilog=examples("swarmd enrol show gw9/enrol.cbor", "swarmd enrol show -C lab/gateway-1"),
)
@click.argument(
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="[REQUEST]",
    required=False,
)
@directory_option
@json_option
@pass_output
def show(output: Output, file: Path | None, directory: Path) -> None:
    """Show what a request asks for, and its code; or who waits at a member to be confirmed.

    Without REQUEST the newcomers are listed that wait at the member of DIR. Their codes are not: an
    owner reads a code from the newcomer itself (swarmd enrol confirm).
    """
    from swarmd.enrolment_request import load_request

    if file is not None:
        report(output, load_request(file), file)
    else:
        _list(output, directory)


def _list(output: Output, directory: Path) -> None:
    from protocol.did import did_text
    from protocol.digest import ChainId
    from swarmd.enrolment_request import decode_request

    answer = call(directory, "enrol_pending", {})
    chain = ChainId(Digest(bytes.fromhex(answer["chain"])))
    rows: list[dict[str, JSON]] = []
    for text, missing in zip(answer["requests"], answer["missing"], strict=True):
        made = decode_request(bytes.fromhex(text))
        rows.append(
            {
                "did": did_text(chain, made.did),
                "name": made.join.record.name,
                "role": made.join.record.kind.name.lower(),
                "groups": list(made.join.record.groups),
                "seat": made.claims.seat.hex(),
                "expires_s": made.claims.expiry_s,
                "missing": list(missing),
            }
        )
    lines = [
        [plain(str(row["name"])), str(row["role"]), plain(", ".join(map(str, missing))), row["did"]]
        for row, missing in zip(rows, answer["missing"], strict=True)
    ]
    head = ["name", "role", "owners to confirm", "did"]
    shown = table(head, [[str(cell) for cell in line] for line in lines])
    output.result(list(rows), shown if rows else "nobody waits here")


@click.command("submit", epilog=examples("swarmd enrol submit gw9/enrol.cbor -C lab/gateway-1"))
@_REQUEST
@directory_option
@json_option
@pass_output
def submit(output: Output, file: Path, directory: Path) -> None:
    """Hand a newcomer's request to a member, which submits it.

    If the seat asks for confirmation, the member keeps the request until an owner of each group has
    confirmed it (exit code 3).
    """
    from swarmd.enrolment_request import load_request

    made = load_request(file)
    result = call(directory, "enrol", {"request": [made.encode().hex()]})
    output.result(result, f"{result['did']}: member since block {result['height']}")
