"""Reads key files: PKCS#8 PEM that nobody but their owner may read."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from protocol.errors import EncodingError, StorageError
from protocol.keys import PrivateKey
from protocol.limits import KIB
from swarmd.keys.passphrase import PassphraseSource, no_passphrase, read_private
from swarmd.keys.pem import AnyKey, decode_any_pem, decode_pem, is_encrypted
from swarmd.keys.sealing_key import SealingKey

KEY_BYTES_MAX: Final = 4 * KIB
"""A key takes about 120 bytes in clear and 300 encrypted; comments before the PEM are allowed."""


def load_key_file(path: Path, passphrases: PassphraseSource = no_passphrase) -> PrivateKey:
    """Reads a private key that nobody else may read.

    Args:
        path: the key file.
        passphrases: asked if the key is encrypted.

    Raises:
        StorageError: missing, readable by group or others, no Ed25519 PKCS#8 PEM, or a wrong
            passphrase.
        ConfigError: encrypted, and there is no passphrase.
    """
    data = read_private(path, f"key {path}", bytes_max=KEY_BYTES_MAX)
    return read_key(data, f"key {path}", passphrases)


def load_any_key_file(path: Path, passphrases: PassphraseSource = no_passphrase) -> AnyKey:
    """Reads a key that signs or opens; arguments and errors as of `load_key_file`."""
    data = read_private(path, f"key {path}", bytes_max=KEY_BYTES_MAX)
    passphrase = passphrases(f"key {path}") if is_encrypted(data) else None
    try:
        return decode_any_pem(data, passphrase)
    except EncodingError as error:
        raise StorageError(f"key {path}: {error}") from None


def load_sealing_key(path: Path, passphrases: PassphraseSource = no_passphrase) -> SealingKey:
    """Reads a node's sealing key; arguments and errors as of `load_key_file`."""
    key = load_any_key_file(path, passphrases)
    if not isinstance(key, SealingKey):
        raise StorageError(f"key {path}: not an X25519 key")
    return key


def read_key(data: bytes, what: str, passphrases: PassphraseSource) -> PrivateKey:
    """Reads PEM bytes, asking for the passphrase if they are encrypted.

    Raises:
        StorageError: no Ed25519 PKCS#8 PEM, or a wrong passphrase; the message names `what`.
        ConfigError: encrypted, and there is no passphrase.
    """
    passphrase = passphrases(what) if is_encrypted(data) else None
    try:
        return decode_pem(data, passphrase)
    except EncodingError as error:
        raise StorageError(f"{what}: {error}") from None


def is_encrypted_file(path: Path) -> bool:
    """Tells whether a key file is encrypted.

    Raises:
        StorageError: missing, unreadable, or open to others.
    """
    return is_encrypted(read_private(path, f"key {path}", bytes_max=KEY_BYTES_MAX))
