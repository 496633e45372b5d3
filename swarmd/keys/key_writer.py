"""Makes and replaces key files, whole or not at all.

A key file has mode 0600 from its first moment. Replacing one flushes the new content before the old
name points to it, so that a power cut leaves one readable key; the old bytes may survive in free
blocks of the disk, which is why a key that lay there in clear is better rotated than encrypted.
"""

from __future__ import annotations

from pathlib import Path

from protocol.errors import StorageError
from swarmd.datadir import write_atomic, write_new
from swarmd.keys.pem import AnyKey, encode_pem


def write_key_file(path: Path, key: AnyKey, passphrase: bytes | None = None) -> None:
    """Makes a key file; never replaces one.

    Raises:
        StorageError: it exists already, its folder does not, or it cannot be written.
        ConfigError: the passphrase is too short or too long.
    """
    if not path.parent.is_dir():
        raise StorageError(f"cannot write {path}: the folder {path.parent} does not exist")
    write_new(path, encode_pem(key, passphrase))


def replace_key_file(path: Path, key: AnyKey, passphrase: bytes | None) -> None:
    """Writes the same key in another form, or leaves the file as it was.

    Raises:
        StorageError: it cannot be written; the old content stands.
        ConfigError: the passphrase is too short or too long.
    """
    write_atomic(path, encode_pem(key, passphrase))
