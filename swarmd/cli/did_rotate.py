"""`swarmd did rotate`: a node's keys are replaced by those its record commits to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from protocol.errors import ConfigError
from swarmd.cli.key_options import chosen_passphrases, passphrase_options
from swarmd.cli.options import call, directory_option, examples, json_option, pass_output
from swarmd.cli.output import Output

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON


@click.command(
    "rotate",
    epilog=examples(
        "swarmd did rotate -C lab/gateway-1 --via lab/gateway-2",
        "swarmd did rotate -C lab/gateway-1 --finish",
    ),
)
@directory_option
@click.option(
    "--via",
    type=click.Path(exists=True, path_type=Path),
    metavar="DIR",
    help="The member that submits it [default: the node itself].",
)
@click.option(
    "--finish", is_flag=True, help="Install the keys of a rotation that is known to be final."
)
@passphrase_options
@json_option
@pass_output
def rotate(
    output: Output,
    directory: Path,
    via: Path | None,
    finish: bool,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
) -> None:
    """Replace the keys of the node in -C by the ones it committed to before.

    Peers drop the node as soon as the rotation is final: restart it then. Best submitted by another
    member (--via): the node itself may lose its peers before it hears that it succeeded, and then
    needs --finish.
    """
    from ledger.bodies.subject import RotateKeys
    from protocol.encoding import encode_canonical
    from swarmd.datadir import open_data_dir
    from swarmd.enrolment import load_join
    from swarmd.entropy import SystemEntropy
    from swarmd.key_rotation import (
        RotationTarget,
        install_rotation,
        make_rotation,
        require_prepared,
    )
    from swarmd.keys.passphrase import remembered

    data = open_data_dir(directory)
    record = load_join(data.join).record
    purposes = tuple(purpose for purpose, _ in record.keys)
    document: dict[str, JSON] = {"directory": str(data.path)}
    if finish:
        require_prepared(data, purposes)
    else:
        member = directory if via is None else via
        known: Any = call(member, "resolve", {"did": record.did.hex(), "proof": False})
        chain = data.load_genesis().chain
        if known["chain"] != chain.hex():
            raise ConfigError("the daemon answers for another chain than genesis.cbor names")
        target = RotationTarget(
            chain=chain,
            era=int(known["era"]),
            did=record.did,
            sequence=int(known["rotations"]),
            purposes=purposes,
        )
        passphrases = remembered(chosen_passphrases(passphrase_file, passphrase_fd))
        body: RotateKeys = make_rotation(data, target, passphrases, SystemEntropy())
        raw = encode_canonical(dict(body.to_value())).hex()
        document |= call(member, "rotate_keys", {"body": [raw]})
    document["installed"] = install_rotation(data, purposes)
    output.result(document, f"{document['installed']} keys replaced; restart the node now")
