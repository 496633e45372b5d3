"""Writes an offline bundle from what a running daemon says and from its image files.

Runs in the operator's process: the daemon writes nowhere but in its own folder. Everything taken
from an image file is hashed against the recipe before it goes into the bundle, and the recipe
against the signed manifest. The file grows as `FILE.part`, in a fixed order; running the same
export again goes on behind the last whole chunk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from chunks.recipe import Recipe
from chunks.recipe_page import RecipeAssembler, decode_recipe_page, page_count
from protocol.catchup import (
    FreshnessAnswer,
    decode_ledger_message,
    encode_ledger_message,
    parse_freshness,
)
from protocol.digest import ChainId, Digest, ManifestId, verify_digest
from protocol.errors import PolicyError, RemoteProtocolError, VerificationError
from protocol.limits import MIB
from protocol.manifest import Component, parse_manifest
from swarmd.bundle_format import (
    HAVE_IMAGES_MAX,
    BundleError,
    BundleHead,
    BundleObject,
    HaveFile,
    HeldChunks,
    Section,
    SectionKind,
    SectionReader,
    SectionWriter,
    begin_bundle,
    check_regular,
    chunk_index,
    decode_head,
    decode_object,
    resume_bundle,
)
from swarmd.datadir import PUBLIC_FILE_MODE, read_bounded, storage_errors, sync_directory
from swarmd.proof_file import ProofFile

SYNC_BYTES: Final = 64 * MIB
"""Written bytes after which the file is made durable: what a power cut costs at most."""
Call = Callable[[str, Mapping[str, Any]], Any]
"""Asks the daemon one method."""
Progress = Callable[[Mapping[str, object]], None]
"""Told how far it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export wrote."""

    file: Path
    """The bundle."""
    size_bytes: int
    """Its bytes."""
    chunks: int
    """Chunks in it that this run wrote."""
    chunks_left_out: int
    """Chunks that the target has, or that repeat."""
    from_height: int
    """First block."""
    to_height: int
    """Last block."""
    statements: int
    """Validators that signed the have-file's nonce."""
    is_resumed: bool
    """Whether an interrupted export went on."""


Planned = tuple[BundleObject, Component, Path]
"""An object of an export, and the file it is read from."""


@dataclass(slots=True)
class _Position:
    """Where an interrupted export goes on."""

    end: int
    count: int
    objects: int
    """Objects that are in the file as a whole."""
    chunk: int
    """Last chunk of the next object that is there; -1: not even its pages."""


