"""A gateway's disk in a simulated swarm: what it allocated and refuses, whether anything is lost.

`RoomHost` does what the daemon's fetch does about a store that has no room: intake pauses, chunks
that found none are given back to whoever asked for them, and it looks again every half minute.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from protocol.digest import ManifestId
from protocol.exchange_events import StorageFull, StorageReady, WriteChunks
from protocol.relay_events import RelaySettings
from protocol.relay_messages import Push
from protocol.runs import Runs
from swarmd.simulation.disk_room import DiskRoom
from swarmd.simulation.frame_links import FrameNetwork
from swarmd.simulation.links import LinkNetwork, NodeLink
from swarmd.simulation.transfer_events import RoomLook
from swarmd.simulation.transfer_host import Disk, TransferHost
from swarmd.simulation.transfer_part import ImagePart
from swarmd.simulation.world import World

LOOK_S: Final = 30.0
"""How often a paused download looks for room, seconds: as `swarmd.services.exchange_fetch` does."""


class GatewayDisk:
    """The disk of one gateway; its files outlive the node."""

    def __init__(self) -> None:
        """Is empty, and large enough."""
        self.room: Final = DiskRoom()
        """What it takes."""
        self._allocated: dict[tuple[ManifestId, int], int] = {}

    def allocate(self, manifest_id: ManifestId, component: int, size_bytes: int) -> bool:
        """Whether a component has its room, or gets it now."""
        key = (manifest_id, component)
        if key not in self._allocated:
            if not self.room.allocate(size_bytes):
                return False
            self._allocated[key] = size_bytes
        return True

    def delete(self, manifest_id: ManifestId) -> None:
        """Takes an image's room back."""
        for key in [key for key in self._allocated if key[0] == manifest_id]:
            self.room.free(self._allocated.pop(key))


class RoomHost(TransferHost):
    """A node whose disk may be full; see the module's docstring."""

    def __init__(
        self,
        world: World,
        network: LinkNetwork | FrameNetwork,
        link: NodeLink,
        *,
        disk: Disk | None = None,
        relays: RelaySettings | None = None,
    ) -> None:
        """Makes a node with a disk of its own; see `TransferHost`."""
        super().__init__(world, network, link, disk=disk, relays=relays)
        self.files = GatewayDisk()
        """Its disk; a node that starts again is given that of the life before."""
        self._looking: dict[ManifestId, None] = {}

    def handle(self, event: object, now: float) -> None:
        """Goes on with an image, if there is room by now; else see `TransferHost`."""
        if not isinstance(event, RoomLook):
            super().handle(event, now)
        elif not self.is_gone:
            self._looking.pop(event.part.release.manifest_id, None)
            self.feed(event.part, StorageReady())

    def _prepared(self, part: ImagePart, component: int) -> None:
        size_bytes = part.release.recipes[component].size_bytes
        if self.files.allocate(part.release.manifest_id, component, size_bytes):
            super()._prepared(part, component)
        else:
            self._pause(part, component, ())

    def _pause(self, part: ImagePart, component: int, indices: Iterable[int]) -> None:
        """Stops intake; it goes on by itself when there is room."""
        self.feed(part, StorageFull(component=component, indices=tuple(indices)))
        if part.release.manifest_id not in self._looking:
            self._looking[part.release.manifest_id] = None
            self._world.post(self.number, LOOK_S, RoomLook(part))

    def _write(self, part: ImagePart, effect: WriteChunks) -> None:
        if self.files.room.is_promising:
            super()._write(part, effect)
            return
        full = self._without_room(part, effect.component, effect.chunks)
        kept = [(index, data) for index, data in effect.chunks if index not in full]
        if kept:
            super()._write(
                part,
                replace(
                    effect,
                    indices=Runs.of(index for index, _ in kept),
                    lengths=tuple(len(data) for _, data in kept),
                    payload=tuple(data for _, data in kept),
                ),
            )
        if full:
            self._pause(part, effect.component, full)

    def store_push(self, part: ImagePart, push: Push) -> tuple[list[int], list[int]]:
        """Verifies and stores what there is room for; the relay is told of the rest."""
        if self.files.room.is_promising:
            return super().store_push(part, push)
        number = push.object_number
        full = self._without_room(
            part, number, ((chunk.index, chunk.data) for chunk in push.chunks)
        )
        kept = tuple(chunk for chunk in push.chunks if chunk.index not in full)
        fresh, bad = super().store_push(part, replace(push, chunks=kept)) if kept else ([], [])
        if full and not bad:
            self._relays.dropped(part, number, full)
        return fresh, bad

    def _without_room(
        self, part: ImagePart, component: int, chunks: Iterable[tuple[int, bytes | memoryview]]
    ) -> dict[int, None]:
        """Takes room for good chunks that are not held; returns those that find none."""
        room, possession = self.files.room, part.served.possession[component]
        full: dict[int, None] = {}
        for index, data in chunks:
            is_new = index not in possession and part.matches(component, index, data)
            if is_new and (full or not room.fits(len(data))):
                full[index] = None
            elif is_new:
                room.write(len(data))
        return full


class DiskWatch:
    """Finds what a node does not hold any more, though nobody withdrew it."""

    def __init__(self) -> None:
        """Has seen nothing."""
        self._seen: dict[tuple[int, ManifestId], tuple[int, ...]] = {}

    def lost(self, node: RoomHost, withdrawn: Iterable[ManifestId]) -> int:
        """Images of which chunks are gone since the last look, or that are called complete without.

        Args:
            node: that runs.
            withdrawn: its images that were revoked.
        """
        gone = dict.fromkeys(withdrawn)
        found = 0
        for part in node.parts:
            name = part.release.manifest_id
            if name in gone:
                continue
            bits = tuple(possession.bits for possession in part.served.possession)
            before = self._seen.get((node.number, name), ())
            is_short = part.figures.finished_at is not None and not part.is_complete
            found += is_short or any(old & ~new for old, new in zip(before, bits, strict=False))
            self._seen[node.number, name] = bits
        return found
