"""The data directory: everything a node keeps, and the guards around it.

One daemon at a time (an exclusive lock), one chain for ever (a marker), one user (owner and modes
of keys are checked). The daemon writes nowhere else. Layout: see `DataDir`. Files appear whole or
not at all: written beside, flushed, renamed, and the directory flushed (`write_atomic`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Final

from protocol.digest import ChainId, short
from protocol.errors import ConfigError, EncodingError, StorageError
from protocol.genesis import GENESIS_BYTES_MAX, Genesis, decode_genesis
from protocol.keys import PrivateKey
from swarmd.config import Config, load_config
from swarmd.keys.key_file import load_key_file
from swarmd.keys.passphrase import PassphraseSource, no_passphrase

DIRECTORY_MODE: Final = 0o700
"""Only the owner enters a data directory."""
PRIVATE_FILE_MODE: Final = 0o600
"""Only the owner reads keys and state."""
PUBLIC_FILE_MODE: Final = 0o644
"""What is made to be passed on: join files, genesis, proofs."""
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class KeyName(StrEnum):
    """Keys of a node's `keys/` folder; each file is `<name>.key`."""

    TRANSPORT = "transport"
    """Proves the peer in the handshake."""
    NODE = "node"
    """Signs transactions, announcements and receipts."""
    VALIDATOR = "validator"
    """Signs votes; validators only."""
    PERSON = "person"
    """Signs manifests; publishers only."""

    @property
    def next(self) -> str:
        """Name of the key that the record commits to for the next rotation."""
        return f"next-{self.value}"


@contextlib.contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turns an `OSError` inside the block into a `StorageError` that says what was being done."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise StorageError(f"{what}: {reason}") from error


def sync_directory(path: Path) -> None:
    """Makes new, renamed and deleted names in a folder durable; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_beside(path: Path, data: bytes, mode: int) -> Path:
    """Writes and flushes a temporary file in the directory of `path`."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        os.unlink(name)
        raise
    return Path(name)


def write_atomic(path: Path, data: bytes, *, mode: int = PRIVATE_FILE_MODE) -> None:
    """Replaces a file so that after a crash either the old or the new content is there, durably.

    Raises:
        StorageError: the file system refused; the old content stands.
    """
    with storage_errors(f"cannot write {path}"):
        beside = _write_beside(path, data, mode)
        try:
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def write_new(path: Path, data: bytes, *, mode: int = PRIVATE_FILE_MODE) -> None:
    """Creates a file whole and durably; never replaces one.

    Raises:
        StorageError: it exists already, or the file system refused.
    """
    with storage_errors(f"cannot write {path}"):
        beside = _write_beside(path, data, mode)
        try:
            os.link(beside, path)
        finally:
            beside.unlink()
        sync_directory(path.parent)


def read_bounded(path: Path, *, bytes_max: int) -> bytes:
    """Reads a whole file.

    Raises:
        StorageError: missing, unreadable or over `bytes_max`.
    """
    with storage_errors(f"cannot read {path}"), path.open("rb") as file:
        data = file.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise StorageError(f"{path}: over {bytes_max} bytes")
    return data


def load_key(path: Path, passphrases: PassphraseSource = no_passphrase) -> PrivateKey:
    """Reads a private key that nobody else may read; see `swarmd.keys.key_file.load_key_file`."""
    return load_key_file(path, passphrases)


