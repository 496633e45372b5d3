"""Makes the patches that a release is published with, and stages them beside its image.

A base is an image that this node holds completely, as a component of a release, or a file. Patches
are built in worker threads into a folder of their own under the node's directory, which is emptied
before and after.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chunks.byte_source import FileSource, StoreSource
from chunks.chunker import cut
from chunks.layout import fixed_parameters
from chunks.patch import ByteSource
from chunks.patch_builder import build_patch, fitting_plan, is_promising
from chunks.recipe import Recipe, RecipeBuilder
from chunks.store import ChunkStore, ImageState, StagedImage
from protocol.digest import Digest, ManifestId, sha256
from protocol.errors import ConfigError, PolicyError, StorageError, SwarmError
from protocol.limits import (
    CHUNKS_PER_COMPONENT_MAX,
    IMAGE_BYTES_MAX,
    KIB,
    MIB,
    PATCHES_PER_COMPONENT_MAX,
)
from protocol.manifest import ChunkerParameters, Manifest, PatchReference
from swarmd.ledger_host import LedgerHost

logger = logging.getLogger(__name__)

PATCH_CHUNKER: Final = fixed_parameters(64 * KIB)
"""How patch objects are cut: compressed bytes have nothing in common with others."""
LATEST: Final = "latest"
"""As a base: what the release's groups run now."""
_PAYS_NUMERATOR: Final = 19
_PAYS_DENOMINATOR: Final = 20
"""A patch with more than 19/20 of the bytes that chunk reuse would leave is not published."""
_READ_BYTES: Final = 1 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class MadePatch:
    """A patch that was staged, or the reason why it was not."""

    base: Digest
    """The image it applies to."""
    missing_bytes: int
    """Bytes of chunks that the base does not have: what is fetched without the patch, unpacked."""
    patch_bytes: int
    """Bytes of the patch."""
    reference: PatchReference | None
    """None: it would not have saved enough."""


class PatchMaker:
    """See the module's docstring. One release at a time: callers take turns."""

    def __init__(self, ledger: LedgerHost, store: ChunkStore, folder: Path) -> None:
        """Works on a store; `folder` is this object's own."""
        self._ledger = ledger
        self._store = store
        self._folder = folder

    def bases(
        self, wanted: Sequence[str], *, product: str, groups: Sequence[str], component: str
    ) -> tuple[Digest | Path, ...]:
        """Finds the bases that a publisher asked for; blocks.

        Args:
            wanted: each `LATEST`, a manifest id in hex, or the absolute path of a file.
            product: what the release is for.
            groups: its target groups.
            component: which component of an earlier release is meant.

        Raises:
            PolicyError: a manifest that is unknown, or whose image is not held (`patch.base`).
        """
        found: dict[Digest | Path, None] = {}
        for text in wanted:
            if text == LATEST:
                for image in self._latest(product, groups, component):
                    found[image] = None
            elif text.startswith("/"):
                found[Path(text)] = None
            else:
                found[self._named(text, component)] = None
        if len(found) > PATCHES_PER_COMPONENT_MAX:
            raise PolicyError(
                "patch.count", f"{len(found)} bases, at most {PATCHES_PER_COMPONENT_MAX}"
            )
        return tuple(found)

    def _latest(self, product: str, groups: Sequence[str], component: str) -> Iterator[Digest]:
        """Images that the groups run now and this node holds."""
        state = self._ledger.chain.state
        for group in groups:
            latest = state.latest(group, product)
            signed = None if latest is None else self._ledger.manifests.get(latest.manifest)
            image = None if signed is None else _image_of(signed.manifest, component)
            if image is not None and self._is_held(image):
                yield image

    def _named(self, text: str, component: str) -> Digest:
        try:
            manifest = ManifestId(Digest(bytes.fromhex(text)))
        except ValueError:
            raise PolicyError("patch.base", f"{text[:80]!r} is no manifest id") from None
        signed = self._ledger.manifests.get(manifest)
        image = None if signed is None else _image_of(signed.manifest, component)
        if image is None or not self._is_held(image):
            raise PolicyError("patch.base", f"the image of {text[:8]} is not held here completely")
        return image

    def _is_held(self, image: Digest) -> bool:
        try:
            return self._store.record(image).state is ImageState.COMPLETE
        except StorageError:
            return False

    def make(
        self, bases: Sequence[Digest | Path], staged: StagedImage, parameters: ChunkerParameters
    ) -> tuple[MadePatch, ...]:
        """Builds and stages the patches from bases to a staged image; blocks, may take minutes.

        Args:
            bases: images held here, or files.
            staged: the new image.
            parameters: how it was cut.

        Returns:
            What was made, ascending by base; a base that is the image itself is left out.

        Raises:
            ConfigError: a file cannot be read as a base.
            StorageError: staging failed.
        """
        made: dict[Digest, MadePatch] = {}
        try:
            with _empty_folder(self._folder):
                for base in bases:
                    self._make_from(base, staged, parameters, made)
        except SwarmError:
            self.discard(tuple(made.values()))
            raise
        return tuple(made[base] for base in sorted(made))

    def discard(self, patches: Sequence[MadePatch]) -> None:
        """Frees staged patches that will not be published; blocks."""
        for one in patches:
            if one.reference is not None and not self._ledger.manifests_of(one.reference.digest):
                self._store.remove(one.reference.digest, staged=True)

    def _make_from(
        self,
        base: Digest | Path,
        staged: StagedImage,
        parameters: ChunkerParameters,
        made: dict[Digest, MadePatch],
    ) -> None:
        if isinstance(base, Path):
            with _file_base(base) as source:
                digest, recipe = _cut_base(source, base, parameters)
                if digest not in (staged.image, *made):
                    made[digest] = self._make(digest, source, recipe, staged)
        elif base not in (staged.image, *made):
            stored = StoreSource(self._store, base)
            made[base] = self._make(base, stored, self._store.recipe(base), staged)

    def _make(
        self, base: Digest, source: ByteSource, recipe: Recipe, staged: StagedImage
    ) -> MadePatch:
        missing_bytes = _missing_bytes(recipe, staged.recipe)
        plan = fitting_plan(recipe, staged.recipe)
        target = StoreSource(self._store, staged.image, staged=True)
        if not is_promising(plan, base=source, target=target):
            logger.info("patch from %s: nothing in common", base.hex()[:8])
            return MadePatch(
                base=base, missing_bytes=missing_bytes, patch_bytes=missing_bytes, reference=None
            )
        path = self._folder / f"{base.hex()}.patch"
        with path.open("xb") as output, (self._folder / base.hex()).open("x+b") as frames:
            patch_bytes = build_patch(
                plan,
                base=source,
                target=target,
                output=output,
                frames=frames,
            )
        reference = None
        if patch_bytes * _PAYS_DENOMINATOR <= missing_bytes * _PAYS_NUMERATOR:
            staged_patch = self._store.stage(path, PATCH_CHUNKER)
            reference = PatchReference(
                base=base,
                size=staged_patch.size_bytes,
                digest=staged_patch.image,
                chunker=PATCH_CHUNKER,
                chunk_count=staged_patch.recipe.chunk_count,
                recipe_root=staged_patch.recipe.root,
            )
        logger.info("patch from %s: %d bytes", base.hex()[:8], patch_bytes)
        return MadePatch(
            base=base, missing_bytes=missing_bytes, patch_bytes=patch_bytes, reference=reference
        )


