"""`swarmd ledger export` and `tlog`, against a daemon's answers."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ledger.block import decode_block
from protocol.did import KeyPurpose
from protocol.tlog import cosign, parse_checkpoint, parse_note, validator_name
from protocol.tlog_tiles import TiledLog
from swarmd.datadir import DataDir
from swarmd.export.tiles import checkpoint_of
from tests.support.control_daemon import ControlDaemon
from tests.support.proofs import ProofWorld, make_world
from tests.swarmd.cli.conftest import Run


def methods_of(world: ProofWorld, *, index: int | None = 0) -> dict[str, Callable[[Any], Any]]:
    """What a daemon answers; one block at a time, as if blocks were large."""
    chain = world.chain
    checkpoint = checkpoint_of(chain.head)

    def blocks(params: Mapping[str, int]) -> Any:
        raws, _ = chain.blocks(params["from"], 1)
        return {"blocks": [raw.hex() for raw in raws[:1]], "height": chain.head.height}

    lines = []
    if index is not None:
        member = world.lab.validators[index]
        name = validator_name(checkpoint.origin, member.did)
        lines = [cosign(checkpoint, name, member.key(KeyPurpose.VALIDATOR), time_s=9).encode()]
    return {
        "status": lambda _: {"height": chain.head.height, "chain": world.lab.chain_id.hex()},
        "blocks": blocks,
        "checkpoint": lambda _: {
            "text": checkpoint.encode(),
            "signatures": lines,
            "quorum": 3,
            "header": chain.head.encoded.hex(),
            "height": chain.head.height,
        },
    }


@pytest.mark.parametrize("form", ["jsonl", "csv", "html"])
def test_rows_of_a_range_are_written(swarmd: Run, node: DataDir, tmp_path: Path, form: str) -> None:
    world, target = make_world(), tmp_path / "out"
    with ControlDaemon(methods_of(world)).running(node.control_socket):
        ended = swarmd(
            "ledger", "export", "--from", 2, "--to", 4, "--format", form, "-o", target,
            "-C", node.path,
        )  # fmt: skip
    assert ended.code == 0, ended.err
    text = target.read_text(encoding="utf-8")
    if form == "jsonl":
        rows = [json.loads(line) for line in text.splitlines()]
        assert [row["height"] for row in rows if row["type"] == "block"] == [2, 3, 4]
    assert list(tmp_path.glob("*.part")) == []


def test_a_manifests_rows_are_picked(swarmd: Run, node: DataDir, tmp_path: Path) -> None:
    world, target = make_world(), tmp_path / "out"
    with ControlDaemon(methods_of(world)).running(node.control_socket):
        ended = swarmd(
            "ledger", "export", "--manifest", world.revoked.manifest_id.hex(),
            "-o", target, "-C", node.path,
        )  # fmt: skip
    assert ended.code == 0, ended.err
    kinds = [json.loads(line)["kind"] for line in target.read_text().splitlines()]
    assert kinds == ["manifest.propose", "manifest.approve", "manifest.revoke"]


def test_what_was_pruned_is_said(swarmd: Run, node: DataDir, tmp_path: Path) -> None:
    methods = {
        **methods_of(make_world()),
        "blocks": lambda _: {"blocks": [], "height": 9, "first": 5},
    }
    with ControlDaemon(methods).running(node.control_socket):
        ended = swarmd("ledger", "export", "-o", tmp_path / "out", "-C", node.path)
    assert ended.code == 1
    assert "export.pruned" in ended.reason
    assert list(tmp_path.glob("out*")) == []


def test_blocks_that_do_not_follow_are_refused(swarmd: Run, node: DataDir, tmp_path: Path) -> None:
    world = make_world()
    raws, _ = world.chain.blocks(1, 1 << 20)
    assert decode_block(raws[0]).header.height == 1
    methods = {
        **methods_of(world),
        "blocks": lambda _: {"blocks": [raws[0].hex(), raws[2].hex()], "height": 9},
    }
    with ControlDaemon(methods).running(node.control_socket):
        ended = swarmd("ledger", "export", "-o", tmp_path / "out", "-C", node.path)
    assert ended.code == 1
    assert not (tmp_path / "out").exists()


def test_the_log_becomes_files_that_others_read(swarmd: Run, node: DataDir, tmp_path: Path) -> None:
    world = make_world()
    first, second = tmp_path / "first", tmp_path / "second"
    for target, index, more in ((first, 0, ()), (second, 1, ("--merge", first / "checkpoint"))):
        with ControlDaemon(methods_of(world, index=index)).running(node.control_socket):
            ended = swarmd("ledger", "tlog", "-o", target, *more, "-C", node.path)
        assert ended.code == 0, ended.err
    note = parse_note((second / "checkpoint").read_bytes())
    assert len(note.signatures) == 2
    log = TiledLog(parse_checkpoint(note.text), lambda path: (second / path).read_bytes())
    assert world.anchored.signed.raw in log.entries(0)


def test_a_head_nobody_signed_is_not_written(swarmd: Run, node: DataDir, tmp_path: Path) -> None:
    with ControlDaemon(methods_of(make_world(), index=None)).running(node.control_socket):
        ended = swarmd("ledger", "tlog", "-o", tmp_path / "log", "-C", node.path)
    assert ended.code == 2
    assert not (tmp_path / "log").exists()


def stopped(node: DataDir) -> ProofWorld:
    """Puts a ledger into the data directory, as a daemon leaves it."""
    world = make_world()
    node.ledger.mkdir(parents=True, exist_ok=True)
    chain = world.lab.open_chain(node.ledger_file)
    raws, certificate = world.chain.blocks(1, 1 << 20)
    assert certificate is not None
    chain.follow([decode_block(raw) for raw in raws], certificate)
    chain._store.close()
    return world


def test_a_stopped_nodes_ledger_is_exported_like_a_running_ones(
    swarmd: Run, node: DataDir, tmp_path: Path
) -> None:
    world = make_world()
    with ControlDaemon(methods_of(world)).running(node.control_socket):
        ended = swarmd("ledger", "export", "-o", tmp_path / "running", "-C", node.path)
        assert ended.code == 0, ended.err
        ended = swarmd("ledger", "tlog", "-o", tmp_path / "log", "-C", node.path)
        assert ended.code == 0, ended.err
    world = stopped(node)
    before = node.ledger_file.read_bytes()
    ended = swarmd("ledger", "export", "-o", tmp_path / "stopped", "-C", node.path)
    assert ended.code == 0, ended.err
    assert (tmp_path / "stopped").read_bytes() == (tmp_path / "running").read_bytes()
    note = tmp_path / "log" / "checkpoint"
    ended = swarmd("ledger", "tlog", "-o", tmp_path / "again", "--merge", note, "-C", node.path)
    assert ended.code == 0, ended.err
    tiles = {path.relative_to(tmp_path / "log"): path for path in (tmp_path / "log").rglob("*")}
    for name, path in tiles.items():
        assert path.is_dir() or (tmp_path / "again" / name).read_bytes() == path.read_bytes()
    assert node.ledger_file.read_bytes() == before
    assert world.chain.head.height > 1


def test_what_a_stopped_node_pruned_is_said(swarmd: Run, node: DataDir, tmp_path: Path) -> None:
    stopped(node)
    with sqlite3.connect(node.ledger_file) as database:
        database.execute("DELETE FROM bodies WHERE height IN (1, 2, 4)")
    database.close()
    for start, reason in ((1, "block 1 is gone"), (3, "block 4 is gone")):
        ended = swarmd("ledger", "export", "--from", start, "-o", tmp_path / "out", "-C", node.path)
        assert ended.code == 1
        assert "export.pruned" in ended.reason
        assert reason in ended.reason
        assert "from 3 on" in ended.reason
    ended = swarmd(
        "ledger", "export", "--from", 3, "--to", 3, "-o", tmp_path / "out", "-C", node.path
    )
    assert ended.code == 0, ended.err


def test_tiles_of_another_log_are_never_replaced(
    swarmd: Run, node: DataDir, tmp_path: Path
) -> None:
    target = tmp_path / "log"
    with ControlDaemon(methods_of(make_world())).running(node.control_socket):
        assert swarmd("ledger", "tlog", "-o", target, "-C", node.path).code == 0
        (tile,) = (path for path in (target / "tile" / "0").rglob("*") if path.is_file())
        tile.write_bytes(bytes(len(tile.read_bytes())))
        ended = swarmd("ledger", "tlog", "-o", target, "-C", node.path)
    assert ended.code != 0
    assert "another log" in ended.reason
