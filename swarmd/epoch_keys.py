"""Vote keys on disk: one file for each epoch, made early, deleted when the epoch is over.

`keys/validator.key` is the key of the node's record; it votes in the first epoch the node sits in.
`keys/validator-<epoch>.key` is that of a later one. Beside each key lives its own vote journal, so
that damage to one costs one epoch. A key whose epoch is over is deleted: whoever breaks in later
finds nothing to forge an old epoch's chain with (E23). Calls touch the disk: a host makes them in
worker threads, one at a time.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from protocol.errors import StorageError
from protocol.keys import PrivateKey, PublicKey
from swarmd.datadir import DataDir, KeyName, storage_errors, sync_directory
from swarmd.entropy import Entropy
from swarmd.keys.key_file import is_encrypted_file, load_key_file
from swarmd.keys.key_writer import write_key_file
from swarmd.keys.passphrase import PassphraseSource

FILES_MAX: Final = 64
"""Vote key files looked at; a node holds a handful."""
_PREFIX: Final = f"{KeyName.VALIDATOR}-"


class EpochKeys:
    """The vote keys and vote journals of one validator."""

    def __init__(self, data: DataDir, entropy: Entropy, passphrases: PassphraseSource) -> None:
        """Names the data directory; `load` reads it.

        Args:
            data: its data directory.
            entropy: seeds of new keys.
            passphrases: asked if the node's keys are encrypted.
        """
        self._data = data
        self._entropy = entropy
        self._passphrases = passphrases
        self._keys: dict[int, PrivateKey] = {}
        self._journal_epoch: int | None = None

    def load(self) -> None:
        """Reads every vote key that is there; deletes copies that a power loss left beside them.

        Raises:
            StorageError: one is damaged or open to others, or a copy cannot be deleted.
        """
        self._drop_copies()
        first = self._data.key_path(KeyName.VALIDATOR)
        if first.exists():
            self._keys[0] = load_key_file(first, self._passphrases)
        for epoch, path in self._epoch_files():
            self._keys[epoch] = load_key_file(path, self._passphrases)

    def _drop_copies(self) -> None:
        """A file is written under another name first; nothing else would ever delete that one."""
        with storage_errors("cannot delete an unfinished vote key"):
            left = sorted(self._data.keys.glob(f".{KeyName.VALIDATOR}*.key.*"))
            for path in left:
                path.unlink(missing_ok=True)
            if left:
                sync_directory(self._data.keys)

    def _epoch_files(self) -> list[tuple[int, Path]]:
        found: list[tuple[int, Path]] = []
        for path in sorted(self._data.keys.glob(f"{_PREFIX}*.key"))[:FILES_MAX]:
            number = path.stem.removeprefix(_PREFIX)
            if number.isdecimal() and len(number) < 19:
                found.append((int(number), path))
        return found

    def key_of(self, public: PublicKey | None) -> PrivateKey | None:
        """The private key to a seat's vote key, or None if this node does not hold it."""
        return next((key for key in self._keys.values() if key.public == public), None)

    def for_epoch(self, epoch: int) -> PrivateKey:
        """The key made for a coming epoch; makes it, durably, when there is none.

        Raises:
            StorageError: it cannot be written.
        """
        known = self._keys.get(epoch)
        if known is None:
            known = PrivateKey(self._entropy.token(32))
            write_key_file(self._path(epoch), known, self._passphrase())
            self._keys = {**self._keys, epoch: known}  # others read it meanwhile
        return known

    def _path(self, epoch: int) -> Path:
        return self._data.key_path(f"{_PREFIX}{epoch}")

    def _passphrase(self) -> bytes | None:
        """New keys are encrypted exactly if the node key is."""
        node = self._data.key_path(KeyName.NODE)
        return self._passphrases(f"key {node}") if is_encrypted_file(node) else None

    def retire(self, epoch: int, *, keep: tuple[PublicKey, ...], is_known: bool = False) -> int:
        """Deletes keys and journals of epochs before `epoch`.

        Args:
            epoch: the current one.
            keep: keys that the ledger knows for this epoch and later ones.
            is_known: whether the ledger knows this validator; then it counts on no other key, and
                the record's own has served. One that it does not know may still take its seat.

        Returns:
            How many keys were deleted.

        Raises:
            StorageError: one could not be deleted.
        """
        gone = [held for held in self._keys if 0 < held < epoch]
        first = self._keys.get(0)
        if first is not None and (keep or is_known) and first.public not in keep:
            gone.append(0)
        with storage_errors("cannot delete a retired vote key"):
            for held in gone:
                path = self._path(held) if held else self._data.key_path(KeyName.VALIDATOR)
                path.unlink(missing_ok=True)
            if gone:
                sync_directory(self._data.keys)
        self._keys = {held: key for held, key in self._keys.items() if held not in gone}
        self._drop_journals(epoch)
        return len(gone)

    def _drop_journals(self, epoch: int) -> None:
        for path in self._data.ledger.glob("votes-*"):
            number = path.name.removeprefix("votes-")
            if number.isdecimal() and int(number) < epoch and int(number) != self._journal_epoch:
                shutil.rmtree(path, ignore_errors=True)

    def journal_directory(self, epoch: int) -> Path:
        """Where the votes of an epoch's key are kept; made if it is missing.

        It stays, whatever else is retired, until `release_journal`.

        Raises:
            StorageError: it cannot be made.
        """
        path = self._data.ledger / f"votes-{epoch}"
        self._journal_epoch = epoch
        try:
            path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot create {path}: {error}") from error
        return path

    def release_journal(self) -> None:
        """Says that the journal of the last `journal_directory` is closed."""
        self._journal_epoch = None
