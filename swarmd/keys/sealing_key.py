"""A node's sealing key: X25519, to which publishers wrap content keys by HPKE (RFC 9180).

It lies beside the node's other keys (`keys/sealing.key`, PKCS#8 PEM, encrypted or not), and only
opens wraps. Wrapping draws its ephemeral key from the library's own generator.
"""

from __future__ import annotations

from functools import cached_property
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from protocol.digest import DidId
from protocol.errors import EncodingError, VerificationError
from protocol.sealing import ContentKey, RingName, ring_id
from protocol.sealing_ring import SEALING_KEY_BYTES, WRAP_BYTES, RingMember, wrap_info

SEALING_KEY_NAME: Final = "sealing"
"""Name of its file in `keys/`, before `.key`."""
_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class WrapError(VerificationError):
    """A wrap does not open: not for this key, ring or member, or altered."""


class SealingKey:
    """An X25519 private key; it never prints its secret."""

    def __init__(self, secret: bytes) -> None:
        """Makes the key from 32 bytes; randomness is the caller's matter.

        Raises:
            EncodingError: another length.
        """
        if len(secret) != SEALING_KEY_BYTES:
            raise EncodingError(f"sealing key of {len(secret)} bytes, expected 32")
        self.inner: Final = X25519PrivateKey.from_private_bytes(secret)
        """The library's key, for writing PEM."""

    def __repr__(self) -> str:
        """Names the public half only."""
        return f"SealingKey(public={self.public[:4].hex()})"

    @cached_property
    def public(self) -> bytes:
        """The X25519 public key, 32 bytes."""
        return self.inner.public_key().public_bytes_raw()

    def unwrap(self, member: RingMember, name: RingName, check: bytes) -> ContentKey:
        """Opens the wrap in this node's entry of a ring file.

        Args:
            member: the entry.
            name: whose ring it is.
            check: what the ring file says of the content key.

        Raises:
            WrapError: it is to another key, of another ring or member, altered, or it holds
                another content key than the ring's.
        """
        ring = ring_id(name, check)
        info = wrap_info(name, ring, member.did, self.public)
        try:
            secret = _SUITE.decrypt(member.wrap, self.inner, info=info)
            key = ContentKey(secret, name)
        except (InvalidTag, ValueError, EncodingError):
            raise WrapError("the wrap does not open under this node's sealing key") from None
        if key.ring() != ring:
            raise WrapError("the wrap holds another content key than the ring names")
        return key


def wrap_key(content: ContentKey, did: DidId, key: bytes) -> RingMember:
    """Wraps a content key to one member.

    Raises:
        EncodingError: the member's key is a point under which anybody could open the wrap.
    """
    info = wrap_info(content.name, content.ring(), did, key)
    try:
        public = X25519PublicKey.from_public_bytes(key)
        wrap = _SUITE.encrypt(content.secret(), public, info=info)
    except ValueError as error:
        raise EncodingError(f"not a usable X25519 key: {key[:4].hex()}") from error
    assert len(wrap) == WRAP_BYTES, "HPKE in base mode: encapsulated key, ciphertext, tag"
    return RingMember(did=did, key=key, wrap=wrap)
