"""Conflicting anchors: a gateway that shows one audience one log of receipts, another a second.

It signs two anchors of one size with different roots, each valid by itself. Whoever holds both has
evidence that needs nothing but the gateway's key.
"""

from __future__ import annotations

from ledger.bodies.receipt import AnchorReceipts
from protocol.contradiction import ConflictingAnchors
from protocol.digest import ChainId, DidId, sha256
from protocol.keys import PrivateKey
from protocol.transaction import Transaction, sign_transaction


class ConflictingAnchorer:
    """Signs anchors with one node key."""

    def __init__(self, did: DidId, key: PrivateKey, *, chain: ChainId, era: int) -> None:
        """Takes over a gateway's name and node key, for one chain and era."""
        self._did = did
        self._key = key
        self._chain = chain
        self._era = era

    def anchor(self, size: int, story: bytes, *, nonce: int, valid_until_ms: int) -> bytes:
        """Signs that its log of `size` receipts has the root that belongs to a story."""
        body = AnchorReceipts(size=size, root=sha256(story))
        transaction = Transaction(
            era=self._era,
            signer=self._did,
            nonce=nonce,
            valid_until_ms=valid_until_ms,
            kind="receipt.anchor",
            body=body.to_value(),
        )
        return sign_transaction(transaction, self._key, self._chain).signed.raw

    def evidence(self, size: int, *, valid_until_ms: int) -> ConflictingAnchors:
        """What convicts it: two stories of one size."""
        first, second = sorted(
            self.anchor(size, story, nonce=nonce, valid_until_ms=valid_until_ms)
            for nonce, story in enumerate((b"what one heard", b"what the other heard"), start=1)
        )
        return ConflictingAnchors(first, second)