def _image_of(manifest: Manifest, component: str) -> Digest | None:
    return next((one.digest for one in manifest.components if one.name == component), None)


def _missing_bytes(base: Recipe, target: Recipe) -> int:
    """Bytes of the target's chunks, each once, that the base does not have."""
    known = {base.digest(index): None for index in range(base.chunk_count)}
    missing = {
        target.digest(index): target.length(index)
        for index in range(target.chunk_count)
        if target.digest(index) not in known
    }
    return sum(missing.values())


def _file_base(path: Path) -> FileSource:
    try:
        return FileSource(path)
    except StorageError as error:
        raise ConfigError(str(error)) from error


def _cut_base(
    source: FileSource, path: Path, parameters: ChunkerParameters
) -> tuple[Digest, Recipe]:
    """Digest and recipe of a file, cut as the new image is; no more of it than it had."""
    if not 1 <= source.size_bytes <= IMAGE_BYTES_MAX:
        raise ConfigError(f"{path} has {source.size_bytes} bytes, at most {IMAGE_BYTES_MAX}")
    builder, whole, size_bytes, count = RecipeBuilder(), hashlib.sha256(), 0, 0
    with path.open("rb", buffering=_READ_BYTES) as file:
        for chunk in cut(file, parameters):  # type: ignore[arg-type]  # a buffered file fits
            size_bytes, count = size_bytes + len(chunk), count + 1
            if size_bytes > source.size_bytes or count > CHUNKS_PER_COMPONENT_MAX:
                break
            builder.add(len(chunk), sha256(chunk))
            whole.update(chunk)
    if count > CHUNKS_PER_COMPONENT_MAX:
        raise ConfigError(f"{path} has over {CHUNKS_PER_COMPONENT_MAX} chunks")
    if size_bytes != source.size_bytes:
        raise ConfigError(f"{path} is being changed")
    recipe = builder.build()
    return Digest(whole.digest()), recipe


@contextmanager
def _empty_folder(folder: Path) -> Iterator[None]:
    """A folder that is empty at first and gone in the end."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(mode=0o700)
        yield
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
