"""Private keys as PKCS#8 PEM (RFC 5958, RFC 8410), in clear or encrypted under a passphrase.

Encryption is PBES2 (RFC 8018) as `cryptography` writes it: PBKDF2 with HMAC-SHA256, 2,048 rounds
and a random salt of 16 bytes, then AES-256-CBC. That takes half a millisecond a guess, so a short
passphrase would not hold: `PASSPHRASE_BYTES_MIN`. Files made by other tools with more rounds or
with scrypt are read too. The format authenticates the key by its own structure only: a wrong
passphrase is told from a right one by padding and ASN.1, then by the key's use.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from protocol.errors import ConfigError, EncodingError
from protocol.keys import PrivateKey
from swarmd.keys.sealing_key import SealingKey

PASSPHRASE_BYTES_MIN: Final = 16
"""Shortest new passphrase. At 2,048 rounds of PBKDF2 a graphics card tries some 10^6 to 10^7 a
second: five words of a list of 7,776 (64 bits) take it tens of thousands of years, eight letters
minutes to hours."""
PASSPHRASE_BYTES_MAX: Final = 1023
"""Longest passphrase that the library takes (OpenSSL's PEM_BUFSIZE, less a byte)."""
_ENCRYPTED_MARK: Final = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
_CLEAR_MARK: Final = b"-----BEGIN PRIVATE KEY-----"


def is_encrypted(data: bytes) -> bool:
    """Tells whether PEM bytes hold an encrypted private key."""
    return _ENCRYPTED_MARK in data


def check_new_passphrase(passphrase: bytes) -> bytes:
    """Refuses a passphrase too short to protect anything, or too long to be read back.

    Raises:
        ConfigError: not of 16 to 1,023 bytes.
    """
    if not PASSPHRASE_BYTES_MIN <= len(passphrase) <= PASSPHRASE_BYTES_MAX:
        raise ConfigError(
            f"passphrase of {len(passphrase)} bytes, expected {PASSPHRASE_BYTES_MIN} to "
            f"{PASSPHRASE_BYTES_MAX}"
        )
    return passphrase


AnyKey = PrivateKey | SealingKey
"""What a node's `keys/` folder holds."""


def encode_pem(key: AnyKey, passphrase: bytes | None) -> bytes:
    """Writes a key; encrypted unless `passphrase` is None.

    Salt and initialisation vector come from the library, which offers no way to pass them in.

    Raises:
        ConfigError: the passphrase is too short or too long.
    """
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        encryption = BestAvailableEncryption(check_new_passphrase(passphrase))
    if isinstance(key, SealingKey):
        return key.inner.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    inner = Ed25519PrivateKey.from_private_bytes(key.seed())
    return inner.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def decode_pem(data: bytes, passphrase: bytes | None) -> PrivateKey:
    """Reads a key that signs.

    Args:
        data: PEM bytes.
        passphrase: of an encrypted key; None for one in clear.

    Raises:
        EncodingError: no PKCS#8 PEM, not Ed25519, or not under this passphrase.
    """
    key = decode_any_pem(data, passphrase)
    if not isinstance(key, PrivateKey):
        raise EncodingError("not an Ed25519 key")
    return key


def decode_any_pem(data: bytes, passphrase: bytes | None) -> AnyKey:
    """Reads a key that signs or opens; arguments and errors as of `decode_pem`."""
    encrypted = is_encrypted(data)
    if not encrypted and _CLEAR_MARK not in data:
        raise EncodingError(
            "no PKCS#8 PEM (-----BEGIN PRIVATE KEY-----); convert other forms with: "
            "openssl pkcs8 -topk8 -nocrypt -in OLD -out NEW"
        )
    if encrypted and passphrase is None:
        raise EncodingError("encrypted, and no passphrase was given")
    try:
        key = load_pem_private_key(data, password=passphrase if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        reason = "wrong passphrase, or damaged" if encrypted else f"not readable: {error}"
        raise EncodingError(reason) from None
    if isinstance(key, X25519PrivateKey):
        return SealingKey(key.private_bytes_raw())
    if not isinstance(key, Ed25519PrivateKey):
        raise EncodingError("not an Ed25519 key")
    return PrivateKey(key.private_bytes_raw())
