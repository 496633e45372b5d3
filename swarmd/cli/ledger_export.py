"""`swarmd ledger export` and `swarmd ledger tlog`: the ledger for auditors and for other tools.

Blocks come from the running daemon of a node, or from the data directory of a stopped one. A node
that prunes holds bodies for a while only; what is gone is said, never left out silently. Blocks are
read, checked and written one after the other, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from protocol.errors import ConfigError, PolicyError, TransportError, VerificationError
from swarmd.cli.options import HexDigest, directory_option, examples, output_option, pass_output
from swarmd.cli.output import Output

if TYPE_CHECKING:
    from ledger.block import Block
    from protocol.tlog import Note
    from swarmd.export.rows import Row

FORMATS: Final = ("jsonl", "csv", "html")
"""What `export` writes."""


def read_blocks(client: Any, start: int, end: int) -> Iterator[Block]:
    """The final blocks of a range from a daemon, each checked to follow the one before.

    Raises:
        PolicyError: `export.pruned`: a body in the range is gone.
        VerificationError: what came is not a chain of blocks.
    """
    from ledger.block import decode_block

    height, parent = start, None
    while height <= end:
        answer = client.call("blocks", {"from": height, "to": end}, None)
        if not answer["blocks"]:
            raise PolicyError(
                "export.pruned",
                f"block {height} is gone here, bodies from {answer['first']} on are kept: "
                f"begin there, or ask a node that keeps all (keep_blocks = 0)",
            )
        for raw in answer["blocks"]:
            block = decode_block(bytes.fromhex(raw))
            if block.header.height != height or parent not in (None, block.header.parent):
                raise VerificationError(f"block {height} does not follow the one before")
            yield block
            height, parent = height + 1, block.header.block_id


@click.command(
    epilog=examples(
        "swarmd ledger export --from 1 --to 500 -o blocks.jsonl -C lab/gateway-1",
        "swarmd ledger export --format html --manifest 3f2a... -o audit.html -C lab/gateway-1",
    )
)
@click.option("--from", "start", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--to", "end", type=click.IntRange(min=1), help="Last height [default: newest].")
@click.option("--subject", metavar="DID", help="Only what it signed or what is about it.")
@click.option("--manifest", type=HexDigest(), metavar="MANIFEST", help="Only what is about it.")
@click.option("--format", "form", type=click.Choice(FORMATS), default=FORMATS[0], show_default=True)
@output_option("The file to write.")
@directory_option
@pass_output
def export(
    output: Output,
    start: int,
    end: int | None,
    subject: str | None,
    manifest: str | None,
    form: str,
    target: Path,
    directory: Path,
) -> None:
    """Write blocks, transactions and evidence with decoded bodies, for auditors.

    By heights, subject and manifest; the rows are the same in every format.
    """
    from protocol.digest import DidId, ManifestId
    from swarmd.export.rows import Choice

    with ledger_source(directory) as client:
        status = client.call("status", {}, None)
        last = status["height"] if end is None else min(end, status["height"])
        if start > last:
            raise ConfigError(f"nothing between {start} and {last}")
        choice = Choice(
            subject=None if subject is None else DidId(_subject(subject, status["chain"])),
            manifest=None if manifest is None else ManifestId(bytes.fromhex(manifest)),
        )
        rows = choice.pick(read_blocks(client, start, last))
        about = f"Chain {status['chain']}, blocks {start} to {last}."
        if subject is not None or manifest is not None:
            about += f" Picked: subject {subject or 'any'}, manifest {manifest or 'any'}."
        _write_text(target, _rendered(rows, form, about))
    output.result({"file": str(target.absolute()), "from": start, "to": last, "format": form})


def _subject(text: str, chain: str) -> bytes:
    from protocol.did import parse_did_text
    from protocol.digest import ChainId

    if text.startswith("did:"):
        return parse_did_text(text, ChainId(bytes.fromhex(chain)))
    return bytes.fromhex(HexDigest().convert(text, None, None))


def _rendered(rows: Iterator[Row], form: str, about: str) -> Iterator[str]:
    from swarmd.export.audit import to_csv, to_html, to_jsonl

    match form:
        case "csv":
            return to_csv(rows)
        case "html":
            return to_html(rows, title="swarmd ledger audit", about=about)
        case _:
            return to_jsonl(rows)


def _write_text(target: Path, lines: Iterable[str]) -> None:
    """Writes a file piece by piece; the name appears when it is complete."""
    partial = target.with_name(f"{target.name}.part")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            file.writelines(lines)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


@click.command(
    epilog=examples(
        "swarmd ledger tlog -o www/log -C lab/validator-1",
        "swarmd ledger tlog -o www/log --merge other/checkpoint -C lab/validator-1",
    )
)
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="DIR",
    help="The folder to write: a checkpoint, tiles and entry bundles.",
)
@click.option(
    "--merge",
    "notes",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    metavar="FILE",
    help="A checkpoint of the same head with more cosignatures.",
)
@directory_option
@pass_output
def tlog(output: Output, target: Path, notes: tuple[Path, ...], directory: Path) -> None:
    """Write the log as static files that any C2SP tlog client can read and witness.

    The node gathers the cosignatures of the validators it reaches. Add those of others, and of
    outside witnesses, by --merge.
    """
    from ledger.header import decode_header
    from swarmd.datadir import PUBLIC_FILE_MODE, write_atomic
    from swarmd.export.tiles import CHECKPOINT_NAME, checkpoint_of, entries_of, tile_files

    with ledger_source(directory) as client:
        head = client.call("checkpoint", {}, None)
        header = decode_header(bytes.fromhex(head["header"]))
        checkpoint = checkpoint_of(header)
        note = _note(head["signatures"], notes, checkpoint.encode())
        files = 0
        entries = entries_of(read_blocks(client, 1, header.height))
        for path, content in tile_files(entries, checkpoint):
            _write_tile((target / path).absolute(), content)
            files += 1
    write_atomic((target / CHECKPOINT_NAME).absolute(), note.encode(), mode=PUBLIC_FILE_MODE)
    output.result(
        {
            "folder": str(target.absolute()),
            "origin": checkpoint.origin,
            "size": checkpoint.size,
            "root": checkpoint.root.hex(),
            "files": files,
            "cosignatures": len(note.signatures),
            "quorum": head["quorum"],
        }
    )


def _note(lines: Sequence[str], paths: Sequence[Path], text: str) -> Note:
    """The checkpoint with the lines of validators and those of notes to merge.

    Raises:
        ConfigError: nobody cosigned it.
        VerificationError: a note to merge is of another head.
    """
    from protocol.tlog import NOTE_BYTES_MAX, merge_notes, parse_note
    from swarmd.datadir import read_bounded

    found = [parse_note(f"{text}\n{line}\n".encode()) for line in lines]
    found += [parse_note(read_bounded(path, bytes_max=NOTE_BYTES_MAX)) for path in paths]
    if not found:
        raise ConfigError("no cosignature: ask a validator, or --merge a checkpoint of this head")
    if any(note.text != text for note in found):
        raise VerificationError("a checkpoint to merge is of another head")
    return merge_notes(found)


def _write_tile(path: Path, content: bytes) -> None:
    """Writes a tile or bundle; one that is there with other bytes is never replaced.

    Raises:
        VerificationError: it is of another log.
    """
    from swarmd.datadir import PUBLIC_FILE_MODE, write_atomic

    if path.is_file():
        if path.read_bytes() != content:
            raise VerificationError(f"{path} is of another log: write to another folder")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content, mode=PUBLIC_FILE_MODE)


@contextmanager
def ledger_source(directory: Path) -> Iterator[Any]:
    """What answers for a ledger: its daemon or, where none runs, its database (V66).

    Raises:
        TransportError: a daemon runs and does not answer.
        StorageError: no daemon runs, and there is no ledger to read.
    """
    from swarmd.control.client import ControlClient
    from swarmd.datadir import open_data_dir
    from swarmd.export.offline import OfflineLedger

    data = open_data_dir(directory)
    source: Any
    try:
        source = ControlClient(data.control_socket)
    except TransportError:
        source = OfflineLedger(data)
    with source:
        yield source