class BundleExport:
    """One export; `run` once."""

    def __init__(
        self,
        call: Call,
        *,
        genesis: bytes,
        target: Path,
        have: tuple[HaveFile, Digest] | None,
        progress: Progress,
    ) -> None:
        """Prepares an export.

        Args:
            call: asks the daemon.
            genesis: the chain's genesis document, for the proofs.
            target: the bundle; replaced once the new one is whole.
            have: the target's have-file and its SHA-256; None: a full bundle.
            progress: told bytes written.
        """
        self._call = call
        self._genesis = genesis
        self._target = target.absolute()
        self._part = self._target.with_name(f"{self._target.name}.part")
        self._have = have
        self._progress = progress
        self._held: HeldChunks | None = None
        self._written = 0
        self._left_out = 0
        self._unsynced = 0
        self._statements = 0

    def run(self, manifests: tuple[ManifestId, ...]) -> Exported:
        """Writes the bundle.

        Args:
            manifests: whose images; empty: all that the node holds whole and may pass on.

        Raises:
            PolicyError: the node refuses one of them, or lacks the blocks that the target needs.
            VerificationError: an image file or the daemon's answer is not what the manifest says.
            StorageError: the file cannot be written.
        """
        params = {"manifests": [item.hex() for item in manifests]} if manifests else {}
        plan = self._call("bundle_plan", params)
        self._check_plan(plan)
        with storage_errors(f"cannot write {self._part}"):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self._part, flags, PUBLIC_FILE_MODE)
            with os.fdopen(descriptor, "r+b") as file:
                check_regular(file)
                return self._write(file, plan)

    def _check_plan(self, plan: Any) -> None:
        if self._have is None:
            return
        have = self._have[0]
        if have.chain.hex() != plan["chain"]:
            raise PolicyError("bundle.chain", "the have-file is of another chain than this node")
        if have.era != plan["era"]:
            raise PolicyError("bundle.era", f"the have-file is of era {have.era}")
        named = [image.hex() for image, _ in have.images]
        covered = self._call("bundle_covered", {"images": named})["images"] if named else []
        self._held = HeldChunks(have, {Digest(bytes.fromhex(image)) for image in covered})

    def _write(self, file: BinaryIO, plan: Any) -> Exported:
        objects = _planned(plan)
        head, position = self._resumable(file, plan, objects)
        is_resumed = head is not None and position is not None
        if head is None or position is None:
            file.seek(0)
            file.truncate()
            writer = begin_bundle(file)
            head, position = self._write_facts(writer, plan), _Position(0, 0, 0, -1)
            # Durable before the first image: who goes on later relies on them.
            file.flush()
            os.fdatasync(file.fileno())
        else:
            writer = resume_bundle(file, position.end, position.count)
        for place, planned in enumerate(objects):
            if place >= position.objects:
                after = position.chunk if place == position.objects else -1
                self._write_object(writer, file, planned, after=after)
        writer.finish()
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
        self._check_covered([component.digest.hex() for _, component, _ in objects])
        self._part.replace(self._target)
        sync_directory(self._target.parent)
        return Exported(
            file=self._target,
            size_bytes=size,
            chunks=self._written,
            chunks_left_out=self._left_out,
            from_height=head.from_height,
            to_height=head.to_height,
            statements=self._statements,
            is_resumed=is_resumed,
        )

    def _check_covered(self, images: Sequence[str]) -> None:
        """Asks again before the bundle gets its name: a revocation may have come meanwhile."""
        for start in range(0, len(images), HAVE_IMAGES_MAX):
            asked = images[start : start + HAVE_IMAGES_MAX]
            covered = self._call("bundle_covered", {"images": list(dict.fromkeys(asked))})["images"]
            if any(image not in covered for image in asked):
                raise PolicyError("bundle.revoked", "an image was revoked while it was exported")

    # -- facts ---------------------------------------------------------------------------------

    def _write_facts(self, writer: SectionWriter, plan: Any) -> BundleHead:
        """Everything before the images. Statements are asked for first: they name a height."""
        have = None if self._have is None else self._have[0]
        statements = b""
        if have is not None:
            signed = self._call("bundle_freshness", {"nonce": have.nonce.hex()})
            statements = bytes.fromhex(signed["statements"])
        start = 1 if have is None else have.height + 1
        runs = self._runs(start)
        end = runs[-1][0] if runs else start - 1
        statements, self._statements = _statements_until(end, statements)
        head = BundleHead(
            chain=ChainId(bytes.fromhex(plan["chain"])),
            era=int(plan["era"]),
            from_height=start,
            to_height=end,
            manifests=tuple(
                ManifestId(bytes.fromhex(item["manifest"])) for item in plan["manifests"]
            ),
            have=None if self._have is None else self._have[1],
        )
        writer.write(SectionKind.HEAD, head.encode())
        if plan["checkpoint"] is not None:
            writer.write(SectionKind.CHECKPOINT, bytes.fromhex(plan["checkpoint"]))
        for last, before in runs:
            writer.write(SectionKind.BLOCKS, self._run(before, last))
        if statements:
            writer.write(SectionKind.FRESHNESS, statements)
        for item in plan["manifests"]:
            proof = self._call("prove", {"manifest": item["manifest"]})
            raw = ProofFile(self._genesis, bytes.fromhex(proof["proof"])).encode()
            writer.write(SectionKind.PROOF, raw)
        rings = dict.fromkeys(ring for item in plan["manifests"] for ring in item["rings"])
        for ring in rings:
            writer.write(SectionKind.RING, self._ring(ring))
        return head

    def _runs(self, start: int) -> list[tuple[int, int]]:
        """(last height, first height) of each run of blocks; two heights a run are remembered."""
        runs: list[tuple[int, int]] = []
        while True:
            answer = self._call("bundle_blocks", {"from": start})
            last = int(answer["last"])
            if not answer["blocks"] or last < start:
                return runs
            runs.append((last, start))
            start = last + 1

    def _run(self, start: int, last: int) -> bytes:
        answer = self._call("bundle_blocks", {"from": start})
        if int(answer["last"]) < last:
            raise RemoteProtocolError(f"the node gave fewer blocks from {start} than before")
        return bytes.fromhex(answer["blocks"])

    def _ring(self, ring: str) -> bytes:
        found = self._call("sealing_export", {"ring": ring})
        raw = read_bounded(Path(found["path"]), bytes_max=int(found["size"]))
        verify_digest("ring file", raw, bytes.fromhex(found["sha256"]))
        return raw

    # -- images --------------------------------------------------------------------------------

    def _recipe(self, named: BundleObject, component: Component) -> tuple[Recipe, list[bytes]]:
        """The recipe, checked under the manifest's root, and its pages as they are sent."""
        assembler = _assembler(component)
        pages: list[bytes] = []
        for number in range(page_count(component.chunk_count)):
            params = {
                "manifest": named.manifest.hex(),
                "component": named.component,
                "page": number,
            }
            raw = bytes.fromhex(self._call("bundle_page", params)["page"])
            assembler.add(decode_recipe_page(raw))
            pages.append(raw)
        return assembler.recipe(), pages

    def _write_object(
        self, writer: SectionWriter, file: BinaryIO, planned: Planned, *, after: int
    ) -> None:
        """Writes a component, or what follows chunk `after` of it."""
        named, component, path = planned
        recipe, pages = self._recipe(named, component)
        if after < 0:
            writer.write(SectionKind.OBJECT, named.encode())
            for page in pages:
                writer.write(SectionKind.PAGE, page)
        seen: dict[bytes, None] = {}
        with path.open("rb", buffering=0) as image:
            for index in range(recipe.chunk_count):
                digest = recipe.digest(index)
                if digest in seen or (self._held is not None and digest in self._held):
                    self._left_out += 1
                    continue
                if digest in recipe.repeats:
                    seen[digest] = None
                if index > after:
                    data = _read_chunk(image, recipe, index)
                    writer.write(SectionKind.CHUNK, index.to_bytes(4, "big"), data)
                    self._note(file, len(data))

    def _note(self, file: BinaryIO, size: int) -> None:
        self._written += 1
        self._unsynced += size
        if self._unsynced >= SYNC_BYTES:
            file.flush()
            os.fdatasync(file.fileno())
            self._unsynced = 0
            self._progress({"stage": "writing", "bytes": file.tell()})

    # -- going on ------------------------------------------------------------------------------

    def _resumable(
        self, file: BinaryIO, plan: Any, objects: Sequence[Planned]
    ) -> tuple[BundleHead | None, _Position | None]:
        """What an interrupted run of the same export left, if it got as far as the images."""
        try:
            file.seek(0)
            reader = SectionReader(file)
            head = decode_head(reader.next().body)
        except VerificationError:
            return None, None
        wanted = tuple(ManifestId(bytes.fromhex(item["manifest"])) for item in plan["manifests"])
        digest = None if self._have is None else self._have[1]
        same = (head.chain.hex(), head.era, head.manifests, head.have)
        if same != (plan["chain"], plan["era"], wanted, digest):
            return None, None
        return head, _Remains(reader, objects).end()


