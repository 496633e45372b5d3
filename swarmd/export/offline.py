"""Exports from the data directory of a daemon that is stopped, read-only.

It answers what exports ask of a daemon. Rows are read a few at a time; nothing is written and
nothing is created beside the database but SQLite's own lock files.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, Self

from ledger.header import Header, decode_header
from protocol.errors import LocalProtocolError, StorageError, TransportError
from swarmd.control.protocol import JSON
from swarmd.datadir import DataDir
from swarmd.export.tiles import checkpoint_of

BLOCKS_BYTES_MAX: Final = 1 << 20
"""Blocks read at a time; one more may be there, bytes."""


class OfflineLedger:
    """The ledger database of a stopped daemon; a context manager."""

    def __init__(self, directory: DataDir) -> None:
        """Opens the database of `directory`.

        Raises:
            TransportError: its daemon runs, but does not answer.
            StorageError: there is no ledger, or it cannot be read.
        """
        holder = directory.lock_holder()
        if holder is not None:
            raise TransportError(f"the daemon of {directory.path} (process {holder}) is busy")
        self._path: Path = directory.ledger_file
        if not self._path.is_file():
            raise StorageError(f"{self._path}: no ledger there")
        with self._guard():
            uri = f"{self._path.absolute().as_uri()}?mode=ro"
            self._database = sqlite3.connect(uri, uri=True)

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Closes the database."""
        self._database.close()

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StorageError(f"cannot read {self._path}: {error}") from error

    def call(
        self,
        method: str,
        params: Mapping[str, JSON],
        _on_progress: Callable[[Mapping[str, object]], None] | None = None,
    ) -> JSON:
        """Answers `status`, `blocks` and `checkpoint` as a daemon does, without cosignatures.

        Raises:
            StorageError: the database cannot be read.
        """
        head = self._head()
        match method:
            case "status":
                return {"height": head.height, "chain": head.chain.hex()}
            case "blocks":
                return {
                    "blocks": [raw.hex() for raw in self._blocks(params)],
                    "height": head.height,
                    "first": self._first(),
                }
            case "checkpoint":
                return {
                    "text": checkpoint_of(head).encode(),
                    "signatures": [],
                    "quorum": None,
                    "header": head.encoded.hex(),
                    "height": head.height,
                }
            case _:
                raise LocalProtocolError(f"{method} needs a daemon")

    def _head(self) -> Header:
        query = "SELECT header FROM headers ORDER BY height DESC LIMIT 1"
        with self._guard(), closing(self._database.execute(query)) as rows:
            row = rows.fetchone()
        if row is None:
            raise StorageError(f"{self._path}: an empty ledger")
        return decode_header(row[0])

    def _first(self) -> int:
        query = "SELECT min(height) FROM bodies WHERE height > 0"
        with self._guard(), closing(self._database.execute(query)) as rows:
            row = rows.fetchone()
        return 1 if row is None or row[0] is None else int(row[0])

    def _blocks(self, params: Mapping[str, JSON]) -> list[bytes]:
        """A run of bodies without a gap from a height on; empty if the first one is gone."""
        start, end = params["from"], params["to"]
        assert isinstance(start, int), "exports ask for heights"
        query = "SELECT height, block FROM bodies WHERE height BETWEEN ? AND ? ORDER BY height"
        found: list[bytes] = []
        size = 0
        with self._guard(), closing(self._database.execute(query, (start, end))) as rows:
            for height, block in rows:
                if height != start + len(found) or size > BLOCKS_BYTES_MAX:
                    break
                found.append(block)
                size += len(block)
        return found
