"""Control methods of offline bundles: what an export is made of, have-files, and the import.

The file itself is written by the command, which runs as the operator; the daemon writes nowhere but
in its own folder. Chunks are read by the command straight from the image files and hashed against
the recipe, so that gigabytes do not pass the control socket.
"""

from __future__ import annotations

import logging
import os
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from heapq import merge
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import trio

from chunks.recipe_page import RecipePager
from chunks.store import ChunkStore, ImageState
from protocol.catchup import (
    BLOCKS_BYTES_MAX,
    NONCE_BYTES,
    BlocksAnswer,
    FreshnessAnswer,
    FreshnessRequest,
    encode_ledger_message,
    parse_freshness,
)
from protocol.digest import Digest, ManifestId, sha256
from protocol.errors import (
    PolicyError,
    RemoteProtocolError,
    StorageError,
    TransportError,
    VerificationError,
)
from protocol.genesis import Genesis
from protocol.limits import COMPONENTS_MAX
from protocol.manifest import Component
from swarmd.authority import Authority
from swarmd.bundle_format import (
    HAVE_CHUNKS_MAX,
    HAVE_IMAGES_MAX,
    HAVE_PREFIX_BYTES,
    MANIFESTS_MAX,
    HaveFile,
    SectionReader,
    check_regular,
)
from swarmd.control.params import Params
from swarmd.datadir import storage_errors, write_atomic
from swarmd.entropy import Entropy
from swarmd.freshness import FreshnessRound
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.peers import PeerClass, PeerRegistry
from swarmd.questions import Denial
from swarmd.receipts import ReceiptKind
from swarmd.services.bundle_import import BundleImport, Outcome, Surroundings
from swarmd.services.cosigning import Ask
from swarmd.services.freshness import FreshnessService, Statement
from swarmd.services.images import ImageService
from swarmd.services.receipts import ReceiptService
from swarmd.services.release_desk import known_manifest
from swarmd.services.sealing import SealingService

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON
    from swarmd.control.server import Handler, Report

logger = logging.getLogger(__name__)

NONCES_MAX: Final = 8
"""Have-files whose nonces are remembered, the newest ones."""
HAVE_NAME: Final = "wanted.have"
"""In the data directory: the last have-file, for the command to copy."""
ASK_S: Final = 20.0
"""How long validators may take to sign a nonce, seconds."""


_PREFIX_TYPE: Final = "Q"
"""Array type of chunk prefixes: unsigned, 8 bytes."""


