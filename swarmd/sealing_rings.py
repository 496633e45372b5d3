"""Rings on disk: the newest verified file of each, and the content keys that open under own key.

`<data>/sealing/<ring>.ring` holds the signed bytes as they came. A file is judged by the ledger
before it comes here (`swarmd.services.sealing`); here the newest version wins, and an older one, or
another one of the same version, changes nothing (Z21). Content keys are opened when they are needed
and stay in memory; on disk there are only wraps.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.digest import ChainId, DidId, Digest, short
from protocol.errors import PolicyError, StorageError, VerificationError
from protocol.sealing import ContentKey
from protocol.sealing_ring import RING_FILE_BYTES_MAX, SignedRing, parse_ring
from swarmd.datadir import DIRECTORY_MODE, read_bounded, storage_errors, write_atomic
from swarmd.keys.sealing_key import SealingKey, WrapError

logger = logging.getLogger(__name__)

FOLDER: Final = "sealing"
"""Folder in the data directory."""
RINGS_MAX: Final = 256
"""Rings kept: some publishers' generations of many years; at 1 MiB each, 256 MiB at the very
worst, and usually some KiB."""
_SUFFIX: Final = ".ring"


@dataclass(frozen=True, slots=True, kw_only=True)
class RingView:
    """What an operator sees of a ring."""

    ring: Digest
    """Its id."""
    publisher: DidId
    """Who made it."""
    group: str
    """For whom."""
    generation: int
    """The how many-th."""
    version: int
    """Newest version known here."""
    members: int
    """How many may open it."""
    is_open: bool
    """Whether this node can."""


class RingShelf:
    """The rings of one data directory; methods block on storage and are for one thread at a time.

    `content_key` and `get` read memory only.
    """

    def __init__(self, path: Path, chain: ChainId, own_did: DidId, key: SealingKey) -> None:
        """Reads what is there; a file that cannot be read is left alone and not counted on.

        Raises:
            StorageError: the folder cannot be made or listed.
        """
        self._path = path / FOLDER
        self.chain: Final = chain
        """The chain."""
        self._own_did = own_did
        self._key = key
        self._rings: OrderedDict[Digest, SignedRing] = OrderedDict()
        self._opened: dict[Digest, tuple[SignedRing, ContentKey | None]] = {}
        with storage_errors(f"cannot use {self._path}"):
            self._path.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
            files = sorted(self._path.glob(f"*{_SUFFIX}"))
        for file in files[:RINGS_MAX]:
            self._load(file)

    def _load(self, file: Path) -> None:
        try:
            signed = parse_ring(read_bounded(file, bytes_max=RING_FILE_BYTES_MAX))
        except (StorageError, VerificationError) as error:
            logger.warning("ring file %s is not readable: %s", file.name, error)
            return
        ring = signed.file.ring(self.chain)
        if file.name != f"{ring.hex()}{_SUFFIX}":
            logger.warning("ring file %s holds another ring, %s", file.name, short(ring))
            return
        self._rings[ring] = signed

    def path_of(self, ring: Digest) -> Path:
        """Where the file of a ring lies."""
        return self._path / f"{ring.hex()}{_SUFFIX}"

    def get(self, ring: Digest) -> SignedRing | None:
        """The newest file of a ring, or None."""
        return self._rings.get(ring)

    def __iter__(self) -> Iterator[Digest]:
        """Ids of all rings."""
        return iter(tuple(self._rings))

    def put(self, signed: SignedRing) -> bool:
        """Keeps a verified ring file if it is newer than what is here.

        Returns:
            Whether it was.

        Raises:
            PolicyError: too many rings, or another file of a version that is here.
            StorageError: it cannot be written; the old one stands.
        """
        ring = signed.file.ring(self.chain)
        held = self._rings.get(ring)
        if held is not None:
            if signed.file.version < held.file.version or signed.digest == held.digest:
                return False
            if signed.file.version == held.file.version:
                raise PolicyError(
                    "sealing.version", f"another file of version {held.file.version} is here"
                )
        elif len(self._rings) >= RINGS_MAX:
            raise PolicyError("sealing.rings", f"{RINGS_MAX} rings are kept already")
        write_atomic(self.path_of(ring), signed.signed.raw)
        self._rings[ring] = signed
        self._opened.pop(ring, None)
        return True

    def remove(self, ring: Digest) -> None:
        """Forgets a ring.

        Raises:
            PolicyError: it is not here.
            StorageError: its file cannot be removed.
        """
        if ring not in self._rings:
            raise PolicyError("sealing.ring", f"no ring {short(ring)} here")
        path = self.path_of(ring)
        with storage_errors(f"cannot remove {path}"):
            path.unlink(missing_ok=True)
        del self._rings[ring]
        self._opened.pop(ring, None)

    def content_key(self, ring: Digest) -> ContentKey | None:
        """The content key of a ring, or None if this node is no member of it or lacks the file."""
        signed = self._rings.get(ring)
        if signed is None:
            return None
        known = self._opened.get(ring)
        if known is None or known[0] is not signed:  # a worker thread may put a newer file
            known = self._opened[ring] = (signed, self._open(signed))
        return known[1]

    def _open(self, signed: SignedRing) -> ContentKey | None:
        file = signed.file
        member = file.member(self._own_did)
        if member is None:
            return None
        try:
            return self._key.unwrap(member, file.name(self.chain), file.check)
        except WrapError as error:
            logger.warning("ring %s, %s: %s", file.group, file.generation, error)
            return None

    def newest_of(
        self, publisher: DidId, group: str, generation: int | None = None
    ) -> SignedRing | None:
        """A publisher's ring for a group, the newest generation unless one is named; or None."""
        own = [
            signed
            for signed in tuple(self._rings.values())
            if (signed.file.publisher, signed.file.group) == (publisher, group)
            and generation in (None, signed.file.generation)
        ]
        return max(own, key=lambda signed: signed.file.generation, default=None)

    def views(self) -> tuple[RingView, ...]:
        """All rings, by group and generation."""
        rows = [
            RingView(
                ring=ring,
                publisher=signed.file.publisher,
                group=signed.file.group,
                generation=signed.file.generation,
                version=signed.file.version,
                members=len(signed.file.members),
                is_open=self.content_key(ring) is not None,
            )
            for ring, signed in tuple(self._rings.items())
        ]
        return tuple(sorted(rows, key=lambda row: (row.group, row.generation, row.ring)))
