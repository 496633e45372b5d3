"""`swarmd prove`: a file that shows an authorisation to anybody, offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swarmd.cli.options import (
    call,
    directory_option,
    examples,
    json_option,
    manifest_argument,
    pass_output,
)
from swarmd.cli.output import Output

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON


@click.command(epilog=examples("swarmd prove 3f2a... -o rootfs.proof -C lab/gateway-1"))
@manifest_argument
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="The proof file to write.",
)
@directory_option
@click.option("--group", help="Prove it for this group [default: the manifest's first].")
@json_option
@pass_output
def prove(output: Output, manifest: str, target: Path, directory: Path, group: str | None) -> None:
    """Write a file that proves an image's authorisation, as of the node's newest block.

    It holds the manifest, the owners' signatures, the policy, the block header that finalised
    them, and the genesis document. Whoever checks it needs this file and the chain id, and no
    network.
    """
    from protocol.genesis import GENESIS_BYTES_MAX
    from swarmd.datadir import PUBLIC_FILE_MODE, open_data_dir, read_bounded, write_atomic
    from swarmd.proof_file import ProofFile

    params: dict[str, JSON] = {"manifest": manifest}
    if group is not None:
        params["group"] = group
    result: Any = call(directory, "prove", params)
    genesis = read_bounded(open_data_dir(directory).genesis, bytes_max=GENESIS_BYTES_MAX)
    file = ProofFile(genesis, bytes.fromhex(result["proof"]))
    data = file.encode()
    write_atomic(target.absolute(), data, mode=PUBLIC_FILE_MODE)
    facts = {name: value for name, value in result.items() if name != "proof"}
    document: JSON = {"manifest": manifest, "file": str(target.absolute()), **facts}
    output.result(document, f"{target}: {len(data)} bytes; check it with swarmd verify")
