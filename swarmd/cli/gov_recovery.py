"""`swarmd gov recovery|seat`: drafting a recovery at a survivor, taking seats in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from protocol.errors import ConfigError
from swarmd.cli.key_options import chosen_passphrases, passphrase_options
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
    from swarmd.control.protocol import JSON


@click.command(epilog=examples("swarmd gov recovery -C lab/gateway-1 -o recovery.cbor"))
@directory_option
@output_option("The recovery file to draft.")
@json_option
@pass_output
def recovery(output: Output, directory: Path, target: Path) -> None:
    """Draft a recovery from a survivor's newest final block.

    For the day on which more validators are lost for good than the chain can do without. Draft it
    at the node with the highest block (swarmd ledger on each tells): what was final beyond it is
    given up. Then every future validator takes its seat, and the governance root signs.
    """
    from ledger.header import decode_header
    from protocol.governance import Recovery, RecoveryPlan
    from swarmd.datadir import PUBLIC_FILE_MODE, write_atomic

    facts = call(directory, "epoch", {})
    header = bytes.fromhex(facts["header"])
    last = decode_header(header)
    plan = RecoveryPlan(
        era=last.era + 1,
        header=header,
        certificate=bytes.fromhex(facts["certificate"]),
        time_ms=max(facts["now_ms"], last.time_ms + 1),
        seats=(),
        joins=(),
    )
    raw = Recovery(plan=plan, approvals=()).encode()
    write_atomic(target.absolute(), raw, mode=PUBLIC_FILE_MODE)
    document: JSON = {"file": str(target.absolute()), "era": plan.era, "height": last.height}
    output.result(
        document, f"{target}: goes on from block {last.height}; next: swarmd gov seat {target}"
    )


@click.command(epilog=examples("swarmd gov seat recovery.cbor -C new/validator-5"))
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE"
)
@directory_option
@passphrase_options
@json_option
@pass_output
def seat(
    output: Output,
    file: Path,
    directory: Path,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
) -> None:
    """Take a seat in a drafted recovery with this validator's key.

    For survivors, whose daemon must be stopped, and for newcomers made by swarmd init.
    """
    from swarmd.datadir import PUBLIC_FILE_MODE, open_data_dir, write_atomic
    from swarmd.entropy import SystemEntropy
    from swarmd.ledger_recovery import load_recovery, take_seat

    if passphrase_file is not None and passphrase_fd is not None:
        raise ConfigError("give the passphrase once")
    passphrases = chosen_passphrases(passphrase_file, passphrase_fd)
    data = open_data_dir(directory)
    seated = take_seat(data, load_recovery(file), SystemEntropy(), passphrases)
    write_atomic(file.absolute(), seated.encode(), mode=PUBLIC_FILE_MODE)
    count = len(seated.plan.seats)
    document: JSON = {"file": str(file.absolute()), "seats": count}
    output.result(document, f"{file}: {count} seats taken; swarmd gov sign {file} when complete")
