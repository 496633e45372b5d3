"""`swarmd sealing`: who may open images that a publisher encrypts."""

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
    manifest_argument,
    output_option,
    pass_output,
)
from swarmd.cli.output import Output, describe

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON


@click.group()
def sealing() -> None:
    """Encrypt images for the members of a ring, and see what this node can open.

    A publisher makes a ring for a group and publishes with --seal. Every gateway of the group keeps
    and passes on what is sealed; those in the ring can open it.
    """


@sealing.command(epilog=examples("swarmd sealing key -o gw7.seal -C /var/lib/swarmd"))
@output_option("Where to save it.", required=False)
@directory_option
@json_option
@pass_output
def key(output: Output, target: Path | None, directory: Path) -> None:
    """Show this node's public sealing key, signed, for publishers to wrap keys to.

    The file is public. A publisher that can reach the node asks for it by itself (swarmd sealing
    ring --reachable).
    """
    from swarmd.datadir import PUBLIC_FILE_MODE, write_atomic

    statement = str(call(directory, "sealing_key", {})["statement"])
    document: dict[str, JSON] = {"statement": statement}
    if target is None:
        output.result(document, statement)
        return
    write_atomic(target.absolute(), bytes.fromhex(statement), mode=PUBLIC_FILE_MODE)
    output.result({**document, "file": str(target.absolute())}, str(target))


@sealing.command(
    epilog=examples(
        "swarmd sealing ring fleet --reachable -C lab/publisher-1",
        "swarmd sealing ring fleet --member gw7.seal -o fleet.ring -C lab/publisher-1",
        "swarmd sealing ring fleet --remove did:swarm:0ce67565:mfrgg... -C lab/publisher-1",
    )
)
@click.argument("group", metavar="GROUP")
@click.option(
    "--member",
    "members",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Add the member whose sealing key this is (swarmd sealing key).",
)
@click.option("--reachable", is_flag=True, help="Add all members that are connected now.")
@click.option(
    "--remove",
    "removed",
    multiple=True,
    metavar="DID",
    help="Leave a member out of a new generation. Only images sealed from then on are closed to "
    "it: what it could open before, it may have opened.",
)
@click.option(
    "--new-generation", is_flag=True, help="Take a new content key, for the same members."
)
@output_option("Save the ring file, to carry it to members by hand.", required=False)
@directory_option
@json_option
@pass_output
def ring(
    output: Output,
    group: str,
    members: tuple[Path, ...],
    reachable: bool,
    removed: tuple[str, ...],
    new_generation: bool,
    target: Path | None,
    directory: Path,
) -> None:
    """Make or change the publisher's ring for GROUP.

    Adding members wraps the same key to them: they can then open everything sealed under it.
    Wrapping a key anew revokes nothing. To close later images to somebody, use --remove: it begins
    a new generation with a new key, and swarmd publish --seal GROUP uses it from then on.
    """
    from protocol.sealing_ring import STATEMENT_BYTES_MAX
    from swarmd.datadir import read_bounded

    params: dict[str, JSON] = {"group": group}
    if members:
        params["members"] = [
            read_bounded(path, bytes_max=STATEMENT_BYTES_MAX).hex() for path in members
        ]
    if removed:
        params["remove"] = list(removed)
    if reachable:
        params["reachable"] = True
    if new_generation:
        params["new_generation"] = True
    with connection(directory) as client, output.progress(group) as on_progress:
        result: Any = client.call("sealing_ring", params, on_progress)
    if target is not None:
        result = {**result, **_export(directory, str(result["ring"]), target)}
    output.result(result, describe(result))


@sealing.command("import", epilog=examples("swarmd sealing import fleet.ring -C lab/gateway-1"))
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE"
)
@directory_option
@json_option
@pass_output
def import_ring(output: Output, file: Path, directory: Path) -> None:
    """Give this node a ring file, where it gets none from its peers.

    The ledger decides: it must be signed by a publisher of the group. An older version than the
    one at hand changes nothing.
    """
    result = call(directory, "sealing_import", {"path": str(file.absolute())})
    output.result(result, describe(result))


@sealing.command("export", epilog=examples("swarmd sealing export 3f2a... -o fleet.ring -C gw1"))
@click.argument("ring_id", type=HexDigest(), metavar="RING")
@output_option("Where to save it.")
@directory_option
@json_option
@pass_output
def export_ring(output: Output, ring_id: str, target: Path, directory: Path) -> None:
    """Save the newest file of a ring, as swarmd sealing show lists it."""
    document = _export(directory, ring_id, target)
    output.result(document, str(document["file"]))


def _export(directory: Path, ring_id: str, target: Path) -> dict[str, JSON]:
    from swarmd.file_copy import copy_verified

    result = call(directory, "sealing_export", {"ring": ring_id})
    digest, size = bytes.fromhex(result["sha256"]), int(result["size"])
    copy_verified(Path(str(result["path"])), target, digest=digest, size=size)
    return {"ring": ring_id, "file": str(target.absolute()), "size": size}


@sealing.command(epilog=examples("swarmd sealing show -C lab/gateway-1"))
@directory_option
@json_option
@pass_output
def show(output: Output, directory: Path) -> None:
    """List the rings this node knows, and which of them it can open."""
    result = call(directory, "sealing_rings", {})
    output.result(result, describe(result) if result else "no rings yet")


@sealing.command(epilog=examples("swarmd sealing salt 3f2a... -C lab/gateway-1"))
@manifest_argument
@directory_option
@json_option
@pass_output
def salt(output: Output, manifest: str, directory: Path) -> None:
    """Show the salts of a manifest's sealed components, for builders and for swarmd verify.

    Whoever has a salt can tell whether a file is that component, and nothing more.
    """
    result = call(directory, "sealing_salts", {"manifest": manifest})
    salts = "\n".join(f"{name}={digits}" for name, digits in result["salts"].items())
    output.result(result, salts or "nothing of it is sealed under a key of this node")


@sealing.command(epilog=examples("swarmd sealing forget 3f2a... -C lab/gateway-1"))
@click.argument("ring_id", type=HexDigest(), metavar="RING")
@directory_option
@json_option
@pass_output
def forget(output: Output, ring_id: str, directory: Path) -> None:
    """Delete a ring from this node; what it sealed cannot be opened here then."""
    output.result(call(directory, "sealing_forget", {"ring": ring_id}), f"forgot ring {ring_id}")
