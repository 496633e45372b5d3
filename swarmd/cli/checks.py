"""The checks of `swarmd doctor` that need no daemon: each finds one kind of trouble and its mend.

A check never raises for what it looks for; it says what it found. Whatever else goes wrong inside
one (an `OSError`, a `SwarmError`) becomes that check's finding.
"""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from protocol.did import KeyPurpose
from protocol.errors import StorageError, SwarmError
from protocol.keys import PublicKey
from swarmd.clock import Clock
from swarmd.control.protocol import one_line
from swarmd.datadir import DataDir
from swarmd.enrolment import KEY_NAMES, load_join
from swarmd.key_rotation import ROTATED_NAME
from swarmd.keys.key_file import is_encrypted_file

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_SQLITE_MAGIC: Final = b"SQLite format 3\0"
_CHAIN_DIGITS: Final = 64
_FREE_BYTES_MIN: Final = 256 * 1024 * 1024
"""Free space that the ledger and a download in progress need beside the images, bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found."""

    check: str
    """Short stable name."""
    ok: bool
    """Whether all is well."""
    detail: str
    """What was found, one line."""
    mend: str = ""
    """What to do about it, one line; empty if all is well."""

    def to_json(self) -> JSON:
        """The form of `--json`."""
        return {"check": self.check, "ok": self.ok, "detail": self.detail, "mend": self.mend}


def check_config(directory: DataDir, _clock: Clock) -> Finding:
    """The configuration can be read and every value is in range."""
    config = directory.load_config()
    groups = ", ".join(config.node.groups) or "no groups"
    return Finding(
        check="config", ok=True, detail=f"{len(config.network.bootstrap)} peers, {groups}"
    )


def check_permissions(directory: DataDir, _clock: Clock) -> Finding:
    """The directory belongs to this user; nobody else reads its keys."""
    owner = directory.path.stat().st_uid
    if owner != os.geteuid() and os.geteuid() != 0:
        return Finding(
            check="permissions",
            ok=False,
            detail=f"belongs to user id {owner}, you are {os.geteuid()}",
            mend=f"run as that user, or: chown -R {os.geteuid()} {directory.path}",
        )
    loose = [
        path
        for path in (directory.keys, *sorted(directory.keys.glob("*.key")))
        if path.stat().st_mode & _OTHERS
    ]
    if loose:
        return Finding(
            check="permissions",
            ok=False,
            detail=f"others may read {loose[0]}",
            mend=f"chmod go= {directory.keys} {directory.keys}/*.key",
        )
    return Finding(check="permissions", ok=True, detail="keys are readable by their owner alone")


def check_keys(directory: DataDir, _clock: Clock) -> Finding:
    """Every key of the node's record is there and is the one recorded."""
    record = load_join(directory.join).record
    if (directory.keys / ROTATED_NAME).exists():
        detail = "rotated, so not compared with join.json, which shows the first ones"
        return Finding(check="keys", ok=True, detail=detail)
    keys = [
        (purpose, key)
        for purpose, key in record.keys
        # A validator deletes the vote key of its record when that key's epoch is over (E23).
        if purpose is not KeyPurpose.VALIDATOR or directory.key_path(KEY_NAMES[purpose]).exists()
    ]
    files = [directory.key_path(KEY_NAMES[purpose]) for purpose, _ in keys]
    sealed = sum(is_encrypted_file(file) for file in files)
    if sealed:
        detail = f"{sealed} keys are encrypted, so not compared (see swarmd keys show)"
        return Finding(check="keys", ok=True, detail=detail)
    for purpose, recorded in keys:
        held = directory.load_key(KEY_NAMES[purpose]).public
        if held != recorded:
            return Finding(
                check="keys",
                ok=False,
                detail=f"{purpose.name.lower()} key {_short(held)}, recorded {_short(recorded)}",
                mend="put back the key file that belongs to join.json",
            )
    return Finding(check="keys", ok=True, detail=f"{len(keys)} keys match join.json")


def _short(key: PublicKey) -> str:
    return key.raw[:4].hex()


def check_lock(directory: DataDir, _clock: Clock) -> Finding:
    """Says whether a daemon runs; both answers are well."""
    holder = directory.lock_holder()
    state = "no daemon runs" if holder is None else f"daemon runs with process id {holder}"
    return Finding(check="lock", ok=True, detail=state)


def check_chain(directory: DataDir, _clock: Clock) -> Finding:
    """The genesis document is valid and of the chain that this directory belongs to."""
    if not directory.genesis.exists():
        return Finding(
            check="chain",
            ok=False,
            detail="no genesis.cbor",
            mend=f"copy the network's genesis.cbor to {directory.genesis}",
        )
    chain = directory.load_genesis().chain
    if not directory.chain_file.exists():
        return Finding(check="chain", ok=True, detail=f"{chain.hex()[:8]}, not started yet")
    marked = directory.chain_file.read_text("ascii", "replace")[: _CHAIN_DIGITS + 1].strip()
    if marked != chain.hex():
        return Finding(
            check="chain",
            ok=False,
            detail=f"belongs to chain {marked[:8]}, genesis.cbor is of {chain.hex()[:8]}",
            mend="put back the first genesis.cbor, or make a new directory for the other chain",
        )
    return Finding(check="chain", ok=True, detail=chain.hex())