def _statements_until(height: int, body: bytes) -> tuple[bytes, int]:
    """Those statements that are about no block beyond `height`, and how many they are.

    The others are of no use for the bundle; one validator that lies spoils its own only.
    """
    answer = decode_ledger_message(body) if body else None
    if not isinstance(answer, FreshnessAnswer):
        return b"", 0
    kept = tuple(
        item for item in answer.statements if parse_freshness(item[0]).freshness.height <= height
    )
    return encode_ledger_message(FreshnessAnswer(statements=kept)) if kept else b"", len(kept)


class _Remains:
    """Reads what an interrupted export left, and checks it as an import would.

    A power cut may leave holes behind the last sync; what stands there is cut off, not passed on.
    """

    def __init__(self, reader: SectionReader, objects: Sequence[Planned]) -> None:
        """Reads on behind the head; `objects` are those of this export, in order."""
        self._reader = reader
        self._objects = objects
        self._place = -1
        self._assembler: RecipeAssembler | None = None
        self._recipe: Recipe | None = None

    def end(self) -> _Position | None:
        """The last place behind which an export can go on; None: nothing of the images is there."""
        count, position = 1, None
        while True:
            before = self._reader.offset
            try:
                section = self._reader.next()
                chunk = self._check(section)
            except VerificationError:
                return position
            count += 1
            if section.kind is SectionKind.OBJECT:
                position = _Position(before, count - 1, self._place, -1)
            elif section.kind is SectionKind.CHUNK:
                position = _Position(section.end, count, self._place, chunk)
            elif section.kind is SectionKind.END:
                return position

    def _check(self, section: Section) -> int:
        """Checks a section; the index of a chunk, -1 for others."""
        match section.kind:
            case SectionKind.OBJECT:
                self._place += 1
                named = decode_object(section.body)
                if self._place >= len(self._objects) or self._objects[self._place][0] != named:
                    raise BundleError("another object than this export writes there")
                self._assembler, self._recipe = _assembler(self._objects[self._place][1]), None
            case SectionKind.PAGE if self._assembler is not None:
                self._assembler.add(decode_recipe_page(section.body))
                if self._assembler.is_complete:
                    self._recipe = self._assembler.recipe()
            case SectionKind.CHUNK:
                index = chunk_index(section.body)
                if self._recipe is None or index >= self._recipe.chunk_count:
                    raise BundleError(f"chunk {index} of no object")
                verify_digest("chunk", section.body[4:], self._recipe.digest(index))
                return index
            case _:
                pass
        return -1


