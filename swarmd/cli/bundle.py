"""`swarmd bundle`: images and ledger for gateways without a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swarmd.cli.options import (
    HexDigest,
    call,
    connection,
    directory_option,
    examples,
    json_option,
    output_option,
    pass_output,
)
from swarmd.cli.output import Output, describe, size_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from swarmd.control.protocol import JSON


@click.group()
def bundle() -> None:
    """Carry images and the ledger to gateways that have no network.

    The gateway says what it has (wanted); a node that is connected writes what it lacks (export);
    the gateway takes it in (import), by the same checks as if it came from peers.
    """


@bundle.command(epilog=examples("swarmd bundle wanted -o gw7.have -C /var/lib/swarmd"))
@output_option("Where to save the have-file.")
@directory_option
@json_option
@pass_output
def wanted(output: Output, target: Path, directory: Path) -> None:
    """Save what this gateway has, for swarmd bundle export --for.

    The file names the newest block, the chunks held (8 bytes of each digest), and a nonce that
    validators will sign. The age of this gateway's knowledge counts from now on once their answers
    have come back, provided that the daemon has not been restarted meanwhile.
    """
    from swarmd.file_copy import copy_verified

    result = call(directory, "bundle_wanted", {})
    copy_verified(
        Path(str(result["path"])),
        target,
        digest=bytes.fromhex(result["sha256"]),
        size=int(result["size"]),
    )
    document: dict[str, JSON] = {
        "file": str(target.absolute()),
        "height": result["height"],
        "chunks": result["chunks"],
    }
    output.result(document, f"{target}: height {result['height']}, {result['chunks']} chunks held")


@bundle.command(
    epilog=examples(
        "swarmd bundle export -o stick/fleet.bundle --for gw7.have -C lab/gateway-1",
        "swarmd bundle export 3f2a... -o fleet.bundle -C lab/gateway-1",
    )
)
@click.argument("manifests", type=HexDigest(), nargs=-1, metavar="[MANIFEST]...")
@output_option("The bundle. It grows as FILE.part; run the same command again to go on.")
@click.option(
    "--for",
    "have",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="HAVEFILE",
    help="Leave out what this gateway has (swarmd bundle wanted) [default: leave out nothing].",
)
@directory_option
@json_option
@pass_output
def export(
    output: Output, manifests: tuple[str, ...], target: Path, have: Path | None, directory: Path
) -> None:
    """Write one file with images, their proofs, and the ledger's blocks.

    Without MANIFEST it holds every authorised image that this node has whole. Chunks are hashed as
    they are written. An image that is revoked on the way is refused where the bundle is taken in.
    """
    from protocol.digest import ManifestId, sha256
    from protocol.genesis import GENESIS_BYTES_MAX
    from swarmd.bundle_export import BundleExport
    from swarmd.bundle_format import HAVE_FILE_BYTES_MAX, decode_have
    from swarmd.datadir import open_data_dir, read_bounded

    asked = None
    if have is not None:
        raw = read_bounded(have, bytes_max=HAVE_FILE_BYTES_MAX)
        asked = (decode_have(raw), sha256(raw))
    genesis = read_bounded(open_data_dir(directory).genesis, bytes_max=GENESIS_BYTES_MAX)
    with output.progress(target.name) as on_progress:

        def ask(method: str, params: Mapping[str, Any]) -> Any:
            return call(directory, method, params)

        job = BundleExport(ask, genesis=genesis, target=target, have=asked, progress=on_progress)
        done = job.run(tuple(ManifestId(bytes.fromhex(item)) for item in manifests))
    document: dict[str, JSON] = {
        "file": str(done.file),
        "size": done.size_bytes,
        "chunks": done.chunks,
        "chunks_left_out": done.chunks_left_out,
        "from_height": done.from_height,
        "to_height": done.to_height,
        "statements": done.statements,
        "resumed": done.is_resumed,
    }
    output.result(document, f"{target}: {size_text(done.size_bytes)}, {done.chunks} chunks")


@bundle.command("import", epilog=examples("swarmd bundle import fleet.bundle -C /var/lib/swarmd"))
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE"
)
@directory_option
@json_option
@pass_output
def import_bundle(output: Output, file: Path, directory: Path) -> None:
    """Take a bundle in: blocks, then what they authorise.

    Everything is verified as if it came from peers. What was verified before a bundle turns out to
    be cut off stays; import it again, or a better copy, to go on. Whether an image is then offered
    depends on the age of this gateway's knowledge (see swarmd bundle wanted).
    """
    with connection(directory) as client, output.progress(file.name) as on_progress:
        result: Any = client.call("bundle_import", {"path": str(file.absolute())}, on_progress)
    output.result(result, describe(result))
