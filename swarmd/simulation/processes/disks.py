"""Disks of processes: told to be full or slow by a file, or small ones that really are full.

On loopback a daemon's file operations do as a file beside its data directory says. In namespaces,
where everything needs root anyway, each gateway's data, ledger included, lies on a small file
system of its own in memory, and a filler takes what is free there: ENOSPC comes from the kernel.
Slow disks are told everywhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from protocol.errors import ConfigError, TransportError
from protocol.limits import KIB, MIB
from swarmd.config_template import render_config
from swarmd.datadir import DataDir, write_atomic
from swarmd.simulation.daemons.disks import TroubledDisk
from swarmd.simulation.scenario import DISK_FAULTS, Fault, FaultKind, Scenario, Takes

RESERVE_BYTES: Final = 16 * MIB
"""What stores on small disks leave to the ledger; a run writes a tenth of it."""
SLACK_BYTES: Final = 16 * MIB
"""What small disks have beyond that and the images: for what is written before they are full."""
MEMORY_BYTES_MAX: Final = 4 * 1024 * MIB
"""What all small disks together may take: they lie in memory."""
COMMAND_S: Final = 30.0
"""How long mounting may take, seconds."""
_FILLER: Final = "filler"


class WatchedDisk(TroubledDisk):
    """A disk that does what a file says; whoever writes that file replaces it."""

    def __init__(self, reserve_bytes: int, path: Path) -> None:
        """Looks at the file before whatever it does; there may be none at first."""
        super().__init__(reserve_bytes, time.sleep)
        self._path = path
        self._told = (0, 0)
        self._filled: object = None

    def obey(self) -> None:
        """Does what the file says by now."""
        try:
            status = self._path.stat()
            told = (status.st_ino, status.st_mtime_ns)  # numbers of files are used again
            if told == self._told:
                return
            orders = json.loads(self._path.read_text("utf-8"))
        except FileNotFoundError:
            return
        self._told = told
        self.write_s = orders["write_s"]
        if orders["full"] != self._filled:
            self._filled = orders["full"]
            if self._filled is None:
                self.room.clear()
            else:
                _, left_bytes, takes = orders["full"]
                self.room.fill(left_bytes, Takes(takes))

    def free_bytes(self, path: Path) -> int:
        """As the file says."""
        self.obey()
        return super().free_bytes(path)

    def allocate(self, descriptor: int, size: int) -> None:
        """As the file says."""
        self.obey()
        super().allocate(descriptor, size)

    def write_at(self, descriptor: int, data: memoryview, offset: int) -> int:
        """As the file says."""
        self.obey()
        return super().write_at(descriptor, data, offset)


class Disks(Protocol):
    """What may befall the disks of processes."""

    def prepare(self, directories: Sequence[DataDir]) -> None:
        """Makes the disks of nodes that do not run yet."""
        ...

    def orders(self, name: str) -> Path | None:
        """What a node's process is to obey; None: nothing, it is `swarmd run`."""
        ...

    def trouble(self, fault: Fault, names: Sequence[str]) -> None:
        """Fills or slows the disks of nodes."""
        ...

    def relieve(self, fault: Fault, names: Sequence[str]) -> None:
        """Ends that."""
        ...


@dataclasses.dataclass
class _Told:
    full: tuple[int, int, str] | None = None
    """Number of the order, bytes left, what is taken."""
    write_s: float = 0.0


