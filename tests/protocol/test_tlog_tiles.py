"""Tiles and bundles: the shapes of the specification, a foreign log, and forged files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import EncodingError, LocalProtocolError, VerificationError
from protocol.merkle import inclusion_proof, leaf_hash, merkle_root, verify_inclusion
from protocol.tlog import Checkpoint, parse_checkpoint, parse_note, parse_note_key, verify_note
from protocol.tlog_tiles import (
    Tile,
    TiledLog,
    decode_bundle,
    decode_tile,
    encode_bundle,
    encode_tile,
    tiles_of,
)
from tests.support.strategies import few

ENTRIES = [b"entry %d" % number for number in range(1000)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
FOREIGN_WORDS = [
    *("one", "two", "three", "four", "five", "six", "seven", "eit"),
    *("nain", "ten", "ileven", "twelf", "threeten", "fourten", "fivten"),
]
"""Entries of the foreign log, as its authors spell them."""


def write_log(size: int) -> dict[str, bytes]:
    """All files of a log, by the definition of a tile: roots over 256^level leaves."""
    files: dict[str, bytes] = {}
    for tile in tiles_of(size):
        span = 256**tile.level
        starts = [(tile.index * 256 + i) * span for i in range(tile.width)]
        files[tile.path] = encode_tile([merkle_root(LEAVES[s : s + span]) for s in starts])
        if tile.level == 0:
            first = tile.index * 256
            files[tile.bundle_path] = encode_bundle(ENTRIES[first : first + tile.width])
    return files


def checkpoint_of(size: int) -> Checkpoint:
    return Checkpoint(origin="test", size=size, root=merkle_root(LEAVES[:size]))


def open_log(size: int, files: dict[str, bytes] | None = None) -> TiledLog:
    return TiledLog(checkpoint_of(size), (files or write_log(size)).__getitem__)


def test_the_specifications_tree_of_70000_entries() -> None:
    found = list(tiles_of(70_000))
    by_level = [[tile for tile in found if tile.level == level] for level in range(3)]
    assert [len(tiles) for tiles in by_level] == [274, 2, 1]
    assert [tiles[-1].width for tiles in by_level] == [112, 17, 1]
    assert by_level[1][0].width == 256
    assert list(tiles_of(0)) == []
    assert list(tiles_of(256)) == [Tile(0, 0, 256), Tile(1, 0, 1)]


def test_paths_are_those_of_the_specification() -> None:
    assert Tile(0, 1_234_067, 256).path == "tile/0/x001/x234/067"
    assert Tile(3, 0, 256).path == "tile/3/000"
    assert Tile(1, 273, 17).path == "tile/1/273.p/17"
    assert Tile(0, 273, 112).bundle_path == "tile/entries/273.p/112"
    assert Tile(0, 1000, 256).bundle_path == "tile/entries/x001/000"
    with pytest.raises(LocalProtocolError):
        _ = Tile(1, 0, 1).bundle_path


@few
@given(old=st.integers(0, 70_000), more=st.integers(0, 3000))
def test_growth_adds_exactly_the_new_tiles(old: int, more: int) -> None:
    known, grown = set(tiles_of(old)), set(tiles_of(old + more))
    assert set(tiles_of(old + more, since=old)) == grown - known


@pytest.mark.parametrize("size", [0, 1, 2, 3, 255, 256, 257, 511, 512, 1000])
def test_a_written_log_is_read_back(size: int) -> None:
    log = open_log(size)
    assert log.size == size
    read = [entry for index in range((size + 255) // 256) for entry in log.entries(index)]
    assert read == ENTRIES[:size]
    for index in {0, 1, 254, 255, 256, size // 2, size - 1} & set(range(size)):
        assert log.inclusion_proof(index) == inclusion_proof(LEAVES[:size], index)
        verify_inclusion(
            LEAVES[index],
            index=index,
            size=size,
            proof=log.inclusion_proof(index),
            root=merkle_root(LEAVES[:size]),
        )
    for index in (-1, size):
        with pytest.raises(LocalProtocolError):
            log.inclusion_proof(index)
    with pytest.raises(LocalProtocolError):
        log.hashes(Tile(0, size // 256 + 1, 256))


def read_all(size: int, read: Callable[[str], bytes]) -> None:
    log = TiledLog(checkpoint_of(size), read)
    for index in range((size + 255) // 256):
        log.entries(index)


@pytest.mark.parametrize("size", [3, 256, 600])
def test_every_altered_file_is_noticed(size: int) -> None:
    files = write_log(size)
    read_all(size, files.__getitem__)
    for path, content in files.items():
        for position in {0, len(content) // 2, len(content) - 1}:
            altered = bytearray(content)
            altered[position] ^= 1
            forged = {**files, path: bytes(altered)}
            with pytest.raises(VerificationError):
                read_all(size, forged.__getitem__)
        for other in (content[:-1], content + b"\x00", b""):
            with pytest.raises(VerificationError):
                read_all(size, {**files, path: other}.__getitem__)


def test_another_checkpoint_is_refused() -> None:
    files = write_log(600)
    wrong = Checkpoint(origin="test", size=600, root=merkle_root(LEAVES[:599]))
    with pytest.raises(VerificationError, match="tiles lead to root"):
        TiledLog(wrong, files.__getitem__)


def test_bundles_hold_what_they_say() -> None:
    entries = [b"", b"x", bytes(65_535)]
    assert decode_bundle(encode_bundle(entries), 3) == tuple(entries)
    for data, width in (
        (encode_bundle(entries), 2),
        (encode_bundle(entries), 4),
        (b"\x00", 1),
        (b"\x00\x02a", 1),
        (b"", 1),
    ):
        with pytest.raises(EncodingError):
            decode_bundle(data, width)
    for entries in ([], [bytes(65_536)], [b""] * 257):
        with pytest.raises(LocalProtocolError):
            encode_bundle(entries)
    with pytest.raises(LocalProtocolError):
        encode_tile([])
    with pytest.raises(EncodingError):
        decode_tile(bytes(33), 1)


@pytest.mark.parametrize("size", [*range(16), None])
def test_a_foreign_log_is_read(vectors_path: Path, size: int | None) -> None:
    """A log another implementation wrote: every head signed, every tile and entry in place."""
    folder = vectors_path / "tlog" / "tessera-log"
    if not folder.is_dir():
        pytest.skip("needs SWARMD_VECTORS")
    vkey = "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx"
    name = "checkpoint" if size is None else f"checkpoint.{size}"
    raw = (folder / name).read_bytes()
    note = parse_note(raw)
    assert note.encode() == raw
    verify_note(note, [parse_note_key(vkey)])
    checkpoint = parse_checkpoint(note.text)
    assert checkpoint.size == (15 if size is None else size)
    log = TiledLog(checkpoint, lambda path: (folder / path).read_bytes())
    words = [
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eit",
        "nain",
        "ten",
        "ileven",
        "twelf",
        "threeten",
        "fourten",
        "fivten",
    ]
    if checkpoint.size:
        assert [entry.decode() for entry in log.entries(0)] == words[: checkpoint.size]
        leaves = [leaf_hash(word.encode()) for word in words[: checkpoint.size]]
        assert log.inclusion_proof(0) == inclusion_proof(leaves, 0)
