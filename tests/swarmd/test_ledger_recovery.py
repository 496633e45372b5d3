"""Backups, seats and adoption on data directories: what must not be overwritten, and who may."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from ledger.block_store import BlockStore
from ledger.chain import Chain
from ledger.database import Durability
from ledger.errors import LedgerError
from protocol.did import SubjectKind
from protocol.errors import ConfigError, EncodingError, PolicyError, StorageError
from protocol.governance import Recovery, RecoveryPlan
from swarmd.clock import SystemClock
from swarmd.config import Endpoint
from swarmd.datadir import DataDir, load_key
from swarmd.enrolment import NodePlan, create_node
from swarmd.entropy import SeededEntropy
from swarmd.keys.passphrase import no_passphrase
from swarmd.ledger_recovery import adopt_recovery, back_up, load_recovery, take_seat
from swarmd.network_creation import LabOptions, create_lab, node_config

pytestmark = pytest.mark.slow
VALIDATORS = [f"validator-{number}" for number in range(1, 5)]


class Site:
    """A laboratory at rest, whose ledgers hold genesis."""

    def __init__(self, path: Path) -> None:
        self.path = path / "lab"
        create_lab(self.path, LabOptions(gateways=1), SeededEntropy(5, "site"), SystemClock())
        for name in [*VALIDATORS, "gateway-1"]:
            self.open_ledger(name)

    def directory(self, name: str) -> DataDir:
        return DataDir(self.path / name)

    def open_ledger(self, name: str) -> None:
        data = self.directory(name)
        store = BlockStore(data.ledger_file, Durability.FULL)
        self.header = Chain.open(store, data.load_genesis()).head
        store.close()

    def draft(self) -> Recovery:
        plan = RecoveryPlan(
            era=1,
            header=self.header.encoded,
            certificate=b"",
            time_ms=self.header.time_ms + 1000,
            seats=(),
            joins=(),
        )
        return Recovery(plan=plan, approvals=())

    def seat(self, recovery: Recovery, name: str) -> Recovery:
        entropy = SeededEntropy(6, name)
        return take_seat(self.directory(name), recovery, entropy, no_passphrase)

    def complete(self) -> Recovery:
        recovery = self.draft()
        for name in VALIDATORS:
            recovery = self.seat(recovery, name)
        for path in sorted((self.path / "keys").glob("governance-*.key"))[:2]:
            recovery = recovery.signed_by(load_key(path), self.header.chain)
        return recovery

    def newcomer(self, kind: SubjectKind = SubjectKind.VALIDATOR) -> DataDir:
        endpoint = Endpoint("127.0.0.1", 7999)
        plan = NodePlan(
            kind=kind, name="newcomer", groups=("fleet",), reachable=(("127.0.0.1", 7999),)
        )
        data = self.directory("newcomer")
        create_node(
            data,
            plan,
            node_config(plan, listen=(endpoint,), http=None),
            SeededEntropy(7, "newcomer"),
        )
        data.genesis.write_bytes(self.directory("gateway-1").genesis.read_bytes())
        return data


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_survivors_adopt_a_file_once(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "recovery.cbor"
    file.write_bytes(site.complete().encode())
    recovery = load_recovery(file)
    heads = [adopt_recovery(site.directory(name), recovery) for name in [*VALIDATORS, "gateway-1"]]
    assert len({head.block_id for head in heads}) == 1
    with pytest.raises(LedgerError) as caught:
        adopt_recovery(site.directory("gateway-1"), recovery)
    assert caught.value.rule == "recovery.era"


def test_a_running_daemon_is_in_the_way(site: Site) -> None:
    recovery = site.complete()
    with site.directory("gateway-1").lock(), pytest.raises(StorageError, match="in use"):
        adopt_recovery(site.directory("gateway-1"), recovery)
    with site.directory("validator-1").lock(), pytest.raises(StorageError, match="in use"):
        site.seat(site.draft(), "validator-1")


def test_a_seat_is_taken_once_by_validators_and_before_anybody_signs(site: Site) -> None:
    seated = site.seat(site.draft(), "validator-1")
    with pytest.raises(EncodingError, match="two seats"):
        site.seat(seated, "validator-1")
    with pytest.raises(ConfigError, match="only validators"):
        site.seat(seated, "gateway-1")
    with pytest.raises(PolicyError, match="signed"):
        site.seat(site.complete(), "validator-1")


def test_a_survivors_key_for_the_new_epoch_is_on_its_disk(site: Site) -> None:
    seated = site.seat(site.draft(), "validator-2")
    key = site.directory("validator-2").load_key("validator-2")
    assert key.public == seated.plan.seats[0].key
    assert seated.plan.joins == ()


def test_a_newcomer_starts_from_a_survivors_ledger(site: Site, tmp_path: Path) -> None:
    backup = tmp_path / "survivor.db"
    back_up(site.directory("gateway-1"), backup)
    newcomer = site.newcomer()
    recovery = site.complete()
    header = adopt_recovery(newcomer, recovery, backup=backup)
    assert header == adopt_recovery(site.directory("validator-1"), recovery)
    with pytest.raises(ConfigError, match="without a ledger"):
        adopt_recovery(newcomer, recovery, backup=backup)


def test_a_newcomers_record_enters_with_its_seat(site: Site) -> None:
    newcomer = site.newcomer()
    seated = take_seat(newcomer, site.draft(), SeededEntropy(8, "x"), no_passphrase)
    assert len(seated.plan.joins) == 1
    assert seated.plan.seats[0].key == newcomer.load_key("validator").public


def test_a_damaged_or_foreign_backup_leaves_nothing_behind(site: Site, tmp_path: Path) -> None:
    backup = tmp_path / "survivor.db"
    back_up(site.directory("gateway-1"), backup)
    newcomer, recovery = site.newcomer(), site.complete()
    database = sqlite3.connect(backup)
    changed = database.execute("UPDATE nodes SET node = zeroblob(40) WHERE number = 2").rowcount
    assert changed == 1
    database.commit()
    database.close()
    with pytest.raises(StorageError):
        adopt_recovery(newcomer, recovery, backup=backup)
    assert list(newcomer.ledger.iterdir()) == []
    backup.write_bytes(b"no database at all" * 100)
    with pytest.raises(StorageError):
        adopt_recovery(newcomer, recovery, backup=backup)
    assert list(newcomer.ledger.iterdir()) == []


def test_a_backup_overwrites_nothing_and_leaves_out_what_waits(site: Site, tmp_path: Path) -> None:
    data = site.directory("gateway-1")
    database = sqlite3.connect(data.ledger_file)
    database.execute("INSERT INTO pending VALUES (x'01', 1, x'02')")
    database.commit()
    database.close()
    backup = tmp_path / "survivor.db"
    back_up(data, backup)
    copied = sqlite3.connect(backup)
    assert copied.execute("SELECT count(*) FROM pending").fetchone() == (0,)
    copied.close()
    with pytest.raises(StorageError, match="overwrite"):
        back_up(data, backup)
    empty = site.newcomer()
    with pytest.raises(StorageError, match="no ledger"):
        back_up(empty, tmp_path / "other.db")