class DataDir:
    """Paths of one data directory, and how they are opened.

    `config.toml` settings · `genesis.cbor` the chain · `join.json` this node's public record ·
    `keys/` private keys · `ledger/` chain copy · `images/` complete images and downloads ·
    `staging/` images not authorised yet · `receipts/` receipt log · `run/` control socket ·
    `lock` held by the running daemon · `chain` marker of the chain this directory belongs to.
    """

    def __init__(self, path: Path) -> None:
        """Names a directory; nothing is touched."""
        self.path: Final = path.absolute()
        self.config: Final = self.path / "config.toml"
        self.genesis: Final = self.path / "genesis.cbor"
        self.join: Final = self.path / "join.json"
        self.keys: Final = self.path / "keys"
        self.ledger: Final = self.path / "ledger"
        self.ledger_file: Final = self.ledger / "ledger.db"
        self.images: Final = self.path / "images"
        self.staging: Final = self.path / "staging"
        self.receipts: Final = self.path / "receipts"
        self.run: Final = self.path / "run"
        self.control_socket: Final = self.run / "control.sock"
        self.lock_file: Final = self.path / "lock"
        self.chain_file: Final = self.path / "chain"

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders inside, all of mode 0700."""
        return (self.keys, self.ledger, self.images, self.staging, self.receipts, self.run)

    def create(self) -> None:
        """Makes the directory and its folders.

        Raises:
            StorageError: it exists and is not empty, or cannot be made.
        """
        with storage_errors(f"cannot create {self.path}"):
            self.path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            if any(self.path.iterdir()):
                raise StorageError(f"{self.path} is not empty: refusing to overwrite it")
            self.path.chmod(DIRECTORY_MODE)
            for folder in self.folders:
                folder.mkdir(mode=DIRECTORY_MODE)
            sync_directory(self.path)

    def check_usable(self) -> None:
        """Checks that this is a data directory of this user and that it can be written.

        Raises:
            StorageError: missing, no data directory, of another user, or not writable.
        """
        if not self.config.is_file():
            raise StorageError(f"{self.path} is no data directory (it has no config.toml)")
        with storage_errors(f"cannot use {self.path}"):
            owner = self.path.stat().st_uid
            if owner != os.geteuid():
                raise StorageError(
                    f"{self.path} belongs to user id {owner}, this process runs as {os.geteuid()}"
                )
            for folder in self.folders:
                folder.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        with storage_errors(f"cannot write to {self.path}"):
            descriptor, name = tempfile.mkstemp(dir=self.path, prefix=".probe.")
            os.close(descriptor)
            os.unlink(name)
        self._check_keys_folder()

    def _check_keys_folder(self) -> None:
        mode = self.keys.stat().st_mode
        if mode & _OTHERS:
            raise StorageError(
                f"{self.keys} may be entered by others (mode {stat.S_IMODE(mode):04o}); "
                f"mend it with: chmod 700 {self.keys}"
            )

    def key_path(self, name: str) -> Path:
        """Where a key lives: a `KeyName`, or the `next` of one."""
        return self.keys / f"{name}.key"

    def load_key(self, name: str, passphrases: PassphraseSource = no_passphrase) -> PrivateKey:
        """Reads one of this node's keys; see `load_key` above."""
        return load_key(self.key_path(name), passphrases)

    def load_config(self) -> Config:
        """Reads `config.toml`; see `swarmd.config.load_config`."""
        return load_config(self.config)

    def load_genesis(self) -> Genesis:
        """Reads and checks `genesis.cbor`.

        Raises:
            StorageError: missing, unreadable or not a genesis document.
        """
        try:
            return decode_genesis(read_bounded(self.genesis, bytes_max=GENESIS_BYTES_MAX))
        except EncodingError as error:
            raise StorageError(f"{self.genesis}: {error}") from None

    def bind_chain(self, chain: ChainId) -> None:
        """Binds the directory to a chain at first use; afterwards checks that it is that chain.

        Raises:
            StorageError: the directory belongs to another chain, or the marker is damaged.
        """
        try:
            marked = bytes.fromhex(self.chain_file.read_text("ascii").strip())
        except FileNotFoundError:
            write_new(self.chain_file, chain.hex().encode() + b"\n")
            return
        except (OSError, ValueError) as error:
            raise StorageError(f"{self.chain_file}: unreadable chain marker: {error}") from error
        if marked != chain:
            raise StorageError(
                f"{self.path} belongs to chain {short(marked)}, genesis.cbor is of {short(chain)}; "
                "use another directory"
            )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the directory for this process alone.

        Two daemons on one directory would vote twice with one key; the kernel frees the lock when
        the process ends, however it ends.

        Raises:
            StorageError: another process holds it; the message names its process id.
        """
        with storage_errors(f"cannot lock {self.path}"):
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT, PRIVATE_FILE_MODE)
        try:
            self._lock_descriptor(descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
            os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def _lock_descriptor(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise StorageError(f"cannot lock {self.path}: {error.strerror}") from error
            raise StorageError(
                f"{self.path} is in use by the daemon with process id {_pid_in(descriptor)}"
            ) from None

    def lock_holder(self) -> str | None:
        """Process id of the daemon that holds the lock ("unknown" if unreadable), or None.

        An orderly stop empties the file; only a process id that was left behind makes it necessary
        to try the lock, which could get in the way of a daemon that starts at this very moment.
        """
        try:
            descriptor = os.open(self.lock_file, os.O_RDONLY)
        except OSError:
            return None
        try:
            if os.fstat(descriptor).st_size == 0:
                return None
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return _pid_in(descriptor)
        finally:
            os.close(descriptor)
        return None


def _pid_in(descriptor: int) -> str:
    text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    return text if text.isdigit() else "unknown"


def open_data_dir(path: Path) -> DataDir:
    """Names an existing data directory for a command that only reads it.

    Raises:
        ConfigError: there is none at `path`.
    """
    directory = DataDir(path)
    if not directory.config.is_file():
        raise ConfigError(f"{path} is no data directory (it has no config.toml); see swarmd init")
    return directory
