"""Drafting, adopting and backing up: what an operator does with a ledger while its daemon rests.

Everything here works on a data directory directly. Adoption needs the daemon to be stopped, which
its lock enforces; a backup is a consistent copy of a running node's ledger as well.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ledger.block_store import BlockStore
from ledger.chain import Chain
from ledger.database import Durability
from ledger.header import Header, decode_header
from ledger.recovery import epoch_after
from protocol.did import KeyPurpose, SubjectKind
from protocol.digest import DidId
from protocol.errors import ConfigError, StorageError
from protocol.governance import (
    RECOVERY_BYTES_MAX,
    Recovery,
    Seat,
    decode_recovery,
    seat_message,
)
from swarmd.datadir import PRIVATE_FILE_MODE, DataDir, read_bounded, storage_errors
from swarmd.enrolment import load_join
from swarmd.entropy import Entropy
from swarmd.epoch_keys import EpochKeys
from swarmd.keys.passphrase import PassphraseSource


def load_recovery(path: Path) -> Recovery:
    """Reads a recovery file without verifying it.

    Raises:
        StorageError: missing or too large.
        VerificationError: not a recovery file.
    """
    return decode_recovery(read_bounded(path, bytes_max=RECOVERY_BYTES_MAX))


def take_seat(
    data: DataDir, recovery: Recovery, entropy: Entropy, passphrases: PassphraseSource
) -> Recovery:
    """Takes a seat in a draft with the keys of a validator whose daemon rests.

    A validator that the ledger knows votes with a key made for the coming epoch; one that it does
    not know enters with the vote key of its record.

    Returns:
        The draft with one more seat.

    Raises:
        ConfigError: this node is no validator.
        PolicyError: governance keys have signed the draft already.
        EncodingError: this validator has a seat already.
        StorageError: the daemon runs, or keys cannot be read or written.
    """
    join = load_join(data.join)
    if join.record.kind is not SubjectKind.VALIDATOR:
        raise ConfigError(f"{data.path} is a {join.role}, only validators take seats")
    last = decode_header(recovery.plan.header)
    with data.lock():
        keys = EpochKeys(data, entropy, passphrases)
        keys.load()
        is_known = _is_known(data, join.record.did)
        own = join.record.key(KeyPurpose.VALIDATOR)
        key = keys.for_epoch(epoch_after(last)) if is_known else keys.key_of(own)
    if key is None:
        raise StorageError(f"{data.keys}: the vote key of this node's record is not there")
    message = seat_message(last.chain, recovery.plan.era, join.record.did, last.block_id)
    seat = Seat(did=join.record.did, key=key.public, proof=key.sign(message))
    return recovery.with_seat(seat, None if is_known else join.statement)


def _is_known(data: DataDir, did: DidId) -> bool:
    """Whether this node's own ledger has a record of its DID; a node without a ledger is new."""
    if not data.ledger_file.is_file():
        return data.genesis.is_file() and data.load_genesis().record(did) is not None
    with contextlib.closing(BlockStore(data.ledger_file, Durability.FULL)) as store:
        return Chain.open(store, data.load_genesis()).subject(did) is not None


def adopt_recovery(data: DataDir, recovery: Recovery, *, backup: Path | None = None) -> Header:
    """Begins the era of a recovery in the ledger of a stopped node.

    Args:
        data: its data directory.
        recovery: the file's content, untrusted.
        backup: another node's ledger to start from, for a node that holds none; its head must be
            the header that governance names, and every part of it is checked against that.

    Returns:
        The header of the first block of the era.

    Raises:
        NotYetError: `recovery.behind`: this copy has not caught up.
        PolicyError: `recovery.*`.
        VerificationError: governance does not agree, or goes on from another block (fork).
        StorageError: the daemon runs, or the ledger cannot be read or written.
        ConfigError: a backup is given, but this node has a ledger.
    """
    data.check_usable()
    genesis = data.load_genesis()
    path = data.ledger_file
    with data.lock():
        data.bind_chain(genesis.chain)
        if backup is not None:
            _restore(backup, path, recovery)
        with contextlib.closing(BlockStore(path, Durability.FULL)) as store:
            return Chain.open(store, genesis).recover(recovery)


def _restore(backup: Path, path: Path, recovery: Recovery) -> None:
    """Puts a backup in place of a ledger that is not there yet, once all of it was checked."""
    if path.exists():
        raise ConfigError(f"{path} exists: a backup is for a node without a ledger")
    named = decode_header(recovery.plan.header)
    with _beside(path) as beside:
        _copy_database(backup, beside)
        with contextlib.closing(BlockStore(beside, Durability.FULL)) as store:
            head, _ = store.head()
            if head.block_id != named.block_id:
                raise StorageError(
                    f"{backup}: its head is block {head.height}, "
                    f"governance goes on from {named.height}"
                )
            store.check()
        with _sqlite_errors(f"cannot settle {backup}"):
            database = sqlite3.connect(beside)
            database.execute("PRAGMA journal_mode=DELETE")
            database.close()


def back_up(data: DataDir, target: Path) -> None:
    """Writes a consistent copy of a node's ledger, also while its daemon runs.

    Own transactions that wait are left out; keys, images and receipts are elsewhere.

    Raises:
        StorageError: there is no ledger, or the copy cannot be written.
    """
    source = data.ledger_file
    if not source.is_file():
        raise StorageError(f"{source}: no ledger there")
    if target.exists():
        raise StorageError(f"{target} exists: refusing to overwrite it")
    with _beside(target) as beside:
        _copy_database(source, beside)


def _copy_database(source: Path, target: Path) -> None:
    """Copies a database page by page, consistent even while it is written."""
    with (
        _sqlite_errors(f"cannot copy {source}"),
        contextlib.closing(
            sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)
        ) as old,
        contextlib.closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)
        new.execute("DELETE FROM pending")
        new.commit()
        new.execute("PRAGMA journal_mode=DELETE")


@contextlib.contextmanager
def _sqlite_errors(what: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(f"{what}: {error}") from error


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A temporary file that becomes `target`, durably, unless the block fails."""
    with storage_errors(f"cannot write {target}"):
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    beside = Path(name)
    try:
        os.fchmod(descriptor, PRIVATE_FILE_MODE)
        yield beside
        with storage_errors(f"cannot write {target}"):
            os.fsync(descriptor)
            beside.rename(target)
            _sync_folder(target.parent)
    finally:
        os.close(descriptor)
        beside.unlink(missing_ok=True)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