class BundleDesk:
    """Implements the methods."""

    def __init__(
        self,
        *,
        data: Path,
        ledger: LedgerHost,
        genesis: Genesis,
        authority: Authority,
        registry: PeerRegistry,
        store: ChunkStore,
        images: ImageService,
        note_use: Callable[[Digest], None],
        image_path: Callable[[Digest], Path],
        sealing: SealingService,
        receipts: ReceiptService,
        freshness: FreshnessService,
        ask: Ask,
        entropy: Entropy,
        monotonic: Callable[[], float],
    ) -> None:
        """Speaks to the parts of a node; `note_use` keeps an image, `monotonic` gives seconds."""
        self._note_use = note_use
        self._data = data
        self._ledger = ledger
        self._genesis = genesis
        self._authority = authority
        self._registry = registry
        self._store = store
        self._images = images
        self._image_path = image_path
        self._sealing = sealing
        self._receipts = receipts
        self._freshness = freshness
        self._ask = ask
        self._entropy = entropy
        self._monotonic = monotonic
        self._nonces: dict[bytes, float] = {}
        self._pager: tuple[Digest, RecipePager] | None = None
        self._importing = trio.Lock()
        self._limiter = trio.CapacityLimiter(1)

    def handlers(self) -> Mapping[str, Handler]:
        """Methods by name."""
        return {
            "bundle_wanted": self._wanted,
            "bundle_plan": self._plan,
            "bundle_covered": self._covered,
            "bundle_freshness": self._statements,
            "bundle_blocks": self._blocks,
            "bundle_page": self._page,
            "bundle_import": self._import,
        }

    # -- what a cut-off gateway says -----------------------------------------------------------

    async def _wanted(self, params: Mapping[str, object], _report: Report) -> JSON:
        """Makes a have-file, and remembers when its nonce was drawn."""
        Params(params).finish()
        nonce, drawn_at = self._entropy.token(NONCE_BYTES), self._monotonic()
        images = await trio.to_thread.run_sync(self._held_images)
        head = self._ledger.chain.head
        have = HaveFile(
            chain=self._ledger.chain_id,
            era=head.era,
            height=head.height,
            epoch=self._ledger.chain.validators.epoch,
            nonce=nonce,
            images=images,
        )
        raw, path = have.encode(), self._data / HAVE_NAME
        await trio.to_thread.run_sync(write_atomic, path, raw)
        self._nonces[nonce] = drawn_at
        while len(self._nonces) > NONCES_MAX:
            self._nonces.pop(next(iter(self._nonces)))
        return {
            "path": str(path),
            "sha256": sha256(raw).hex(),
            "size": len(raw),
            "height": head.height,
            "chunks": have.chunk_count,
        }

    def _held_images(self) -> tuple[tuple[Digest, bytes], ...]:
        """Images with the prefixes of their chunks held, newest first; for a worker thread."""
        # Arrays, not sets: a million chunks take 8 MiB so, and ten times as much otherwise.
        seen = array(_PREFIX_TYPE)
        found: list[tuple[Digest, bytes]] = []
        for record in reversed(self._store.images()):
            if record.state is ImageState.LOCKED or len(found) == HAVE_IMAGES_MAX:
                continue
            try:
                held = sorted(set(self._prefixes(record.image)))
            except StorageError as error:
                logger.info("image %s is left out: %s", record.image.hex()[:8], error)
                continue
            new = [prefix for prefix in held if not _is_in(seen, prefix)]
            new = new[: HAVE_CHUNKS_MAX - len(seen)]
            seen = array(_PREFIX_TYPE, merge(seen, new))
            chunks = b"".join(prefix.to_bytes(HAVE_PREFIX_BYTES, "big") for prefix in new)
            found.append((record.image, chunks))
        return tuple(found)

    def _prefixes(self, image: Digest) -> Iterator[int]:
        recipe, have = self._store.recipe(image), self._store.have(image)
        for index in range(recipe.chunk_count):
            if have[index >> 3] & 0x80 >> (index & 7):
                yield int.from_bytes(recipe.digest(index)[:HAVE_PREFIX_BYTES], "big")

    async def _covered(self, params: Mapping[str, object], _report: Report) -> JSON:
        """Which of these images an authorised manifest names, by this node's newest state.

        One that is revoked in the blocks of a bundle is deleted when they are taken in, and nothing
        of it can be used again.
        """
        reader = Params(params)
        images = reader.hex_list("images", items_max=HAVE_IMAGES_MAX, bytes_max=32)
        reader.finish()
        covered = [image.hex() for image in images if self._images.is_covered(Digest(image))]
        return {"images": [*covered]}

    # -- what an export is made of -------------------------------------------------------------

    async def _plan(self, params: Mapping[str, object], _report: Report) -> JSON:
        """The images that a bundle may hold, and where the command finds them."""
        reader = Params(params)
        wanted: list[ManifestId] = []
        if reader.has("manifests"):
            named = reader.hex_list("manifests", items_max=MANIFESTS_MAX, bytes_max=32)
            wanted = [ManifestId(raw) for raw in dict.fromkeys(named)]
        reader.finish()
        if not wanted:
            rows = self._images.overview()
            wanted = [row.manifest for row in rows if row.standing == "authorised"]
            wanted = [item for item in wanted if self._is_whole(item)][-MANIFESTS_MAX:]
        chain = self._ledger.chain
        checkpoint = await self._ledger.run(chain.checkpoint)
        return {
            "chain": self._ledger.chain_id.hex(),
            "era": chain.rules.era,
            "height": chain.head.height,
            "checkpoint": None if checkpoint is None else checkpoint.encode().hex(),
            "manifests": [self._planned(manifest) for manifest in wanted],
        }

    def _is_whole(self, manifest: ManifestId) -> bool:
        held = {
            record.image for record in self._store.images() if record.state is ImageState.COMPLETE
        }
        components = self._ledger.manifests[manifest].manifest.components
        return all(component.digest in held for component in components)

    def _planned(self, manifest: ManifestId) -> JSON:
        content = known_manifest(self._ledger, manifest).manifest
        verdict = self._authority.may_fetch(manifest)
        if isinstance(verdict, Denial):
            raise verdict.error()
        if not self._is_whole(manifest):
            raise PolicyError("bundle.incomplete", f"{manifest.hex()[:8]} is not complete here")
        rings = dict.fromkeys(
            component.sealing.ring.hex()
            for component in content.components
            if component.sealing is not None and self._sealing.shelf.get(component.sealing.ring)
        )
        return {
            "manifest": manifest.hex(),
            "raw": self._ledger.manifests[manifest].signed.raw.hex(),
            "paths": [str(self._image_path(item.digest)) for item in content.components],
            "rings": list(rings),
        }

    async def _blocks(self, params: Mapping[str, object], _report: Report) -> JSON:
        """A run of blocks from a height on, as the ledger stream would give it."""
        reader = Params(params)
        start = reader.uint("from", minimum=1)
        reader.finish()
        chain = self._ledger.chain

        def read() -> tuple[int, bytes]:
            if start > chain.head.height:
                return start - 1, b""
            if start < chain.first_block:
                raise PolicyError("blocks.pruned", f"blocks from {chain.first_block} on are kept")
            raws, certificate = chain.blocks(start, BLOCKS_BYTES_MAX)
            if certificate is None:
                return start - 1, b""
            answer = BlocksAnswer(blocks=raws, certificate=certificate.encode())
            return start - 1 + len(raws), encode_ledger_message(answer)

        last, body = await self._ledger.run(read)
        return {"last": last, "blocks": body.hex()}

    async def _page(self, params: Mapping[str, object], _report: Report) -> JSON:
        """Some pages of a component's recipe, each with its proof."""
        reader = Params(params)
        manifest = ManifestId(reader.hex_bytes("manifest", size=32))
        number = reader.uint("component", maximum=COMPONENTS_MAX - 1)
        page = reader.uint("page", maximum=255)
        reader.finish()
        components = known_manifest(self._ledger, manifest).manifest.components
        if number >= len(components):
            raise PolicyError("component.unknown", f"the manifest has no component {number}")
        self._note_use(components[number].digest)  # the command is about to read it
        make = partial(self._make_page, components[number], page)
        return {"page": (await trio.to_thread.run_sync(make, limiter=self._limiter)).hex()}

    def _make_page(self, component: Component, page: int) -> bytes:
        if self._pager is None or self._pager[0] != component.digest:
            self._pager = (component.digest, RecipePager(self._store.recipe(component.digest)))
        pager = self._pager[1]
        if page >= pager.page_count:
            raise PolicyError("bundle.page", f"the recipe has {pager.page_count} pages")
        return pager.page(page).encode()

    async def _statements(self, params: Mapping[str, object], _report: Report) -> JSON:
        """Has validators sign the nonce of a have-file."""
        reader = Params(params)
        nonce = reader.hex_bytes("nonce", size=NONCE_BYTES)
        reader.finish()
        found: dict[int, Statement] = {}
        question = FreshnessRound(nonce, self._monotonic(), self._freshness.validator_keys)

        def keep(answer: FreshnessAnswer) -> None:
            # Verified before it takes a seat: a liar who is first keeps no honest one out.
            for statement in answer.statements:
                count = question.answer_count
                try:
                    question.add(FreshnessAnswer(statements=(statement,)), self._ledger.chain_id)
                    if question.answer_count > count:
                        found[parse_freshness(statement[0]).freshness.validator] = statement
                except VerificationError as error:
                    logger.info("a statement of freshness is not right: %s", error)

        keep(FreshnessAnswer(statements=await self._freshness.own_statements(nonce)))
        with trio.move_on_after(ASK_S):
            async with trio.open_nursery() as nursery:
                for peer in self._registry.at_least(PeerClass.MEMBER):
                    relay = peer.peer_class is PeerClass.MEMBER
                    request = FreshnessRequest(nonce=nonce, relay=relay)
                    nursery.start_soon(self._ask_one, peer.key, request, keep)
        statements = tuple(found[index] for index in sorted(found))
        body = encode_ledger_message(FreshnessAnswer(statements=statements))
        return {"statements": body.hex() if statements else "", "count": len(statements)}

    async def _ask_one(
        self,
        peer: PeerKey,
        request: FreshnessRequest,
        keep: Callable[[FreshnessAnswer], None],
    ) -> None:
        try:
            answer = await self._ask(peer, request)
        except (TransportError, PolicyError, RemoteProtocolError, VerificationError) as error:
            logger.debug("freshness for a bundle: %s", error)
            return
        if isinstance(answer, FreshnessAnswer):
            keep(answer)

    # -- taking one in -------------------------------------------------------------------------

    async def _import(self, params: Mapping[str, object], report: Report) -> JSON:
        reader = Params(params)
        path = Path(reader.path("path"))
        reader.finish()
        if self._importing.locked():
            raise PolicyError("bundle.busy", "another bundle is being taken in")
        async with self._importing:
            file = await trio.to_thread.run_sync(_open, path)
            try:
                total = check_regular(file)

                async def progress(offset: int) -> None:
                    await report({"stage": "taking in", "bytes": offset, "total": total})

                bundle = await trio.to_thread.run_sync(SectionReader, file)
                outcome = await BundleImport(self._surroundings(), bundle, self._limiter).run(
                    progress
                )
            finally:
                await trio.to_thread.run_sync(file.close)
        await self._note(outcome)
        return {**asdict(outcome), "height": self._ledger.chain.head.height}

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            ledger=self._ledger,
            genesis=self._genesis,
            authority=self._authority,
            store=self._store,
            take_ring=self._sealing.take,
            confirm=self._confirm,
            wake=self._images.wake,
            note_use=self._note_use,
        )

    async def _note(self, outcome: Outcome) -> None:
        """Writes what came into the receipt log, as for what comes from peers."""
        for name in outcome.stored:
            manifest = ManifestId(bytes.fromhex(name))
            await self._receipts.note(ReceiptKind.FETCHED, manifest=manifest, detail="bundle")
        for name, rule in outcome.refused.items():
            manifest = ManifestId(bytes.fromhex(name))
            detail = f"bundle: {rule}"
            await self._receipts.note(ReceiptKind.REFUSED, manifest=manifest, detail=detail)

    def _confirm(self, answer: FreshnessAnswer) -> bool:
        """Judges statements about each nonce of this run; the age counts from when it was drawn."""
        for nonce, drawn_at in tuple(self._nonces.items()):
            question = FreshnessRound(nonce, drawn_at, self._freshness.validator_keys)
            for statement in answer.statements:  # each by itself: one that is bad spoils no other
                try:
                    question.add(FreshnessAnswer(statements=(statement,)), self._ledger.chain_id)
                except VerificationError as error:
                    logger.debug("a statement about another nonce, or a bad one: %s", error)
            if self._freshness.confirm_round(question):
                return True
        return False


def _is_in(items: array[int], wanted: int) -> bool:
    """Whether a sorted array has an item."""
    place = bisect_left(items, wanted)
    return place < len(items) and items[place] == wanted


def _open(path: Path) -> BinaryIO:
    """Opens a file for reading; a pipe without a writer must not hold the thread.

    Raises:
        StorageError: missing or unreadable.
    """
    with storage_errors(f"cannot read {path}"):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        return os.fdopen(descriptor, "rb")
