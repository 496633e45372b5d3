"""What a stream asks before it sends: how much may go now. Limits of rates answer."""

from __future__ import annotations

from typing import Protocol


class SendGate(Protocol):
    """Holds sending back; a stream without one sends at once."""

    async def admit(self, wanted_bytes: int) -> int:
        """Waits until something may go; it counts as sent then.

        Args:
            wanted_bytes: what the stream would send now, 1 or more.

        Returns:
            How much of it may go, 1 or more.
        """
        ...
