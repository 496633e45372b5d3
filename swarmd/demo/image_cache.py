"""Images kept between runs of the demonstration, each checked against its digest on reuse."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from protocol.errors import StorageError

_INDEX: Final = "index.json"
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._+-]")


def default_cache() -> Path:
    """The user's cache folder for firmware (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification: a relative path there is invalid and ignored.
    root = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return root / "swarmd" / "firmware"


class ImageCache:
    """A folder with one file a version, and an index of their digests."""

    def __init__(self, root: Path, name: str) -> None:
        """Uses the subfolder `name` of `root`; nothing is written before `store`."""
        self._folder = root / name

    def load(self, versions: Sequence[str]) -> dict[str, Path] | None:
        """Returns the files of all these versions, or None if one is missing or damaged."""
        try:
            index = json.loads((self._folder / _INDEX).read_text(encoding="utf-8"))
            paths = {version: self._folder / _file_name(version) for version in versions}
            for version, path in paths.items():
                if hashlib.sha256(path.read_bytes()).hexdigest() != index[version]:
                    return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return paths

    def store(self, images: Mapping[str, bytes]) -> dict[str, Path]:
        """Writes images and their index; each file appears complete or not at all.

        Raises:
            StorageError: the folder cannot be written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            paths = {version: self._folder / _file_name(version) for version in images}
            for version, path in paths.items():
                _replace(path, images[version])
            index = {
                version: hashlib.sha256(image).hexdigest() for version, image in images.items()
            }
            _replace(self._folder / _INDEX, json.dumps(index, indent=1).encode())
        except OSError as error:
            raise StorageError(f"cannot keep images in {self._folder}: {error}") from error
        return paths


def _file_name(version: str) -> str:
    """A file name for a version text; Debian's epochs hold a colon."""
    return f"{_UNSAFE.sub('_', version)}.bin"


def _replace(path: Path, content: bytes) -> None:
    """Writes a file beside its place and renames it there."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
