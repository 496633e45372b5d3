"""Stranger flooder: comes under ever new keys that nobody enrolled, and talks nonsense at hello.

In turn: bytes that are no message, a frame as large as may be, and nothing at all while the stream
stays open.
"""

from __future__ import annotations

import random
from typing import Final

from protocol.limits import HELLO_BYTES_MAX

STRANGERS: Final = 8
"""Identities that come at once."""
PAUSE_S: Final = 0.25
"""Between two hellos of one identity, seconds."""
_KINDS: Final = 3


class StrangerFlooder:
    """Makes identities and what they say."""

    def __init__(self, seed: int) -> None:
        """The seed decides both."""
        self._chance = random.Random(f"strangers {seed}")  # noqa: S311 - guards nothing
        self.said = 0
        """Hellos so far."""

    def seed(self) -> bytes:
        """Of the next identity's transport key."""
        return self._chance.randbytes(32)

    def hello(self) -> bytes | None:
        """What is said next; None: nothing, and the stream stays open."""
        self.said += 1
        match self.said % _KINDS:
            case 0:
                return None
            case 1:
                return self._chance.randbytes(self._chance.randrange(1, 200))
            case _:
                return self._chance.randbytes(HELLO_BYTES_MAX)
