"""`swarmd did resolve` and `verify`: who a DID is, with proof, and what such a proof shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from protocol.errors import ConfigError, EncodingError
from swarmd.cli.options import call, examples, json_option, output_option, pass_output
from swarmd.cli.output import Output, plain

if TYPE_CHECKING:
    from protocol.digest import ChainId, DidId
    from swarmd.control.protocol import JSON


@click.command(
    "resolve",
    epilog=examples(
        "swarmd did resolve did:swarm:0ce67565:mfrgg... -C lab/gateway-1",
        "swarmd did resolve did:swarm:0ce67565:mfrgg... -C lab/gateway-1 --proof gw.proof",
        "swarmd did resolve did:key:z6Mk...",
    ),
)
@click.argument("did", metavar="DID")
@click.option(
    "-C",
    "--directory",
    type=click.Path(path_type=Path),
    envvar="SWARMD_DIR",
    metavar="DIR",
    help="The node to ask [or environment variable SWARMD_DIR]; did:key needs none.",
)
@click.option(
    "--proof",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Also write what proves the answer offline.",
)
@output_option("Write the answer to FILE instead of printing it.", required=False)
@json_option
@pass_output
def resolve(
    output: Output, did: str, directory: Path | None, proof: Path | None, target: Path | None
) -> None:
    """Show the DID document of a subject, as of the node's newest block.

    The answer is a DID resolution result (DID Core 1.0): document, metadata of the document, and
    metadata of the resolution. With --proof anybody who knows the chain id can check it.
    """
    answer: Any
    if did.startswith("did:key:"):
        answer = _resolve_key(did)
        if proof is not None:
            raise ConfigError("--proof: a did:key is its own proof")
    else:
        if directory is None:
            raise ConfigError("a did:swarm is resolved by a node: give -C DIR")
        answer = _resolve_subject(did, directory, proof)
    text = json.dumps(answer, indent=2, ensure_ascii=False)
    if target is None:
        output.result(answer, text)
        return
    from swarmd.datadir import PUBLIC_FILE_MODE, write_atomic

    write_atomic(target.absolute(), text.encode() + b"\n", mode=PUBLIC_FILE_MODE)
    output.result({"did": did, "file": str(target.absolute())}, f"{target}: written")


def _resolve_key(did: str) -> JSON:
    from protocol.did import parse_did_key
    from protocol.did_document import CONTENT_TYPE, did_key_document

    try:
        document: Any = did_key_document(parse_did_key(did))
    except EncodingError as error:
        raise ConfigError(f"invalidDid: {error}") from None
    return {
        "didDocument": document,
        "didDocumentMetadata": {},
        "didResolutionMetadata": {"contentType": CONTENT_TYPE},
    }


def _resolve_subject(did: str, directory: Path, proof: Path | None) -> JSON:
    from protocol.genesis import GENESIS_BYTES_MAX
    from swarmd.datadir import PUBLIC_FILE_MODE, open_data_dir, read_bounded, write_atomic
    from swarmd.proof_file import ProofFile

    data = open_data_dir(directory)
    name = read_did(did, data.load_genesis().chain)
    result = call(directory, "resolve", {"did": name.hex(), "proof": proof is not None})
    if proof is not None:
        genesis = read_bounded(data.genesis, bytes_max=GENESIS_BYTES_MAX)
        file = ProofFile(genesis, bytes.fromhex(result["proof"]))
        write_atomic(proof.absolute(), file.encode(), mode=PUBLIC_FILE_MODE)
    answer: JSON = result["resolution"]
    return answer


def read_did(text: str, chain: ChainId) -> DidId:
    """Reads a did:swarm of a chain.

    Raises:
        ConfigError: it is none.
    """
    from protocol.did import parse_did_text

    try:
        return parse_did_text(text, chain)
    except EncodingError as error:
        raise ConfigError(f"invalidDid: {error}") from None


@click.command("verify", epilog=examples("swarmd did verify gw.proof --genesis lab/genesis.cbor"))
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE"
)
@click.option(
    "--genesis",
    "trusted",
    required=True,
    metavar="FILE|DIGEST",
    help="What you trust: the chain's genesis.cbor, or its SHA-256 (the chain id).",
)
@json_option
@pass_output
def verify(output: Output, file: Path, trusted: str) -> None:
    """Check offline who a DID was as of a final block, and show its document.

    Trust comes from --genesis alone. A proof says how things stood at its block: mind the age that
    is printed.
    """
    from protocol.did import did_text
    from protocol.did_document import resolution_result
    from swarmd.cli.verify import age_text, trusted_genesis
    from swarmd.clock import SystemClock
    from swarmd.datadir import read_bounded
    from swarmd.did_proof import verify_subject_proof
    from swarmd.proof_file import PROOF_FILE_BYTES_MAX, decode_proof_file

    content = decode_proof_file(read_bounded(file, bytes_max=PROOF_FILE_BYTES_MAX))
    genesis = trusted_genesis(trusted, content)
    now_ms = SystemClock().wall_ms()
    entries: list[JSON] = []
    lines: list[str] = []
    for shown in verify_subject_proof(content.proof, genesis):
        facts = shown.facts
        age_s = (now_ms - facts.time_ms) // 1000
        resolution: Any = resolution_result(facts)
        attributes: Any = shown.attributes
        entries.append(
            {
                "resolution": resolution,
                "kind": shown.record.kind.name.lower(),
                "name": shown.record.name,
                "groups": list(shown.record.groups),
                "attributes": attributes,
                "age_s": age_s,
            }
        )
        lines += [
            f"{did_text(facts.chain, facts.did)}: {facts.status}",
            f"  name    {plain(shown.record.name)}, {shown.record.kind.name.lower()}",
            f"  groups  {', '.join(map(plain, shown.record.groups)) or 'none'}",
            f"  keys    replaced {facts.rotations} times",
            f"  as of   block {facts.height}, {age_text(age_s)}",
            json.dumps(resolution["didDocument"], indent=2, ensure_ascii=False),
        ]
    output.result({"verified": True, "subjects": entries}, "\n".join(lines))