class ToldDisks:
    """Disks that daemons only believe in; see the module's docstring."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        """Writes orders into a folder, if the scenario has any."""
        self._folder = folder
        self._is_needed = any(fault.kind in DISK_FAULTS for fault in scenario.faults)
        self._told: dict[str, _Told] = {}
        self._count = 0

    def prepare(self, directories: Sequence[DataDir]) -> None:
        """Nothing: they are as they were."""

    def orders(self, name: str) -> Path | None:
        """The file of orders."""
        return self._folder / f"{name}.disk" if self._is_needed else None

    def trouble(self, fault: Fault, names: Sequence[str]) -> None:
        """Fills or slows."""
        for name in names:
            told = self._told.setdefault(name, _Told())
            self._count += 1
            if fault.kind is FaultKind.FULL_DISK:
                told.full = (self._count, fault.free_kib * KIB, fault.takes.value)
            else:
                told.write_s = fault.verify_ms / 1000
            self._tell(name, told)

    def relieve(self, fault: Fault, names: Sequence[str]) -> None:
        """Ends that."""
        for name in names:
            told = self._told.setdefault(name, _Told())
            if fault.kind is FaultKind.FULL_DISK:
                told.full = None
            else:
                told.write_s = 0.0
            self._tell(name, told)

    def _tell(self, name: str, told: _Told) -> None:
        path = self.orders(name)
        assert path is not None, "scenarios with faults of disks need orders"
        write_atomic(path, json.dumps(dataclasses.asdict(told)).encode())


class SmallDisks(ToldDisks):
    """Disks in memory that are really full, a context manager: unmounted whatever happens."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        """Plans them.

        Raises:
            ConfigError: they would take too much memory.
        """
        super().__init__(scenario, folder)
        images_bytes = len(scenario.releases) * scenario.image.size_kib * KIB
        self._size_bytes = RESERVE_BYTES + SLACK_BYTES + images_bytes * 9 // 8
        self._is_needed_full = any(fault.kind is FaultKind.FULL_DISK for fault in scenario.faults)
        self._mounted: dict[str, Path] = {}
        if self._is_needed_full:
            total_bytes = self._size_bytes * scenario.gateways.count
            if total_bytes > MEMORY_BYTES_MAX:
                raise ConfigError(
                    f"image.size_kib: small disks would take {total_bytes >> 20} MiB of memory, "
                    f"allowed {MEMORY_BYTES_MAX >> 20}"
                )

    def __enter__(self) -> Self:
        """Nothing is mounted yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Unmounts all; their content is gone then."""
        while self._mounted:
            _, path = self._mounted.popitem()
            with contextlib.suppress(TransportError):
                _run("umount", "-l", str(path))

    def prepare(self, directories: Sequence[DataDir]) -> None:
        """Moves nodes' data to small disks.

        Raises:
            TransportError: the system refuses to mount.
        """
        for data in directories if self._is_needed_full else ():
            config = data.load_config()
            storage = dataclasses.replace(config.storage, reserve_bytes=RESERVE_BYTES)
            text = render_config(dataclasses.replace(config, storage=storage))
            write_atomic(data.config, text.encode())
            made = data.path.with_name(f"{data.path.name}.made")
            data.path.rename(made)
            data.path.mkdir(mode=0o700)
            options = f"size={self._size_bytes},mode=0700"
            _run("mount", "-t", "tmpfs", "-o", options, "swarmd-disk", str(data.path))
            self._mounted[data.path.name] = data.path
            shutil.copytree(made, data.path, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(made)

    def trouble(self, fault: Fault, names: Sequence[str]) -> None:
        """Fills what is free, or tells to be slow."""
        if fault.kind is not FaultKind.FULL_DISK:
            super().trouble(fault, names)
            return
        for name in names:
            filler = self._mounted[name] / _FILLER
            filler.unlink(missing_ok=True)
            status = os.statvfs(self._mounted[name])
            left_bytes = RESERVE_BYTES + fault.free_kib * KIB
            taken_bytes = status.f_bavail * status.f_frsize - left_bytes
            if taken_bytes > 0:
                with filler.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, taken_bytes)

    def relieve(self, fault: Fault, names: Sequence[str]) -> None:
        """Ends that."""
        if fault.kind is not FaultKind.FULL_DISK:
            super().relieve(fault, names)
            return
        for name in names:
            (self._mounted[name] / _FILLER).unlink(missing_ok=True)


def _run(*command: str) -> None:
    """Runs a command that must succeed.

    Raises:
        TransportError: it does not.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TransportError(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines() or ["no reason given"]
        raise TransportError(f"{' '.join(command)[:200]}: {reason[-1][:300]}")
