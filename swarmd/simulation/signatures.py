"""Signatures for simulations: an unforgeable oracle that costs a microsecond, or real Ed25519.

The oracle's secret stays inside the signer and verifier objects; an actor that holds one signer
cannot sign for another key, which is all that the protocol assumes of signatures.
"""

from __future__ import annotations

import hashlib

from ledger.validators import Validator, ValidatorSet
from ledger.vote import Ed25519Verifier, Signer, Verifier
from protocol.digest import DidId, sha256
from protocol.keys import PrivateKey, PublicKey


class OracleSigner:
    """Signs for one key."""

    def __init__(self, key: PublicKey, secret: bytes) -> None:
        """Makes the signer of `key`; `secret` is the world's, at most 64 bytes."""
        self._key = key
        self._secret = secret

    def sign(self, message: bytes) -> bytes:
        """Returns 64 bytes that only this key's signer can make."""
        return _oracle(self._key, self._secret, message)


class OracleVerifier:
    """Checks the oracle's signatures."""

    def __init__(self, secret: bytes) -> None:
        """Makes the verifier of one world."""
        self._secret = secret

    def verify(self, key: PublicKey, signature: bytes, message: bytes) -> bool:
        """Tells whether the signer of `key` made the signature."""
        return signature == _oracle(key, self._secret, message)


def _oracle(key: PublicKey, secret: bytes, message: bytes) -> bytes:
    return hashlib.blake2b(key.raw + message, key=secret).digest()


class KeyRing:
    """Vote keys of every simulated process, one for each epoch, from one seed."""

    def __init__(self, *, seed: int, real: bool) -> None:
        """Makes an empty ring; keys arise when they are asked for.

        Args:
            seed: decides the keys.
            real: Ed25519 instead of the oracle.
        """
        self._seed = seed
        self._real = real
        self._secret = sha256(b"secret of %d" % seed)
        self.verifier: Verifier = Ed25519Verifier() if real else OracleVerifier(self._secret)
        """Checks signatures of this ring's keys."""

    def did(self, process: int) -> DidId:
        """Who a process is, in every epoch."""
        return DidId(sha256(self._root(process, 1)))

    def _root(self, process: int, epoch: int) -> bytes:
        label = b"" if epoch == 1 else b" epoch %d" % epoch
        return sha256(b"validator %d of %d" % (process, self._seed) + label)

    def key(self, process: int, epoch: int) -> PublicKey:
        """A process's vote key of an epoch."""
        root = self._root(process, epoch)
        return PrivateKey(root).public if self._real else PublicKey(root)

    def signer(self, process: int, epoch: int) -> Signer:
        """What signs with that key."""
        root = self._root(process, epoch)
        return PrivateKey(root) if self._real else OracleSigner(PublicKey(root), self._secret)


def make_validators(
    count: int, *, seed: int, real: bool
) -> tuple[ValidatorSet, list[Signer], Verifier]:
    """Makes a set of epoch 1 with its signers.

    Args:
        count: validators, 4 to 32.
        seed: decides the keys.
        real: Ed25519 instead of the oracle.
    """
    ring = KeyRing(seed=seed, real=real)
    members = tuple(Validator(ring.did(i), ring.key(i, 1)) for i in range(count))
    return ValidatorSet(1, members), [ring.signer(i, 1) for i in range(count)], ring.verifier
