"""Gossip flooder: a member that fills every topic with messages that say nothing, at full size.

Each message is new, so that no table of those seen stops it, and none of them is anything that a
receiver can take: topics' validators refuse them, and the router silences who sends them.
"""

from __future__ import annotations

import random
from typing import Final

from protocol.limits import KIB

MESSAGE_BYTES: Final = 4 * KIB
"""Of each message."""
PER_S: Final = 50
"""Messages a second, in each topic."""


class GossipFlooder:
    """Makes the messages."""

    def __init__(self, seed: int) -> None:
        """The seed decides their bytes."""
        self._chance = random.Random(f"gossip flood {seed}")  # noqa: S311 - guards nothing
        self.sent = 0
        """Messages made so far."""

    def message(self) -> bytes:
        """The next one."""
        self.sent += 1
        return self._chance.randbytes(MESSAGE_BYTES)
