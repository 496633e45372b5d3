"""Digests and the identifiers made of them.

The digest of swarmd is SHA-256, written with its COSE algorithm id (-16, RFC 9054) wherever it may
meet other systems, so that a later algorithm is a new id and not a new format.
"""

from __future__ import annotations

import hashlib
from typing import Final, NewType

from protocol.errors import DigestMismatchError

DIGEST_BYTES: Final = 32
"""Bytes of every digest."""
SHA256_ALGORITHM: Final = -16
"""COSE algorithm id of SHA-256 (RFC 9054, section 3.1)."""

Digest = NewType("Digest", bytes)
"""A SHA-256 digest, 32 bytes."""
ChainId = NewType("ChainId", bytes)
"""SHA-256 of the genesis document's bytes."""
DidId = NewType("DidId", bytes)
"""Digest of a DID's inception record; names a subject whatever keys it rotates to."""
ManifestId = NewType("ManifestId", bytes)
"""SHA-256 of the original signed bytes of a manifest."""
ChunkId = NewType("ChunkId", bytes)
"""SHA-256 of a chunk's bytes as stored."""
BlockId = NewType("BlockId", bytes)
"""SHA-256 of a block header's bytes."""
TransactionId = NewType("TransactionId", bytes)
"""SHA-256 of a transaction's signed bytes."""
PolicyId = NewType("PolicyId", bytes)
"""SHA-256 of a policy record's canonical bytes."""

ZERO_DIGEST: Final = Digest(bytes(DIGEST_BYTES))
"""32 zero bytes: the parent of the first block."""


def sha256(data: bytes | bytearray | memoryview) -> Digest:
    """Hashes `data`; the digest of bytes that need no domain (chunks, images, signed objects)."""
    return Digest(hashlib.sha256(data).digest())


def tagged_digest(tag: str, data: bytes) -> Digest:
    """Hashes `data` under a domain, so that no other object can share the digest.

    Args:
        tag: ASCII domain such as `swarmd/did/1`; shorter than 256 bytes.
        data: the bytes to name.

    Returns:
        SHA-256(length of tag as one byte || tag || data).
    """
    raw = tag.encode("ascii")
    assert len(raw) < 256, "domain tags are short constants of ours"
    return Digest(hashlib.sha256(bytes((len(raw),)) + raw + data).digest())


def verify_digest(what: str, data: bytes | bytearray | memoryview, expected: bytes) -> None:
    """Checks that `data` hashes to `expected`.

    Raises:
        DigestMismatchError: it does not; `what` names the object in the message.
    """
    actual = sha256(data)
    if actual != expected:
        raise DigestMismatchError(what, expected=expected, actual=actual)


def short(digest: bytes) -> str:
    """Shortens an identifier to the 8 hex digits used in logs."""
    return digest[:4].hex()