def check_clock(directory: DataDir, clock: Clock) -> Finding:
    """The wall clock is not before the chain began."""
    if not directory.genesis.exists():
        return Finding(check="clock", ok=True, detail="nothing to compare with yet")
    if clock.wall_ms() < directory.load_genesis().time_ms:
        return Finding(
            check="clock",
            ok=False,
            detail="the wall clock is before the first block of the chain",
            mend="set the clock or start NTP; a validator with this clock cannot propose blocks",
        )
    return Finding(check="clock", ok=True, detail="after the first block of the chain")


def check_disk(directory: DataDir, _clock: Clock) -> Finding:
    """There is room for what the quota still allows."""
    storage = directory.load_config().storage
    quota = storage.quota_bytes
    used = sum(path.stat().st_size for path in directory.images.rglob("*") if path.is_file())
    free = shutil.disk_usage(directory.path).free
    needed = max(quota - used, 0) + max(_FREE_BYTES_MIN, storage.reserve_bytes)
    detail = f"{free >> 20} MiB free, images may still take {max(quota - used, 0) >> 20} MiB"
    if free < needed:
        return Finding(
            check="disk",
            ok=False,
            detail=detail,
            mend="free some space, or lower storage.quota_bytes in config.toml",
        )
    return Finding(check="disk", ok=True, detail=detail)


def check_ports(directory: DataDir, _clock: Clock) -> Finding:
    """The addresses to listen on are this machine's and free, unless the daemon holds them."""
    if directory.lock_holder() is not None:
        return Finding(check="ports", ok=True, detail="held by the daemon")
    config = directory.load_config()
    endpoints = [*config.network.listen, *([config.http.listen] if config.http.listen else [])]
    for endpoint in endpoints:
        family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((endpoint.host, endpoint.port))
            except OSError as error:
                return Finding(
                    check="ports",
                    ok=False,
                    detail=f"cannot listen on {endpoint}: {error.strerror}",
                    mend="stop what uses it, or change network.listen or http.listen",
                )
    return Finding(check="ports", ok=True, detail=f"{len(endpoints)} addresses are free")


def check_databases(directory: DataDir, _clock: Clock) -> Finding:
    """SQLite finds no damage in the databases of a node that does not run."""
    if directory.lock_holder() is not None:
        return Finding(check="databases", ok=True, detail="in use; stop the daemon to check them")
    databases = [
        path for path in sorted(directory.path.rglob("*")) if path.is_file() and _is_database(path)
    ]
    for path in databases:
        if problem := _database_problem(path):
            return Finding(
                check="databases",
                ok=False,
                detail=one_line(f"{path}: {problem}"),
                mend="a gateway or publisher: remove ledger/ and start again, it refetches the "
                "chain; a validator: never, see docs/operations.md",
            )
    return Finding(check="databases", ok=True, detail=f"{len(databases)} without damage")


def _is_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC


def _database_problem(path: Path) -> str | None:
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
        try:
            (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        return str(error)
    return None if answer == "ok" else str(answer)


def check_ledger(directory: DataDir, _clock: Clock) -> Finding:
    """Every node of the state and every hash of the log belong to the last final header."""
    path = directory.ledger_file
    if not path.exists():
        return Finding(check="ledger", ok=True, detail="not started yet")
    if directory.lock_holder() is not None:
        return Finding(check="ledger", ok=True, detail="in use; stop the daemon to check it")
    from ledger.block_store import BlockStore
    from ledger.database import Durability

    store = BlockStore(path, Durability.BATCHED)
    try:
        if store.identity() is None:
            return Finding(check="ledger", ok=True, detail="empty")
        header, log = store.head()[0], store.log()
        committed = (header.state_root, header.log_size, header.log_root)
        if (store.nodes.tree().root, log.size, log.root) != committed:
            raise StorageError(f"{path}: damaged, not the state of block {header.height}")
        keys, entries = store.check()
    finally:
        store.close()
    return Finding(
        check="ledger",
        ok=True,
        detail=f"block {header.height}: {keys} keys and {entries} log entries without damage",
    )


CHECKS: Final[tuple[tuple[str, Callable[[DataDir, Clock], Finding], str], ...]] = (
    ("config", check_config, "correct config.toml; docs/configuration.md lists every setting"),
    ("permissions", check_permissions, "make the folder readable for its owner"),
    ("keys", check_keys, "put back the files of keys/ and join.json that belong together"),
    ("lock", check_lock, "make the folder readable for its owner"),
    ("chain", check_chain, "copy the network's genesis.cbor into the folder"),
    ("clock", check_clock, "copy the network's genesis.cbor into the folder"),
    ("disk", check_disk, "make the folder readable for its owner"),
    ("ports", check_ports, "correct config.toml"),
    ("databases", check_databases, "make the folder readable for its owner"),
    (
        "ledger",
        check_ledger,
        "a gateway or publisher: remove ledger/, start again; a validator: see docs/operations.md",
    ),
)
"""Name, check, and the mend if the check itself cannot run."""


def examine(directory: DataDir, clock: Clock) -> list[Finding]:
    """Runs every check, whatever the others found."""
    findings: list[Finding] = []
    for name, check, mend in CHECKS:
        try:
            findings.append(check(directory, clock))
        except SwarmError as error:
            detail = one_line(str(error))
            findings.append(Finding(check=name, ok=False, detail=detail, mend=mend))
        except OSError as error:
            detail = f"{error.filename}: {error.strerror}"
            findings.append(Finding(check=name, ok=False, detail=detail, mend=mend))
    return findings
