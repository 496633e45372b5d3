"""`swarmd publish`: offers an image for approval."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from protocol.errors import ConfigError
from swarmd.cli.options import connection, directory_option, examples, json_option, pass_output
from swarmd.cli.output import Output, size_text

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON

DIGEST_DIGITS = 64
"""Hex digits of a manifest id."""
COPIES_MAX = 1024
"""Most copies that may be waited for, as the daemon has it."""
WAIT_S = 600.0
"""How long `--wait` waits unless told otherwise, seconds."""


@click.command(
    epilog=examples(
        "swarmd publish rootfs.img -C lab/publisher-1 --product router --version 2.1 \\",
        "       --group fleet",
    )
)
@click.argument(
    "image", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="IMAGE"
)
@directory_option
@click.option("--product", required=True, help="What the image is for.")
@click.option("--version", required=True, help="Version, for people.")
@click.option(
    "--group", "groups", multiple=True, required=True, metavar="GROUP", help="Target group."
)
@click.option(
    "--sequence",
    type=click.IntRange(min=1),
    help="Release number; must rise [default: one more than the latest].",
)
@click.option(
    "--metadata", multiple=True, metavar="NAME=TEXT", help="Free text that approvers will see."
)
@click.option(
    "--seal",
    metavar="GROUP[/GENERATION]",
    help="Encrypt the image for the members of your ring (see swarmd sealing ring).",
)
@click.option(
    "--patch-from",
    "bases",
    multiple=True,
    metavar="FILE|MANIFEST",
    help="An image that gateways run, to make a patch from; may be given up to 4 times "
    "[default: the groups' latest, if this node holds it].",
)
@click.option("--no-patch", is_flag=True, help="Make no patch.")
@click.option("--wait", is_flag=True, help="Wait until owners have approved it.")
@click.option(
    "--wait-copies",
    "copies",
    type=click.IntRange(min=1, max=COPIES_MAX),
    metavar="K",
    help="Wait until owners have approved it and K other members of its groups hold it complete.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    default=WAIT_S,
    show_default=True,
    help="Seconds that --wait and --wait-copies wait, each; then the exit code is 3.",
)
@json_option
@pass_output
def publish(
    output: Output,
    image: Path,
    directory: Path,
    product: str,
    version: str,
    groups: tuple[str, ...],
    sequence: int | None,
    metadata: tuple[str, ...],
    seal: str | None,
    bases: tuple[str, ...],
    no_patch: bool,
    wait: bool,
    copies: int | None,
    timeout_s: float,
) -> None:
    """Offer an image for approval; prints the manifest id that owners approve.

    The publisher's node keeps the image and serves it once enough owners have approved it. With it
    go patches: gateways that hold an image which a patch is made from fetch the patch instead.
    """
    params: dict[str, JSON] = {
        "path": str(image.absolute()),
        "product": product,
        "version": version,
        "groups": list(groups),
    }
    if sequence is not None:
        params["sequence"] = sequence
    if metadata:
        params["metadata"] = dict(_metadata_entry(text) for text in metadata)
    if seal is not None:
        params["seal"] = seal
    if not no_patch:
        params["patch_from"] = [_base(text) for text in bases] or ["latest"]
    elif bases:
        raise ConfigError("--no-patch and --patch-from contradict each other")
    with connection(directory) as client:
        with output.progress(image.name) as on_progress:
            result = client.call("publish", params, on_progress)
        manifest = result["manifest"]
        for patch in result["patches"]:
            output.note(_patch_text(patch, result["size"]))
        if wait or copies is not None:
            output.note(f"manifest {manifest}: waiting for the owners' approvals")
            what = {"manifest": manifest, "for": "authorised", "timeout_s": timeout_s}
            result = {**result, "authorised": client.call("wait", what)}
        if copies is not None:
            output.note(f"waiting until {copies} other members hold it")
            wanted = {"manifest": manifest, "copies": copies, "timeout_s": timeout_s}
            held = client.call("wait_copies", wanted, _CopiesNote(output))
            result = {**result, "copies": held["copies"]}
    output.result(result, manifest)


class _CopiesNote:
    """Says how many copies there are, whenever that changes."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._said: object = 0

    def __call__(self, fields: Mapping[str, object]) -> None:
        """Takes a progress report."""
        copies, wanted = fields.get("copies"), fields.get("wanted")
        if wanted is not None and copies != self._said:
            self._said = copies
            self._output.note(f"{copies} of {wanted} copies")


def _base(text: str) -> str:
    """A manifest id, or the absolute path of a file."""
    if len(text) == DIGEST_DIGITS and not text.lower().strip("0123456789abcdef"):
        return text.lower()
    path = Path(text)
    if not path.is_file():
        raise ConfigError(f"--patch-from: {text[:80]!r} is neither a file nor a manifest id")
    return str(path.absolute())


def _patch_text(patch: Mapping[str, Any], size: int) -> str:
    share = f"{100 * patch['bytes'] / size:.1f} %"
    outcome = f"patch from image {patch['from'][:8]}: {size_text(patch['bytes'])}, {share}"
    if patch["published"]:
        return f"{outcome} of the image (chunks without it: {size_text(patch['chunks_bytes'])})"
    return f"{outcome}: not published, chunks have {size_text(patch['chunks_bytes'])} at most"


def _metadata_entry(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ConfigError(f"--metadata: {text[:80]!r} is not NAME=TEXT")
    return name, value
