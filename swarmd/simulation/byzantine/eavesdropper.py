"""Eavesdropper: keeps all that a sealed release shows to who is not in its ring.

It sees the manifest, the ring file, recipes and sealed chunks, holds a sealing key of its own, and
knows an older release or a candidate of this one. It has no content key.
"""

from __future__ import annotations

from collections.abc import Sequence

from chunks.sealing import ChunkOpener
from protocol.digest import Digest, sha256
from protocol.errors import VerificationError
from protocol.sealing import ContentKey, RingName, Sealing, plain_prefix
from protocol.sealing_ring import SignedRing
from swarmd.keys.sealing_key import SealingKey

WINDOW_BYTES = 8
"""Plain text of this length that stands in what was kept is a find: by chance one byte string of
8 stands in a MiB with probability 2^-44."""


class Eavesdropper:
    """Tries to learn something from what it kept."""

    def __init__(self, key: SealingKey) -> None:
        """Holds a sealing key to which nothing was wrapped."""
        self._key = key

    def plain_finds(self, plain: bytes, kept: Sequence[bytes]) -> int:
        """How many windows of the plain bytes stand somewhere in what was kept."""
        windows = {
            plain[start : start + WINDOW_BYTES] for start in range(len(plain) - WINDOW_BYTES + 1)
        }
        return sum(
            data[start : start + WINDOW_BYTES] in windows
            for data in kept
            for start in range(len(data) - WINDOW_BYTES + 1)
        )

    def opened_wraps(self, ring: SignedRing, name: RingName) -> int:
        """How many wraps of a ring open under its key, each tried under its own name too."""
        opened = 0
        for member in ring.file.members:
            try:
                self._key.unwrap(member, name, ring.file.check)
            except VerificationError:
                continue
            opened += 1
        return opened

    def opened_chunks(self, name: RingName, public: Sequence[bytes], sealed: bytes) -> int:
        """How many content keys made of public values open a chunk."""
        opened = 0
        for secret in public:
            try:
                ChunkOpener(ContentKey(bytes(sha256(secret)), name)).open(sealed)
            except VerificationError:
                continue
            opened += 1
        return opened

    def confirmed_guesses(
        self, candidate: bytes, public: Sequence[bytes], shown: Sequence[Digest]
    ) -> int:
        """How many ways to hash a candidate with public values give a digest that is shown."""
        digests = [sha256(candidate), *(sha256(value + candidate) for value in public)]
        digests += [sha256(plain_prefix(sha256(value)) + candidate) for value in public]
        return sum(digest in shown for digest in digests)


def public_values(sealing: Sealing, ring: SignedRing) -> list[bytes]:
    """Everything public that might be a salt or a key."""
    return [
        bytes(sealing.ring),
        sealing.nonce,
        ring.file.check,
        ring.signed.raw,
        *(member.key for member in ring.file.members),
        *(member.wrap for member in ring.file.members),
    ]