def _assembler(component: Component) -> RecipeAssembler:
    return RecipeAssembler(
        root=component.recipe_root,
        chunk_count=component.chunk_count,
        size_bytes=component.size,
        chunk_bytes_max=component.chunk_bytes_max,
    )


def _planned(plan: Any) -> list[Planned]:
    """The objects of a plan, in the order in which they are written."""
    return [
        (
            BundleObject(manifest=ManifestId(bytes.fromhex(item["manifest"])), component=number),
            component,
            Path(path),
        )
        for item in plan["manifests"]
        for number, (component, path) in enumerate(
            zip(_components(item), item["paths"], strict=True)
        )
    ]


def _components(item: Any) -> tuple[Component, ...]:
    """The components of a planned manifest, from its signed bytes.

    Raises:
        VerificationError: they are of another manifest.
    """
    signed = parse_manifest(bytes.fromhex(item["raw"]))
    verify_digest("manifest", signed.signed.raw, bytes.fromhex(item["manifest"]))
    return signed.manifest.components


def _read_chunk(image: BinaryIO, recipe: Recipe, index: int) -> bytes:
    """Reads and checks one chunk of an image file.

    Raises:
        VerificationError: the bytes on disk are not this chunk.
    """
    image.seek(recipe.offset(index))
    data = image.read(recipe.length(index))
    if len(data) != recipe.length(index):
        raise VerificationError(f"the image file ends in chunk {index}")
    verify_digest(f"chunk {index} in the image file", data, recipe.digest(index))
    return data
