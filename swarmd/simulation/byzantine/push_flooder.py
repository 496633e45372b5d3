"""Push flooder: pushes genuine chunks to everybody, far more than anybody asked for or can take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from protocol.relay_messages import Push, PushedChunk, PushFlag, Ready
from swarmd.simulation.transfer_host import TransferHost
from swarmd.simulation.transfer_relay import WireMessage

PUSHES: Final = 48
"""Pushes to each peer, all at once."""
CHUNKS: Final = 40
"""Chunks of each: 0.6 MiB with chunks of 16 KiB."""


class PushFlooder(TransferHost):
    """Follows the first message that says it takes part with the same pushes again and again."""

    def outgoing(self, target: int, message: WireMessage) -> Iterable[WireMessage]:
        """Floods."""
        yield from super().outgoing(target, message)
        if isinstance(message, Ready) and message.roles:
            chunks = self.parts[0].release.components[0]
            for number in range(PUSHES):
                first = number * CHUNKS % max(len(chunks) - CHUNKS, 1)
                yield Push(
                    manifest_id=message.manifest_id,
                    object_number=0,
                    flags=PushFlag.RELAYER,
                    delegates=(),
                    chunks=tuple(
                        PushedChunk(index=index, data=chunks[index])
                        for index in range(first, min(first + CHUNKS, len(chunks)))
                    ),
                )
