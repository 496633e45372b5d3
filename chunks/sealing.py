"""Encrypts and opens the chunks of a sealed component, one by one, with bounded memory.

AES-SIV (RFC 5297) without a nonce is deterministic: equal chunks under one ring give equal bytes
wherever they stand and in whatever release, so that chunks are found again across versions; what
else an equality tells is in docs/spec/sealing.md. Its synthetic vector authenticates each chunk.
Order and completeness are the recipe's matter and, after opening, the salted plain digest's.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from chunks.recipe import Recipe
from protocol.digest import Digest
from protocol.errors import DigestMismatchError, LocalProtocolError, VerificationError
from protocol.sealing import CHUNK_OVERHEAD_BYTES, ContentKey, Sealing, plain_prefix

CHUNK_TAG: Final = b"swarmd/sealed-chunk/1"
"""Associated data of every chunk (Z7)."""


class SealError(VerificationError):
    """A chunk does not open under this key: another key, or altered bytes."""


class SealingPass:
    """Seals one component while it is cut; a `chunks.store.ChunkSealer`."""

    def __init__(self, key: ContentKey, sealing: Sealing) -> None:
        """Starts a component.

        Raises:
            VerificationError: the sealing names another ring than the key's.
        """
        self._plain = hashlib.sha256(plain_prefix(key.salt(sealing)))
        self._cipher = AESSIV(key.chunk_key())

    @property
    def overhead_bytes(self) -> int:
        """By how much every stored chunk is longer than the plain one."""
        return CHUNK_OVERHEAD_BYTES

    def seal(self, chunk: memoryview) -> bytes:
        """Encrypts the next chunk; never an empty one."""
        self._plain.update(chunk)
        return self._cipher.encrypt(chunk, [CHUNK_TAG])

    def plain_digest(self) -> Digest:
        """The salted digest of everything sealed so far."""
        return Digest(self._plain.digest())


class ChunkOpener:
    """Opens single chunks of a ring; may be used by several threads at once."""

    def __init__(self, key: ContentKey) -> None:
        """Derives the chunk key."""
        self._cipher = AESSIV(key.chunk_key())

    def open(self, sealed: bytes | memoryview) -> bytes:
        """Decrypts a chunk.

        Raises:
            SealError: it was not sealed under this key, or was altered.
        """
        if len(sealed) <= CHUNK_OVERHEAD_BYTES:
            raise SealError(f"sealed chunk of {len(sealed)} bytes")
        try:
            return self._cipher.decrypt(sealed, [CHUNK_TAG])
        except InvalidTag:
            raise SealError("a chunk does not open under this ring's key") from None


class OpeningPass:
    """Opens the chunks of one component in order and checks the whole in the end.

    What `open` returns belongs to nobody before `finish` has returned.
    """

    def __init__(self, key: ContentKey, sealing: Sealing, plain_digest: Digest) -> None:
        """Starts a component.

        Args:
            key: of its ring.
            sealing: as in the manifest.
            plain_digest: as in the manifest: salted.

        Raises:
            VerificationError: the sealing names another ring than the key's.
        """
        self._expected = plain_digest
        self._salted = hashlib.sha256(plain_prefix(key.salt(sealing)))
        self._opener = ChunkOpener(key)
        self._plain = hashlib.sha256()

    def open(self, sealed: bytes | memoryview) -> bytes:
        """Decrypts the next chunk; `SealError` as in `ChunkOpener`."""
        plain = self._opener.open(sealed)
        self._salted.update(plain)
        self._plain.update(plain)
        return plain

    def finish(self) -> Digest:
        """Checks everything opened against the salted digest.

        Returns:
            The SHA-256 of the plain bytes, for whoever copies them.

        Raises:
            DigestMismatchError: chunks are missing, doubled or out of order, or the manifest
                contradicts itself.
        """
        actual = self._salted.digest()
        if actual != self._expected:
            raise DigestMismatchError("plain image", expected=self._expected, actual=actual)
        return Digest(self._plain.digest())


class PlainLayout:
    """Where the plain bytes of a sealed component's chunks stand in the plain image."""

    def __init__(self, recipe: Recipe) -> None:
        """Of the recipe of the chunks as stored.

        Raises:
            VerificationError: a chunk is too short to be a sealed one.
        """
        if min(recipe.lengths) <= CHUNK_OVERHEAD_BYTES:
            raise SealError("a chunk of the recipe is too short to be sealed")
        self._recipe = recipe
        self.size_bytes: Final = recipe.size_bytes - CHUNK_OVERHEAD_BYTES * recipe.chunk_count
        """Bytes of the plain image."""

    def offset(self, index: int) -> int:
        """Where the plain bytes of chunk `index` start."""
        return self._recipe.offset(index) - CHUNK_OVERHEAD_BYTES * index

    def index_at(self, offset: int) -> int:
        """The chunk that holds byte `offset` of the plain image.

        Raises:
            LocalProtocolError: it has no such byte.
        """
        if not 0 <= offset < self.size_bytes:
            raise LocalProtocolError(f"no byte {offset} in a plain image of {self.size_bytes}")
        count = self._recipe.chunk_count
        return bisect_right(range(count), offset, key=self.offset) - 1
