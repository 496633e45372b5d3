"""Exports: complete, decoded, picked by subject and manifest, and harmless to who opens them."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from ledger.block import Block
from protocol.errors import VerificationError
from protocol.merkle import leaf_hash
from protocol.tlog import log_origin
from protocol.tlog_tiles import TiledLog
from swarmd.export.audit import COLUMNS, to_csv, to_html, to_jsonl
from swarmd.export.rows import Choice, Row, rows_of
from swarmd.export.tiles import checkpoint_of, entries_of, tile_files
from tests.support.ledger import FLEET
from tests.support.proofs import ProofWorld, make_world

EVIL = "<script>alert(1)</script>\"'&"
FORMULA = '=HYPERLINK("http://evil.example")'


@pytest.fixture(scope="module")
def world() -> ProofWorld:
    return make_world()


@pytest.fixture(scope="module")
def blocks(world: ProofWorld) -> list[Block]:
    headers = [world.chain.header_at(h) for h in range(1, world.chain.head.height + 1)]
    found = [world.chain.block(header.block_id) for header in headers if header]
    return [block for block in found if block]


def evil_row(text: str) -> Row:
    return Row(
        type="transaction",
        height=1,
        time_ms=1_700_000_000_000,
        id="ab",
        kind=text,
        signer=text,
        details={"name": text},
        named=frozenset(),
    )


def test_every_entry_of_every_block_is_a_row(blocks: list[Block]) -> None:
    rows = [row for block in blocks for row in rows_of(block)]
    assert [row.height for row in rows if row.type == "block"] == [b.header.height for b in blocks]
    transactions = sum(len(block.transactions) for block in blocks)
    assert sum(1 for row in rows if row.type == "transaction") == transactions
    lines = [json.loads(line) for line in to_jsonl(rows)]
    assert [line["id"] for line in lines] == [row.id for row in rows]
    assert {"type", "height", "time_ms", "id", "kind", "signer", "details"} == set(lines[0])
    proposed = [line for line in lines if line["kind"] == "manifest.propose"]
    assert proposed[0]["details"]["manifest"]["groups"] == [FLEET]


def test_a_manifest_is_followed_through_its_life(world: ProofWorld, blocks: list[Block]) -> None:
    rows = list(Choice(manifest=world.revoked.manifest_id).pick(blocks))
    assert [row.kind for row in rows] == ["manifest.propose", "manifest.approve", "manifest.revoke"]
    assert list(Choice(manifest=world.lab.manifest(sequence=99).manifest_id).pick(blocks)) == []


def test_a_subject_is_followed_by_what_it_signed(world: ProofWorld, blocks: list[Block]) -> None:
    rows = list(Choice(subject=world.lab.publisher.did).pick(blocks))
    assert [row.kind for row in rows if row.signer == world.lab.publisher.did.hex()] == [
        "manifest.propose"
    ] * 3
    both = Choice(subject=world.lab.publisher.did, manifest=world.governed.manifest_id)
    assert [row.kind for row in both.pick(blocks)] == ["manifest.propose"]


class Tags(HTMLParser):
    """Collects the tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attrs)


def test_markup_in_names_stays_text() -> None:
    page = "".join(to_html([evil_row(EVIL)], title=EVIL, about=EVIL))
    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.found
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert page.count("<tr>") == 2


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_cells_do_not_run_in_spreadsheets(start: str) -> None:
    text = start + FORMULA
    table = "".join(to_csv([evil_row(text), evil_row('a,"b"')]))
    heading, first, second = csv.reader(io.StringIO(table, newline=""))
    assert tuple(heading) == COLUMNS
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) for cell in first)
    assert first[3] == f"'{text}"
    assert second[3] == 'a,"b"'


def test_the_log_is_written_as_tiles_that_lead_to_its_head(
    world: ProofWorld, blocks: list[Block]
) -> None:
    checkpoint = checkpoint_of(world.chain.head)
    entries = list(entries_of(blocks))
    files = dict(tile_files(entries, checkpoint))
    assert checkpoint.origin == log_origin(world.lab.chain_id, 0)
    log = TiledLog(checkpoint, files.__getitem__)
    assert list(log.entries(0)) == entries
    index = entries.index(world.anchored.signed.raw)
    assert world.chain.log_proof(index) == (leaf_hash(entries[index]), log.inclusion_proof(index))
    for wrong in (entries[:-1], [*entries[:-1], b"forged"]):
        with pytest.raises(VerificationError):
            dict(tile_files(wrong, checkpoint))
    with pytest.raises(VerificationError):
        dict(tile_files(entries, replace(checkpoint, size=1)))


def test_tiles_of_several_levels_are_written() -> None:
    from protocol.merkle import merkle_root
    from protocol.tlog import Checkpoint

    entries = [b"%d" % number for number in range(600)]
    root = merkle_root([leaf_hash(entry) for entry in entries])
    checkpoint = Checkpoint(origin="test", size=600, root=root)
    files = dict(tile_files(entries, checkpoint))
    assert "tile/1/000.p/2" in files
    log = TiledLog(checkpoint, files.__getitem__)
    assert [e for index in range(3) for e in log.entries(index)] == entries
