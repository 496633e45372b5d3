"""`swarmd prove`: a file that shows to anybody, offline, what the ledger says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from protocol.errors import ConfigError, EncodingError
from swarmd.cli.options import (
    HexDigest,
    call,
    directory_option,
    examples,
    json_option,
    output_option,
    pass_output,
)
from swarmd.cli.output import Output

if TYPE_CHECKING:
    from protocol.digest import ChainId
    from swarmd.control.protocol import JSON


@click.command(
    epilog=examples(
        "swarmd prove 3f2a... -o rootfs.proof -C lab/gateway-1",
        "swarmd prove --did did:swarm:0ce67565:abc... -o subject.proof -C lab/gateway-1",
        "swarmd prove --receipt 12 -o receipt.proof -C lab/gateway-1",
        "swarmd prove --absent m/3f2a.../fleet -o absent.proof -C lab/gateway-1",
    )
)
@click.argument("manifest", type=HexDigest(), metavar="MANIFEST", required=False)
@click.option("--did", metavar="DID", help="Prove a subject's record instead: DID or 64 hex.")
@click.option(
    "--receipt", type=click.IntRange(min=0), help="Prove an entry of this node's receipt log."
)
@click.option("--transaction", type=HexDigest(), metavar="ID", help="Prove a final transaction.")
@click.option(
    "--absent", metavar="KEY", help="Prove that the state holds nothing under PREFIX/HEX[/NAME]."
)
@output_option("The proof file to write.")
@directory_option
@click.option("--group", help="Prove it for this group [default: the manifest's first].")
@click.option("--core", is_flag=True, help="Only its record, whatever its status: smallest.")
@json_option
@pass_output
def prove(
    output: Output,
    manifest: str | None,
    did: str | None,
    receipt: int | None,
    transaction: str | None,
    absent: str | None,
    target: Path,
    directory: Path,
    group: str | None,
    core: bool,
) -> None:
    """Write a file that proves what the ledger says, as of the node's newest block.

    For an image's authorisation it holds the manifest, the owners' signatures, the policy, the
    block header that finalised them, and the genesis document. Whoever checks it needs this file
    and the chain id, and no network.
    """
    from protocol.digest import ChainId, sha256
    from protocol.genesis import GENESIS_BYTES_MAX
    from swarmd.datadir import PUBLIC_FILE_MODE, open_data_dir, read_bounded, write_atomic
    from swarmd.proof_file import ProofFile

    genesis = read_bounded(open_data_dir(directory).genesis, bytes_max=GENESIS_BYTES_MAX)
    subjects: dict[str, JSON] = {
        "manifest": manifest,
        "did": None if did is None else _did_hex(did, ChainId(sha256(genesis))),
        "receipt": receipt,
        "transaction": transaction,
        "absent": None if absent is None else [state_key(absent).hex()],
    }
    params = {name: value for name, value in subjects.items() if value is not None}
    if len(params) != 1:
        raise ConfigError("name one thing to prove: MANIFEST, --did, --receipt, ...")
    if manifest is None and (group is not None or core):
        raise ConfigError("--group and --core belong to a manifest")
    if group is not None:
        params["group"] = group
    if core:
        params["core"] = True
    result: Any = call(directory, "prove", params)
    data = ProofFile(genesis, bytes.fromhex(result["proof"])).encode()
    write_atomic(target.absolute(), data, mode=PUBLIC_FILE_MODE)
    facts = {name: value for name, value in result.items() if name != "proof"}
    named = {name: value for name, value in subjects.items() if value is not None}
    document: JSON = {**named, "file": str(target.absolute()), **facts}
    output.result(document, f"{target}: {len(data)} bytes; check it with swarmd verify")


def _did_hex(text: str, chain: ChainId) -> str:
    """The 64 hex digits of a subject, given as such or as did:swarm."""
    from protocol.did import parse_did_text

    if text.startswith("did:"):
        try:
            return parse_did_text(text, chain).hex()
        except EncodingError as error:
            raise ConfigError(f"--did: {error}") from error
    return str(HexDigest().convert(text, None, None))


def state_key(text: str) -> bytes:
    """Reads a state key as people write it: `PREFIX/NAME`, `PREFIX/64 HEX`, `PREFIX/HEX/NAME`.

    Raises:
        ConfigError: it has no prefix, or is longer than a key.
    """
    prefix, slash, rest = text.partition("/")
    if not slash or not prefix.isascii() or not rest or len(text) > 400:
        raise ConfigError(f"{text[:80]!r} is not PREFIX/NAME, PREFIX/HEX or PREFIX/HEX/NAME")
    head, _, tail = rest.partition("/")
    digits = head.lower()
    if len(digits) == 64 and all(char in "0123456789abcdef" for char in digits):
        return prefix.encode() + b"/" + bytes.fromhex(digits) + tail.encode()
    return prefix.encode() + b"/" + rest.encode()
