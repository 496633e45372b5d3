"""`doctor`: each kind of trouble is found, and comes with its mend."""

from __future__ import annotations

import shutil
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmd.cli.checks import examine
from swarmd.clock import ManualClock
from swarmd.datadir import DataDir, write_atomic
from swarmd.entropy import SeededEntropy
from swarmd.network_creation import LabOptions, create_lab
from tests.support.control_daemon import ControlDaemon
from tests.support.ledger import authorise, make_lab
from tests.swarmd.cli.conftest import Ended, Run

NOW_MS = 1_700_000_000_000


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = LabOptions(gateways=1, publishers=0, base_port=20_000)
    folder = tmp_path_factory.mktemp("lab") / "lab"
    lab = create_lab(folder, options, SeededEntropy(1), ManualClock(wall_ms=NOW_MS))
    return lab.nodes[4].directory.path


@pytest.fixture
def gateway(template: Path, tmp_path: Path) -> DataDir:
    directory = DataDir(shutil.copytree(template, tmp_path / "gateway-1"))
    change(directory, "quota_bytes = 8589934592", "quota_bytes = 1048576")
    change(directory, '"127.0.0.1:20004"', '"127.0.0.1:0"')
    change(directory, '"127.0.0.1:20005"', '"off"')
    return directory


def change(directory: DataDir, old: str, new: str) -> None:
    text = directory.config.read_text()
    assert old in text
    write_atomic(directory.config, text.replace(old, new).encode())


def only_wrong(ended: Ended) -> dict[str, str]:
    (wrong,) = [check for check in ended.document["checks"] if not check["ok"]]
    assert ended.code == 1
    assert ended.document["ok"] is False
    assert wrong["mend"]
    assert "\n" not in wrong["mend"] + wrong["detail"]
    assert ended.reason == f"1 of {len(ended.document['checks'])} checks failed: {wrong['check']}"
    return wrong


def test_a_sound_node_has_nothing_wrong(swarmd: Run, gateway: DataDir) -> None:
    ended = swarmd("doctor", "-C", gateway.path)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.count("ok   ") == 10
    document = swarmd("doctor", "-C", gateway.path, "--json").document
    assert document["ok"] is True
    assert [check["check"] for check in document["checks"]] == [
        "config", "permissions", "keys", "lock", "chain", "clock", "disk", "ports", "databases",
        "ledger",
    ]  # fmt: skip


def test_a_mend_is_shown_below_its_trouble(swarmd: Run, gateway: DataDir) -> None:
    gateway.keys.chmod(0o755)
    ended = swarmd("doctor", "-C", gateway.path)
    assert "WRONG permissions: others may read" in ended.out
    assert "      mend: chmod go= " in ended.out


def loosen_a_key(gateway: DataDir) -> None:
    gateway.key_path("next-node").chmod(0o644)


def swap_a_key(gateway: DataDir) -> None:
    write_atomic(gateway.key_path("node"), gateway.key_path("next-node").read_bytes())


def lose_a_key(gateway: DataDir) -> None:
    gateway.key_path("transport").unlink()


def damage_the_join_file(gateway: DataDir) -> None:
    gateway.join.write_text("{}")


def lose_genesis(gateway: DataDir) -> None:
    gateway.genesis.unlink()


def damage_genesis(gateway: DataDir) -> None:
    gateway.genesis.write_bytes(b"nonsense")


def change_the_chain(gateway: DataDir) -> None:
    gateway.chain_file.write_text("00" * 32 + "\n")


def want_too_much_disk(gateway: DataDir) -> None:
    change(gateway, "quota_bytes = 1048576", f"quota_bytes = {1 << 50}")


def damage_a_database(gateway: DataDir) -> None:
    path = gateway.ledger / "ledger.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE a (b BLOB)")
    connection.execute("INSERT INTO a SELECT randomblob(900) FROM (VALUES (1),(2),(3),(4),(5),(6))")
    connection.commit()
    connection.close()
    data = bytearray(path.read_bytes())
    data[4096:8192] = b"\xff" * 4096
    path.write_bytes(data)


def spoil_ledger(gateway: DataDir, statement: str) -> None:
    """Makes a sound ledger of three blocks, then changes a row SQLite finds nothing wrong with."""
    lab = make_lab()
    chain = lab.open_chain(gateway.ledger_file)
    authorise(lab, chain, lab.manifest())
    chain._store._database.execute(statement)
    chain._store.close()


def damage_the_state(gateway: DataDir) -> None:
    spoil_ledger(gateway, "UPDATE state SET mark = zeroblob(8)")


def lose_a_log_entry(gateway: DataDir) -> None:
    spoil_ledger(gateway, "DELETE FROM log WHERE position = 0")


