"""The only randomness of the project: keys, nonces and choices that nobody may predict.

Machines take entropy as an argument. `SeededEntropy` gives the same stream for the same seed, so
that a simulation can be replayed; it must never make a key that protects anything.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Protocol

_SEED_DOMAIN = b"swarmd/seeded-entropy/1"
_DRAW_BYTES = 16
"""Bytes behind one `uint`: 128 bits leave a bias below 2^-64 for any bound up to 2^64."""


class Entropy(Protocol):
    """A source of random bytes and numbers."""

    def token(self, size_bytes: int) -> bytes:
        """`size_bytes` random bytes."""
        ...

    def uint(self, bound: int) -> int:
        """A random integer, 0 <= result < `bound`."""
        ...


class SystemEntropy:
    """The operating system's cryptographic generator."""

    def token(self, size_bytes: int) -> bytes:
        """`size_bytes` unpredictable bytes."""
        return secrets.token_bytes(size_bytes)

    def uint(self, bound: int) -> int:
        """An unpredictable integer, 0 <= result < `bound`."""
        return secrets.randbelow(bound)


class SeededEntropy:
    """SHA-256 over (seed, label, counter): the same stream for the same seed; simulation only."""

    def __init__(self, seed: int, label: str = "") -> None:
        """Starts a stream; different labels give independent streams of one seed."""
        self._prefix = hashlib.sha256(_SEED_DOMAIN + f"/{seed}/{label}".encode()).digest()
        self._counter = 0
        self._buffer = b""

    def token(self, size_bytes: int) -> bytes:
        """The next `size_bytes` bytes of the stream."""
        while len(self._buffer) < size_bytes:
            block = self._prefix + self._counter.to_bytes(8, "big")
            self._buffer += hashlib.sha256(block).digest()
            self._counter += 1
        result, self._buffer = self._buffer[:size_bytes], self._buffer[size_bytes:]
        return result

    def uint(self, bound: int) -> int:
        """The next integer of the stream, 0 <= result < `bound`, at most 2^64.

        Raises:
            ValueError: `bound` is outside 1 to 2^64.
        """
        if not 0 < bound <= 2**64:
            raise ValueError(f"bound {bound}, allowed 1 to 2^64")
        return int.from_bytes(self.token(_DRAW_BYTES), "big") % bound
