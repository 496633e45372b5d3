"""Pause abuser: holders of emergency keys who hold back every release for as long as they can."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.bodies.emergency import PauseOffers
from protocol.approval import Action
from protocol.keys import PrivateKey
from protocol.transaction import SignedTransaction
from swarmd.simulation.lab import GENESIS_MS, HOUR_MS, Lab

_VALID_UNTIL_MS = GENESIS_MS + 10_000 * HOUR_MS


class PauseAbuser:
    """Pauses a group again and again, each of its keys whenever it is let."""

    def __init__(self, lab: Lab, group: str, keys: Sequence[PrivateKey]) -> None:
        """Holds these emergency keys of a group."""
        self._lab = lab
        self._group = group
        self._keys = tuple(keys)
        self._sequences = dict.fromkeys(range(len(keys)), 0)

    def tries(self, now_ms: int) -> list[tuple[int, SignedTransaction]]:
        """One pause by each key, as transactions of a gateway, with the key's number."""
        return [(number, self._pause(number, now_ms)) for number in range(len(self._keys))]

    def went_through(self, number: int) -> None:
        """Notes that a key's pause is final; the next one needs a higher number."""
        self._sequences[number] += 1

    def _pause(self, number: int, now_ms: int) -> SignedTransaction:
        body = PauseOffers(
            group=self._group,
            product=None,
            manifest=None,
            sequence=self._sequences[number] + 1,
            approval=b"",
        )
        approval = self._lab.approval(
            Action.PAUSE,
            body.subject,
            self._keys[number],
            group=self._group,
            valid_until_ms=_VALID_UNTIL_MS,
        )
        signed = PauseOffers(
            group=self._group, product=None, manifest=None, sequence=body.sequence,
            approval=approval,
        )  # fmt: skip
        return self._lab.transaction(
            self._lab.gateways[1], signed, valid_until_ms=now_ms + 20 * HOUR_MS
        )