@pytest.mark.parametrize(
    ("spoil", "check", "words"),
    [
        (loosen_a_key, "permissions", "next-node.key"),
        (swap_a_key, "keys", "node key"),
        (lose_a_key, "keys", "cannot read key"),
        (damage_the_join_file, "keys", "not a join file"),
        (lose_genesis, "chain", "no genesis.cbor"),
        (change_the_chain, "chain", "belongs to chain 00000000"),
        (want_too_much_disk, "disk", "MiB free"),
        (damage_a_database, "databases", "ledger.sqlite"),
        (damage_the_state, "ledger", "damaged index"),
        (lose_a_log_entry, "ledger", "damaged log"),
    ],
)
def test_each_trouble_is_found_alone(
    swarmd: Run, gateway: DataDir, spoil: object, check: str, words: str
) -> None:
    spoil(gateway)  # type: ignore[operator]
    wrong = only_wrong(swarmd("doctor", "-C", gateway.path, "--json"))
    assert wrong["check"] == check
    assert words in wrong["detail"]


def test_a_damaged_genesis_is_found_by_all_that_need_it(swarmd: Run, gateway: DataDir) -> None:
    damage_genesis(gateway)
    document = swarmd("doctor", "-C", gateway.path, "--json").document
    assert [check["check"] for check in document["checks"] if not check["ok"]] == ["chain", "clock"]


def test_a_broken_configuration_is_found_by_all_that_need_it(swarmd: Run, gateway: DataDir) -> None:
    write_atomic(gateway.config, b"[nodes]\n")
    document = swarmd("doctor", "-C", gateway.path, "--json").document
    wrong = [check for check in document["checks"] if not check["ok"]]
    assert [check["check"] for check in wrong] == ["config", "disk", "ports"]
    assert "the nearest known is 'node'" in wrong[0]["detail"]


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.network
def test_a_taken_port_is_found(swarmd: Run, gateway: DataDir, taken_port: int) -> None:
    change(gateway, '"127.0.0.1:0"', f'"127.0.0.1:{taken_port}"')
    wrong = only_wrong(swarmd("doctor", "-C", gateway.path, "--json"))
    assert wrong["detail"] == f"cannot listen on 127.0.0.1:{taken_port}: Address already in use"


def test_an_undamaged_database_passes(gateway: DataDir) -> None:
    connection = sqlite3.connect(gateway.ledger / "ledger.sqlite")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE a (b)")
    connection.commit()
    connection.close()
    findings = {finding.check: finding for finding in examine(gateway, ManualClock(wall_ms=NOW_MS))}
    assert findings["databases"].ok
    assert findings["databases"].detail == "1 without damage"


def test_a_validator_need_not_keep_the_vote_key_of_its_record(
    template: Path, tmp_path: Path
) -> None:
    """It is deleted when its epoch is over; every other key must be there."""
    validator = DataDir(shutil.copytree(template.parent / "validator-1", tmp_path / "validator-1"))

    def keys_are_well() -> bool:
        findings = examine(validator, ManualClock(wall_ms=NOW_MS))
        return next(finding.ok for finding in findings if finding.check == "keys")

    validator.key_path("validator").unlink()
    assert keys_are_well()
    validator.key_path("node").unlink()
    assert not keys_are_well()


def test_a_clock_before_the_chain_is_found(gateway: DataDir) -> None:
    findings = {finding.check: finding for finding in examine(gateway, ManualClock(wall_ms=0))}
    assert [check for check, finding in findings.items() if not finding.ok] == ["clock"]
    assert "NTP" in findings["clock"].mend


def test_the_chain_of_a_started_node_is_shown(gateway: DataDir) -> None:
    chain = gateway.load_genesis().chain
    gateway.bind_chain(chain)
    findings = {finding.check: finding for finding in examine(gateway, ManualClock(wall_ms=NOW_MS))}
    assert findings["chain"].detail == chain.hex()


def test_a_running_daemon_is_asked_as_well(swarmd: Run, gateway: DataDir) -> None:
    answers = [
        {"check": "peers", "ok": True, "detail": "3 validators"},
        {"check": "alarm", "ok": False, "detail": "owners disagree"},
    ]
    with (
        gateway.lock(),
        ControlDaemon({"doctor": lambda _params: answers}).running(gateway.control_socket),
    ):
        ended = swarmd("doctor", "-C", gateway.path, "--json")
    wrong = only_wrong(ended)
    assert (wrong["check"], wrong["detail"]) == ("daemon: alarm", "owners disagree")
    names = {check["check"]: check["detail"] for check in ended.document["checks"]}
    assert names["daemon: peers"] == "3 validators"
    assert names["ports"] == "held by the daemon"
    assert names["lock"].startswith("daemon runs with process id")


def test_a_daemon_that_does_not_answer_is_found(swarmd: Run, gateway: DataDir) -> None:
    with gateway.lock():
        wrong = only_wrong(swarmd("doctor", "-C", gateway.path, "--json"))
    assert wrong["check"] == "daemon"


def test_a_folder_that_is_no_node_is_a_usage_error(swarmd: Run, tmp_path: Path) -> None:
    assert swarmd("doctor", "-C", tmp_path).code == 2
