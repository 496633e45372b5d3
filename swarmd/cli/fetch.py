"""`swarmd fetch`: an authorised image as a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swarmd.cli.options import (
    call,
    connection,
    directory_option,
    examples,
    json_option,
    manifest_argument,
    output_option,
    pass_output,
)
from swarmd.cli.output import Output

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON


@click.command(epilog=examples("swarmd fetch 3f2a... -o rootfs.img -C lab/gateway-1"))
@manifest_argument
@output_option("Where to save it; an existing file is replaced once the new one is complete.")
@directory_option
@click.option("--component", help="Which one, if the manifest has several.")
@click.option(
    "--device",
    metavar="ID",
    help="For which device: a staged release is given out when that one's turn has come.",
)
@click.option(
    "--sealed", is_flag=True, help="Of a sealed image, save the ciphertext; needs no key."
)
@json_option
@pass_output
def fetch(
    output: Output,
    manifest: str,
    target: Path,
    directory: Path,
    component: str | None,
    device: str | None,
    sealed: bool,
) -> None:
    """Save an authorised image to a file, fetching it from peers if the node lacks it.

    The bytes are hashed while they are copied; FILE appears only if they are the right ones. A
    sealed image is opened, if the node is a member of its ring.
    """
    from swarmd.datadir import PRIVATE_FILE_MODE
    from swarmd.file_copy import copy_verified

    params: dict[str, JSON] = {"manifest": manifest}
    if component is not None:
        params["component"] = component
    if device is not None:
        params["device"] = device
    if sealed:
        params["sealed"] = True
    with connection(directory) as client, output.progress(target.name) as on_progress:
        result: Any = client.call("fetch", params, on_progress)
    digest, size = str(result["sha256"]), int(result["size"])
    source, raw = Path(str(result["path"])), bytes.fromhex(digest)
    if "ticket" not in result:
        copy_verified(source, target, digest=raw, size=size)
    else:  # an opened copy, which the node keeps no longer than needed
        try:
            copy_verified(source, target, digest=raw, size=size, mode=PRIVATE_FILE_MODE)
        finally:
            call(directory, "fetch_done", {"ticket": result["ticket"]})
    document: JSON = {
        "manifest": manifest,
        "file": str(target.absolute()),
        "size": size,
        "sha256": digest,
    }
    output.result(document, f"{target}: {size} bytes, sha256 {digest}")
