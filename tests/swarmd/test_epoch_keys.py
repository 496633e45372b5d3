"""Vote keys on disk: made once, found by their public part, deleted when their epoch is over."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.errors import StorageError
from protocol.keys import PrivateKey
from swarmd.datadir import DataDir, KeyName
from swarmd.entropy import SeededEntropy
from swarmd.epoch_keys import EpochKeys
from swarmd.keys.key_file import is_encrypted_file
from swarmd.keys.key_writer import write_key_file
from swarmd.keys.passphrase import no_passphrase

NODE, FIRST = (PrivateKey(bytes([number]) * 32) for number in (1, 2))
PASSPHRASE = b"correct horse battery"


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    directory = DataDir(tmp_path / "node")
    directory.create()
    write_key_file(directory.key_path(KeyName.NODE), NODE)
    write_key_file(directory.key_path(KeyName.VALIDATOR), FIRST)
    return directory


def open_keys(data: DataDir, passphrases=no_passphrase) -> EpochKeys:
    """The keys as a start of the daemon finds them."""
    keys = EpochKeys(data, SeededEntropy(1, "keys"), passphrases)
    keys.load()
    return keys


def test_a_key_is_made_once_and_survives_a_restart(data):
    keys = open_keys(data)
    made = keys.for_epoch(2)
    assert keys.for_epoch(2) is made
    again = open_keys(data)
    assert again.for_epoch(2).public == made.public
    assert again.key_of(made.public) is not None
    assert again.key_of(FIRST.public) is not None
    assert again.key_of(NODE.public) is None
    assert again.key_of(None) is None
    assert data.key_path("validator-2").stat().st_mode & 0o777 == 0o600
    assert keys.for_epoch(3).public != made.public


def test_keys_and_journals_of_epochs_that_are_over_are_deleted(data):
    keys = open_keys(data)
    made = {epoch: keys.for_epoch(epoch) for epoch in (2, 3, 4)}
    for epoch in (1, 2, 3):
        (keys.journal_directory(epoch) / "votes.db").write_bytes(b"votes")
    keys.release_journal()
    count = keys.retire(3, keep=(made[3].public, made[4].public))
    assert count == 2
    assert sorted(path.stem for path in data.keys.glob("validator*")) == [
        "validator-3",
        "validator-4",
    ]
    assert [path.name for path in data.ledger.glob("votes-*")] == ["votes-3"]
    assert open_keys(data).key_of(made[2].public) is None
    assert keys.key_of(FIRST.public) is None
    assert keys.retire(3, keep=(made[3].public,)) == 0


def test_the_first_key_stays_while_the_ledger_counts_on_it_or_knows_nothing(data):
    for keep in ((FIRST.public,), ()):
        assert open_keys(data).retire(1, keep=keep) == 0
        assert data.key_path(KeyName.VALIDATOR).exists()


def test_an_open_journal_is_not_deleted(data):
    keys = open_keys(data)
    held = keys.journal_directory(1)
    keys.retire(5, keep=())
    assert held.exists()
    keys.release_journal()
    keys.retire(5, keep=())
    assert not held.exists()


@pytest.mark.slow
def test_new_keys_are_encrypted_exactly_if_the_node_key_is(data):
    open_keys(data).for_epoch(2)
    assert not is_encrypted_file(data.key_path("validator-2"))
    data.key_path(KeyName.NODE).unlink()
    write_key_file(data.key_path(KeyName.NODE), NODE, PASSPHRASE)
    keys = open_keys(data, lambda _what: PASSPHRASE)
    made = keys.for_epoch(3)
    assert is_encrypted_file(data.key_path("validator-3"))
    assert open_keys(data, lambda _what: PASSPHRASE).for_epoch(3).public == made.public


def test_other_files_are_left_alone_and_damaged_keys_are_reported(data):
    (data.keys / "validator-old.key").write_bytes(b"a note")
    (data.ledger / "votes-copy").mkdir()
    keys = open_keys(data)
    keys.retire(9, keep=())
    assert (data.keys / "validator-old.key").exists()
    assert (data.ledger / "votes-copy").exists()
    broken = data.key_path("validator-7")
    broken.write_bytes(b"no key")
    broken.chmod(0o600)
    with pytest.raises(StorageError):
        open_keys(data)
