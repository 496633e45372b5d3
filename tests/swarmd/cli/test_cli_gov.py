"""`swarmd gov`: drafting at a node, signing far from it, handing in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.bodies.validators import SetParameters, SetValidators
from ledger.transition.genesis import genesis_block, genesis_outcome
from protocol.did import did_text
from swarmd.datadir import DataDir
from swarmd.decision import decode_decision
from swarmd.keys.key_writer import write_key_file
from tests.support.control_daemon import ControlDaemon
from tests.support.ledger import GENESIS_MS, Lab
from tests.swarmd.cli.conftest import Run


def epoch_facts(lab: Lab) -> dict[str, Any]:
    """What an honest daemon answers to `epoch`."""
    header = genesis_block(lab.genesis, genesis_outcome(lab.genesis).state).header
    return {
        "chain": lab.chain_id.hex(),
        "era": 0,
        "epoch": 3,
        "heartbeat_ms": 600_000,
        "epoch_ms": 3_600_000,
        "now_ms": GENESIS_MS,
        "validators": [
            {"did": did_text(lab.chain_id, member.did), "name": member.label}
            for member in lab.validators
        ],
        "checkpoint": None,
        "closing_header": header.encoded.hex(),
    }


@pytest.fixture
def daemon(node: DataDir, ledger_lab: Lab) -> Iterator[ControlDaemon]:
    methods = {
        "epoch": lambda _params: epoch_facts(ledger_lab),
        "submit_decision": lambda _params: {"transaction": "ab", "height": 7, "kind": "x"},
    }
    with ControlDaemon(methods).running(node.control_socket) as running:
        yield running


def governor(tmp_path: Path, lab: Lab, index: int) -> Path:
    path = tmp_path / f"governor-{index}.key"
    write_key_file(path, lab.governance[index])
    return path


def test_a_decision_goes_from_draft_to_node(
    swarmd: Run, node: DataDir, daemon: ControlDaemon, ledger_lab: Lab, tmp_path: Path
) -> None:
    file = tmp_path / "p.decision"
    drafted = swarmd(
        "gov", "parameters", "--epoch-hours", 24, "-C", node.path, "-o", file, "--json"
    )
    assert drafted.document == {"file": str(file), "kind": "gov.parameters", "epoch": 3}
    for index in range(2):
        key = governor(tmp_path, ledger_lab, index)
        signed = swarmd("gov", "sign", file, "--key", key, "--yes")
        assert signed.code == 0, signed.err
        assert "86400000" in signed.err
    shown = swarmd("gov", "show", file, "--json")
    assert shown.document["signatures"] == 2
    assert swarmd("gov", "submit", file, "-C", node.path).code == 0
    (params,) = daemon.params_of("submit_decision")
    body = decode_decision(bytes.fromhex(params["decision"][0])).body()
    assert isinstance(body, SetParameters)
    assert (body.parameters.heartbeat_ms, body.parameters.epoch_ms) == (600_000, 86_400_000)
    assert len(body.approvals) == 2


def test_validators_are_named_by_name_or_did(
    swarmd: Run, node: DataDir, daemon: ControlDaemon, ledger_lab: Lab, tmp_path: Path
) -> None:
    file = tmp_path / "set.decision"
    first, second, *rest = ledger_lab.validators
    named = [first.label, did_text(ledger_lab.chain_id, second.did)]
    named += [member.label for member in rest]
    keep = [text for name in named for text in ("--keep", name)]
    assert swarmd("gov", "validators", *keep, "-C", node.path, "-o", file).code == 0
    body = decode_decision(file.read_bytes()).body()
    assert isinstance(body, SetValidators)
    assert body.members == tuple(member.did for member in ledger_lab.validators)
    wrong = swarmd("gov", "validators", "--keep", "nobody", "-C", node.path, "-o", file)
    assert (wrong.code, "names 0 sitting validators" in wrong.reason) == (2, True)


def test_one_key_signs_once_and_nothing_without_being_asked(
    swarmd: Run, node: DataDir, daemon: ControlDaemon, ledger_lab: Lab, tmp_path: Path
) -> None:
    file = tmp_path / "c.decision"
    assert swarmd("gov", "checkpoint", "-C", node.path, "-o", file).code == 0
    key = governor(tmp_path, ledger_lab, 0)
    unasked = swarmd("gov", "sign", file, "--key", key)
    assert unasked.code == 2
    assert decode_decision(file.read_bytes()).approvals == ()
    assert swarmd("gov", "sign", file, "--key", key, "--yes").code == 0
    again = swarmd("gov", "sign", file, "--key", key, "--yes")
    assert again.code == 1
    assert len(decode_decision(file.read_bytes()).approvals) == 1


def test_a_file_that_is_no_decision_is_named(swarmd: Run, tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"\xa0")
    ended = swarmd("gov", "show", file)
    assert ended.code == 1
    assert "neither a decision nor a recovery" in ended.reason


def test_nothing_to_change_is_an_error_of_use(
    swarmd: Run, node: DataDir, daemon: ControlDaemon, tmp_path: Path
) -> None:
    ended = swarmd("gov", "parameters", "-C", node.path, "-o", tmp_path / "p")
    assert ended.code == 2
    assert not (tmp_path / "p").exists()
