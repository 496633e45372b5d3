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


def make_validators(
    count: int, *, seed: int, real: bool
) -> tuple[ValidatorSet, list[Signer], Verifier]:
    """Makes a set of epoch 1 with its signers.

    Args:
        count: validators, 4 to 32.
        seed: decides the keys.
        real: Ed25519 instead of the oracle.
    """
    roots = [sha256(b"validator %d of %d" % (index, seed)) for index in range(count)]
    keys: list[PublicKey]
    signers: list[Signer]
    verifier: Verifier
    if real:
        private = [PrivateKey(root) for root in roots]
        keys, signers, verifier = [key.public for key in private], list(private), Ed25519Verifier()
    else:
        secret = sha256(b"secret of %d" % seed)
        keys = [PublicKey(root) for root in roots]
        signers = [OracleSigner(key, secret) for key in keys]
        verifier = OracleVerifier(secret)
    members = tuple(
        Validator(DidId(sha256(root)), key) for root, key in zip(roots, keys, strict=True)
    )
    return ValidatorSet(1, members), signers, verifier
