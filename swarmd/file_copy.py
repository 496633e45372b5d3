"""Copies a file while hashing it: the copy appears whole and verified, or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Final

from protocol.errors import DigestMismatchError, VerificationError
from protocol.limits import MIB
from swarmd.datadir import PUBLIC_FILE_MODE, storage_errors

_COPY_BYTES: Final = 1 * MIB


def copy_verified(
    source: Path, target: Path, *, digest: bytes, size: int, mode: int = PUBLIC_FILE_MODE
) -> None:
    """Copies `source` to `target`, replacing it, if the bytes copied have this digest and size.

    Raises:
        VerificationError: other bytes; `target` is as it was.
        StorageError: the file system refused; `target` is as it was.
    """
    with storage_errors(f"cannot copy {source} to {target}"):
        descriptor, name = tempfile.mkstemp(dir=target.absolute().parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "wb") as copy, source.open("rb", buffering=0) as original:
                hasher, copied = hashlib.sha256(), 0
                while block := original.read(_COPY_BYTES):
                    hasher.update(block)
                    copied += len(block)
                    copy.write(block)
                if copied != size:
                    raise VerificationError(f"{source}: {copied} bytes, expected {size}")
                if hasher.digest() != digest:
                    raise DigestMismatchError(str(source), expected=digest, actual=hasher.digest())
                copy.flush()
                os.fchmod(copy.fileno(), mode)
                os.fsync(copy.fileno())
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
