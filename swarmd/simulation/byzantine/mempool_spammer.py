"""Mempool spammer: gateways of one group that keep every window of nonces full, for ever."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ledger.bodies.receipt import AnchorReceipts
from ledger.chain import Chain
from protocol.digest import sha256
from protocol.limits import NONCE_WINDOW
from protocol.transaction import SignedTransaction
from swarmd.simulation.lab import HOUR_MS, Lab, Member


class MempoolSpammer:
    """Speaks for some gateways."""

    def __init__(self, lab: Lab, gateways: Sequence[Member]) -> None:
        """Holds their node keys."""
        self._lab = lab
        self._gateways = tuple(gateways)

    def transactions(self, chain: Chain) -> Iterator[SignedTransaction]:
        """Valid transactions, one for each nonce that is not used: anchors of growing logs."""
        until_ms = chain.head.time_ms + 20 * HOUR_MS
        for gateway in self._gateways:
            account = chain.state.account(gateway.did)
            for nonce in range(account.nonce, account.nonce + NONCE_WINDOW):
                if account.is_used(nonce):
                    continue
                body = AnchorReceipts(size=1, root=sha256(b"spam"))
                yield self._lab.transaction(gateway, body, nonce=nonce, valid_until_ms=until_ms)

    def first_anchors(self) -> Iterator[SignedTransaction]:
        """One transaction by each gateway that adds a record to the state."""
        for number, gateway in enumerate(self._gateways):
            body = AnchorReceipts(size=1 + number, root=sha256(b"growth %d" % number))
            yield self._lab.transaction(gateway, body)
