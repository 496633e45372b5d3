"""Makes the files of a store agree with its index when it is opened.

The index is the truth: a file under the other name of its image is renamed back, a file no image
owns is deleted, an image without its file is forgotten. Files whose names are not of our making
are left alone. Each step may itself be cut off by a crash and is then done again.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Final

from chunks.file_backend import FileBackend
from chunks.held_image import HeldImage
from chunks.index_database import IndexDatabase, IndexedImage
from chunks.store import ImageState
from protocol.digest import Digest, short

IMAGES: Final = "images"
"""Directory of complete and partial images."""
STAGING: Final = "staging"
"""Directory of staged images."""
PART_SUFFIX: Final = ".part"
"""Ends the name of a file that is not complete."""
INCOMING_PREFIX: Final = "incoming-"
"""Starts the name of a file that is being staged; a number follows."""

_OUR_NAME = re.compile(r"(?:[0-9a-f]{64}(?:\.part)?|incoming-[0-9]+\.part)\Z")
_log = logging.getLogger(__name__)


def image_path(root: Path, image: Digest, state: ImageState) -> Path:
    """Where an image's file belongs."""
    name = image.hex() + (PART_SUFFIX if state is ImageState.PARTIAL else "")
    return root / (STAGING if state is ImageState.STAGED else IMAGES) / name


def recover(root: Path, backend: FileBackend, index: IndexDatabase) -> list[HeldImage]:
    """Mends what a crash left between the index and the files.

    Returns:
        The images that are held, in order of arrival.

    Raises:
        OSError: a file could not be renamed or deleted.
        StorageError: the index is damaged.
    """
    indexed = index.images()
    unstaged = {entry.image for entry in indexed if entry.state is not ImageState.STAGED}
    held: list[HeldImage] = []
    for entry in indexed:
        path = _settle_file(root, backend, entry, promoted=entry.image not in unstaged)
        if path is None:
            _log.warning("image %s has lost its file: forgotten", short(entry.image))
            index.delete(entry.row)
        else:
            held.append(_hold(entry, path))
    _delete_strays(root, backend, {image.path for image in held})
    return held


def _settle_file(
    root: Path, backend: FileBackend, entry: IndexedImage, *, promoted: bool
) -> Path | None:
    """Brings an image's file to its place; None if there is no file of the right size."""
    path = image_path(root, entry.image, entry.state)
    if backend.file_size(path) == entry.size_bytes:
        return path
    others = {
        ImageState.PARTIAL: ImageState.COMPLETE,
        ImageState.COMPLETE: ImageState.PARTIAL,
        # A promotion that was cut off; unless another image owns that name.
        ImageState.STAGED: ImageState.COMPLETE if promoted else ImageState.STAGED,
    }
    other = image_path(root, entry.image, others[entry.state])
    if backend.file_size(other) != entry.size_bytes:
        return None
    backend.rename(other, path)
    backend.sync_directory(path.parent)
    backend.sync_directory(other.parent)
    return path


def _hold(entry: IndexedImage, path: Path) -> HeldImage:
    return HeldImage(
        row=entry.row,
        image=entry.image,
        size_bytes=entry.size_bytes,
        recipe_root=entry.recipe_root,
        state=entry.state,
        path=path,
        have=entry.have.copy(),
        durable=entry.have,
        locked=entry.locked,
        may_hold_more=entry.state is ImageState.PARTIAL,
    )


def _delete_strays(root: Path, backend: FileBackend, owned: set[Path]) -> None:
    for name in (IMAGES, STAGING):
        for entry in sorted(backend.list_directory(root / name)):
            path = root / name / entry
            if path not in owned and _OUR_NAME.match(entry):
                backend.unlink(path)
        backend.sync_directory(root / name)
