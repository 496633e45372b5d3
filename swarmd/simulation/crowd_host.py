"""A node of a crowd of thousands: the production machines, with the costs of one process left out.

Other than in `TransferHost`:

- All nodes hold one copy of the content, so whether a chunk matches is asked of the object itself:
  the release's own bytes match, and only other bytes are hashed.
- Reading takes no time.
- Frequent messages are not encoded to learn their size; it is known, to some bytes.
- Machines are asked for their deadline once a tick, not after every event: timers run late by up to
  a tick, which is to be short beside what they wait for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from protocol.exchange_events import (
    ChunkRefused,
    ChunksRead,
    ChunksStored,
    ReadChunks,
    UploadInput,
    WriteChunks,
)
from protocol.exchange_messages import Chunks, Have, Request
from protocol.relay_events import RelaySettings
from protocol.relay_messages import News, Push
from protocol.runs import Runs
from swarmd.simulation.exchange_host import SimulatedRelease
from swarmd.simulation.frame_links import FrameNetwork
from swarmd.simulation.links import LinkNetwork, NodeLink
from swarmd.simulation.transfer_host import Disk, TransferHost
from swarmd.simulation.transfer_part import ImagePart
from swarmd.simulation.transfer_relay import WireMessage
from swarmd.simulation.world import World

TICK_S: Final = 0.02
"""How late a timer may be, seconds: the shortest that machines set is 50 ms."""
_FRAME_HEAD_BYTES: Final = 4 + 16
"""Length, kind, and the head of a frame of chunks, about."""
_ENTRY_BYTES: Final = 8
"""What each chunk of a frame takes beside its bytes."""
_CONTROL_BYTES: Final = 52
"""A message about chunks without its runs: manifest id, kind, numbers."""
_RUN_BYTES: Final = 5
"""A run of chunks in such a message."""


class CrowdPart(ImagePart):
    """What a node holds of an image whose bytes all nodes share."""

    def read(self, effect: ReadChunks) -> ChunksRead:
        """Reads chunks for an upload: nearly always one that is held."""
        pairs = effect.indices.pairs
        first, count = pairs[0]
        held = self.served.possession[effect.component].bits >> first
        chunks = self.release.components[effect.component]
        if not held & 1 or (effect.bytes_max >= 2 * len(chunks[first]) and len(effect.indices) > 1):
            return super().read(effect)
        data = chunks[first]
        return ChunksRead(
            request_id=effect.request_id,
            found=effect.indices if count == len(effect.indices) == 1 else Runs.run(first, 1),
            lengths=(len(data),),
            payload=(data,),
        )

    def write(self, effect: WriteChunks) -> list[ChunksStored | ChunkRefused]:
        """Stores chunks: those that are the release's own need no look at each other."""
        component, indices = effect.component, effect.indices
        chunks = self.release.components[component]
        if len(effect.payload) != len(indices) or not all(
            data is chunks[index] for index, data in zip(indices, effect.payload, strict=True)
        ):
            return super().write(effect)
        for index, size_bytes in zip(indices, effect.lengths, strict=True):
            self.gain(component, index, size_bytes)
        return [ChunksStored(component=component, indices=indices)]

    def store(self, component: int, index: int, data: bytes | memoryview) -> bool:
        """Checks a chunk, and keeps it if it matches: see the module's docstring."""
        own = self.release.components[component][index]
        whole = data.obj if isinstance(data, memoryview) else data
        if whole is not own or len(data) != len(own):
            return super().store(component, index, data)
        self.gain(component, index, len(data))
        return True


class CrowdHost(TransferHost):
    """See the module's docstring."""

    part_kind = CrowdPart

    def __init__(
        self,
        world: World,
        network: LinkNetwork | FrameNetwork,
        link: NodeLink,
        *,
        disk: Disk | None = None,
        relays: RelaySettings | None = None,
        tick_s: float = TICK_S,
    ) -> None:
        """Makes a node without images; see `TransferHost`.

        Args:
            world: where it lives.
            network: how messages travel.
            link: how the node is attached.
            disk: how long verifying and storing take.
            relays: what it says of itself to relays; None: it only pulls.
            tick_s: how late a timer may be, seconds.
        """
        self._tick_s = tick_s
        self._asked_at = 0.0
        self._is_asked = False
        super().__init__(world, network, link, disk=disk, relays=relays)

    @property
    def deadline(self) -> float | None:
        """When one of the machines wants to be woken, as of the last tick."""
        if self._is_deadline_known:
            return self._deadline
        now = self._world.now
        due_at = self._asked_at + self._tick_s
        if self._is_asked and now < due_at:
            if self._deadline is None or self._deadline > due_at:
                # Asked again at the tick's end, even if nothing happens until then.
                return due_at
            return self._deadline
        self._asked_at, self._is_asked = now, True
        return super().deadline

    def wake(self, now: float) -> None:
        """Wakes the machines whose time has come."""
        super().wake(now)
        self._is_asked = False

    def _read(self, peer: int, event: UploadInput) -> None:
        """Reading takes no time."""
        self._feed_upload(peer, event)

    def size_of(self, message: WireMessage) -> int:
        """What a message takes on the stream."""
        if isinstance(message, Chunks):
            count = len(message.lengths)
            return _FRAME_HEAD_BYTES + _ENTRY_BYTES * count + message.payload_bytes
        if isinstance(message, Push):
            size = sum(len(chunk.data) for chunk in message.chunks)
            return 2 * _FRAME_HEAD_BYTES + _ENTRY_BYTES * len(message.chunks) + size
        if isinstance(message, (Have, Request)):
            return _CONTROL_BYTES + _RUN_BYTES * len(message.indices.pairs)
        if isinstance(message, News):
            return _CONTROL_BYTES + _RUN_BYTES * len(message.runs)
        return super().size_of(message)


def make_shared_release(image_bytes: int, unit_bytes: int) -> SimulatedRelease:
    """A release of equal units that all share one piece of memory; only the last may be shorter."""
    unit = bytes(unit_bytes)
    whole, rest = divmod(image_bytes, unit_bytes)
    chunks: Sequence[bytes] = [unit] * whole + ([bytes(rest)] if rest else [])
    return SimulatedRelease.of([chunks])
