"""Daemons' disks that a scenario fills or slows: the system's own, with less room or more time.

A daemon's image store runs on it unchanged: what it meets is ENOSPC, and writes that take long.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from chunks.file_backend import OSFileBackend
from protocol.limits import KIB
from swarmd.simulation.disk_room import DiskRoom
from swarmd.simulation.scenario import Fault, FaultKind


class TroubledDisk(OSFileBackend):
    """File operations of one node; threads share it, and it may outlive the node."""

    def __init__(self, reserve_bytes: int, wait: Callable[[float], None]) -> None:
        """Has room, and is fast.

        Args:
            reserve_bytes: what the store leaves to the ledger; nobody takes that.
            wait: has whoever writes wait for so many seconds.
        """
        self.room: Final = DiskRoom()
        """What it takes."""
        self.write_s = 0.0
        """How much longer each write takes, seconds."""
        self._reserve_bytes = reserve_bytes
        self._wait = wait
        self._lock = threading.Lock()

    def free_bytes(self, path: Path) -> int:
        """What is left, the reserve included; no more than there is."""
        left_bytes, real_bytes = self.room.left_bytes, super().free_bytes(path)
        if left_bytes is None:
            return real_bytes
        return min(real_bytes, left_bytes + self._reserve_bytes)

    def allocate(self, descriptor: int, size: int) -> None:
        """Reserves room, if there is any."""
        with self._lock:
            if not self.room.allocate(size):
                raise _full()
        super().allocate(descriptor, size)

    def write_at(self, descriptor: int, data: memoryview, offset: int) -> int:
        """Writes as much as there is room for."""
        with self._lock:
            size = self.room.write(len(data))
        if data and not size:
            raise _full()
        if self.write_s:
            self._wait(self.write_s)
        return super().write_at(descriptor, data[:size], offset)

    def unlink(self, path: Path) -> None:
        """Deletes a file, whose room is free then."""
        size = self.file_size(path)
        super().unlink(path)
        with self._lock:
            self.room.free(size or 0)


def trouble(disk: TroubledDisk, fault: Fault) -> None:
    """Fills or slows a disk as a scenario says."""
    if fault.kind is FaultKind.FULL_DISK:
        disk.room.fill(fault.free_kib * KIB, fault.takes)
    else:
        disk.write_s = fault.verify_ms / 1000


def relieve(disk: TroubledDisk, fault: Fault) -> None:
    """Ends that."""
    if fault.kind is FaultKind.FULL_DISK:
        disk.room.clear()
    else:
        disk.write_s = 0.0


def _full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
