"""Tokens that permit one peer to open one lane: given out, taken once, forgotten in time.

A pure machine: entropy and time come from the caller. Tokens are kept by their digest, so that how
long a look takes tells nothing about a token that was not guessed whole.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from protocol.lane_offer import LANE_LIFETIME_S
from swarmd.net.address import PeerKey

TOKENS_PER_PEER_MAX: Final = 2
"""Tokens of one peer that may wait; a third takes the place of the oldest."""
TOKENS_MAX: Final = 512
"""Tokens that may wait in all: two for each of 256 peers, 100 KiB."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A token that was given out."""

    digest: bytes
    peer: PeerKey
    expires_at: float


class TokenBook:
    """The tokens that wait to be used, oldest first."""

    def __init__(self) -> None:
        """Starts empty."""
        self._waiting: dict[bytes, _Waiting] = {}

    def __len__(self) -> int:
        """Tokens that wait, expired ones included until the next call."""
        return len(self._waiting)

    def give(self, peer: PeerKey, token: bytes, now: float) -> bool:
        """Notes a token for a peer; returns False, noting nothing, when too many wait.

        Args:
            peer: the only one who may use it.
            token: fresh random bytes.
            now: monotonic seconds.
        """
        self._sweep(now)
        own = [waiting for waiting in self._waiting.values() if waiting.peer == peer]
        if len(own) >= TOKENS_PER_PEER_MAX:
            del self._waiting[own[0].digest]
        elif len(self._waiting) >= TOKENS_MAX:
            return False
        digest = hashlib.sha256(token).digest()
        self._waiting[digest] = _Waiting(digest, peer, now + LANE_LIFETIME_S)
        return True

    def take(self, token: bytes, now: float) -> PeerKey | None:
        """Uses a token up and returns whose it was; None if it was never given, used or expired."""
        self._sweep(now)
        digest = hashlib.sha256(token).digest()
        waiting = self._waiting.pop(digest, None)
        if waiting is None or not hmac.compare_digest(waiting.digest, digest):
            return None
        return waiting.peer

    def revoke(self, peer: PeerKey) -> None:
        """Forgets the tokens of a peer that may not open lanes any more."""
        self._waiting = {key: held for key, held in self._waiting.items() if held.peer != peer}

    def _sweep(self, now: float) -> None:
        """Forgets what has expired; all live equally long, so the oldest expire first."""
        while self._waiting:
            oldest = next(iter(self._waiting.values()))
            if now < oldest.expires_at:
                return
            del self._waiting[oldest.digest]
