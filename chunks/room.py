"""How much a store may take: bytes and files of images, and what it must leave to others.

Everything is asked before a byte is written, for whole images: what a store holds, fetches and
stages together stays within its limits at every moment, and never grows into them by accident. The
reserve is room on the file system that images never take, so that the ledger and a validator's
votes, which lie beside them, can be written while intake has long stopped.
"""

from __future__ import annotations

from dataclasses import dataclass

from chunks.store import DiskFullError


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLimits:
    """Bounds of a store; None where there is none."""

    quota_bytes: int | None = None
    """Sum of the sizes of all images, held or not."""
    files_max: int | None = None
    """Images, each of which is one file."""
    reserve_bytes: int = 0
    """Bytes of the file system that images leave free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What is taken already."""

    image_bytes: int
    """Sum of the sizes of all images."""
    image_count: int
    """Images."""
    staging_bytes: int = 0
    """Bytes that stagings under way may still write."""
    staging_count: int = 0
    """Stagings under way."""


def check_limits(limits: StoreLimits, usage: Usage, more_bytes: int) -> None:
    """Refuses one more image that passes the quota or the number of files.

    Raises:
        DiskFullError: there is no room; the message says by which limit.
    """
    total = usage.image_bytes + usage.staging_bytes + more_bytes
    if limits.quota_bytes is not None and total > limits.quota_bytes:
        raise DiskFullError(f"{total} bytes, the quota is {limits.quota_bytes}")
    count = usage.image_count + usage.staging_count + 1
    if limits.files_max is not None and count > limits.files_max:
        raise DiskFullError(f"{count} images, the limit is {limits.files_max}")


def check_reserve(limits: StoreLimits, usage: Usage, more_bytes: int, free_bytes: int) -> None:
    """Refuses one more image that would take what is left to ledger and votes.

    Raises:
        DiskFullError: the file system has less than that and the reserve.
    """
    left = free_bytes - usage.staging_bytes - more_bytes
    if limits.reserve_bytes and left < limits.reserve_bytes:
        raise DiskFullError(
            f"{more_bytes} bytes would leave {max(left, 0)} on the disk, "
            f"{limits.reserve_bytes} are kept for the ledger"
        )


def missing_bytes(limits: StoreLimits, usage: Usage, more_bytes: int, free_bytes: int) -> int:
    """How many bytes of images would have to go, so that `more_bytes` more fit; 0 if they do."""
    missing = 0
    if limits.quota_bytes is not None:
        total = usage.image_bytes + usage.staging_bytes + more_bytes
        missing = max(missing, total - limits.quota_bytes)
    if limits.reserve_bytes:
        left = free_bytes - usage.staging_bytes - more_bytes
        missing = max(missing, limits.reserve_bytes - left)
    return missing


def missing_files(limits: StoreLimits, usage: Usage, more_files: int) -> int:
    """How many images would have to go, so that `more_files` more fit; 0 if they do."""
    if limits.files_max is None:
        return 0
    return max(0, usage.image_count + usage.staging_count + more_files - limits.files_max)
