"""What a simulated node holds of one image and does about it: store, download, figures.

The host (`transfer_host`) owns streams and time; a part owns everything that concerns one manifest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from chunks.recipe_page import decode_recipe_page, verify_page
from protocol.bitfield import Bitfield
from protocol.digest import ChunkId, sha256
from protocol.download import Download
from protocol.errors import VerificationError
from protocol.exchange_events import (
    Blame,
    ChunkRefused,
    ChunksRead,
    ChunksStored,
    PageRead,
    PageRefused,
    PageVerified,
    ReadChunks,
    ReadPage,
    VerifyPage,
    WriteChunks,
)
from protocol.exchange_layout import Layout
from protocol.exchange_messages import BitfieldMessage, Have
from protocol.picker import RarestFirst
from protocol.relay import Relay
from protocol.relay_messages import Push, Run
from protocol.runs import Runs
from protocol.upload import ServedManifest
from protocol.upload_offers import Offers
from swarmd.simulation.exchange_host import SimulatedRelease


@dataclass(slots=True)
class PartFigures:
    """What one node moved of one image."""

    started_at: float
    """When the node began with it, simulated seconds."""
    finished_at: float | None = None
    """When it was complete and verified, simulated seconds."""
    sent_bytes: int = 0
    """Chunk bytes sent."""
    gained_bytes: int = 0
    """Chunk bytes verified and stored."""
    bad_bytes: int = 0
    """Chunk bytes received that did not match."""


class ImagePart:
    """See the module's docstring."""

    def __init__(
        self,
        release: SimulatedRelease,
        *,
        lane: int,
        held: Sequence[Iterable[int]] | None,
        wants: bool,
        entropy: int,
        relay: Relay | None,
        now: float,
    ) -> None:
        """Starts with some chunks.

        Args:
            release: the image.
            lane: number of its download on all streams of the node.
            held: for each component, the chunks held from the start; None for nothing.
            wants: whether the node fetches what it lacks.
            entropy: for the picker.
            relay: what relays it; None: it is only pulled.
            now: simulated seconds.
        """
        self.relay: Final = relay
        """What relays it, if anything does."""
        self.release: Final = release
        """The image."""
        counts = [len(chunks) for chunks in release.components]
        possession = tuple(Bitfield(count) for count in counts)
        for field, indices in zip(possession, held or (), strict=False):
            field.update(indices)
        is_whole = relay is None and all(field.is_full for field in possession)
        self.served: Final = ServedManifest(
            manifest_id=release.manifest_id,
            possession=possession,
            offers=tuple(Offers(count) for count in counts) if is_whole else None,
        )
        """What may be served."""
        self.held_bytes_start: Final = self.held_bytes
        """Chunk bytes held from the start."""
        self.download: Download | None = None
        """What fetches it, if anything does."""
        if wants:
            self.download = Download(
                manifest_id=release.manifest_id,
                chunk_counts=counts,
                picker=RarestFirst(size=sum(counts), entropy=entropy),
                lane=lane,
                entropy=entropy,
            )
        self.figures: Final = PartFigures(started_at=now)
        """What was moved."""
        self.received_bytes: Final[dict[int, int]] = {}
        """Chunk bytes that came from each node, good or bad."""
        self.blames: Final[list[Blame]] = []
        """Whom its machines blamed."""
        self.stalls: Final[list[int]] = []
        """Whom its download found stalling."""
        self.relayed: Final[dict[int, None]] = {}
        """Components that the relay was told of."""
        self.prepared: Final[dict[int, None]] = {}
        """Components whose recipe is verified, if it fetches any."""
        self._layout = Layout(counts)
        self._news: dict[int, int] = {}

    @property
    def is_complete(self) -> bool:
        """Whether every chunk is held."""
        return all(possession.is_full for possession in self.served.possession)

    @property
    def held_bytes(self) -> int:
        """Chunk bytes held; looks at every chunk."""
        return sum(
            len(chunks[index])
            for chunks, possession in zip(
                self.release.components, self.served.possession, strict=True
            )
            for index in possession
        )

    @property
    def held(self) -> tuple[list[int], ...]:
        """Chunks held of each component: what a node that restarts finds on its disk."""
        return tuple(list(possession) for possession in self.served.possession)

    def took(self, source: int, size_bytes: int) -> None:
        """Counts chunk bytes that arrived."""
        self.received_bytes[source] = self.received_bytes.get(source, 0) + size_bytes

    # Storage -------------------------------------------------------------------------------------

    def chunk(self, component: int, index: int) -> bytes | None:
        """The bytes of a chunk that is held."""
        if index not in self.served.possession[component]:
            return None
        return self.release.components[component][index]

    def read(self, effect: ReadChunks) -> ChunksRead:
        """Reads chunks for an upload."""
        found: list[tuple[int, bytes | None]] = []
        total_bytes = 0
        for index in effect.indices:
            data = self.chunk(effect.component, index)
            total_bytes += len(data or b"")
            if found and total_bytes > effect.bytes_max:
                break
            found.append((index, data))
        return ChunksRead.of(effect.request_id, found)

    def read_page(self, effect: ReadPage) -> PageRead:
        """Reads a recipe page for an upload."""
        if self.download is not None and effect.component not in self.prepared:
            return PageRead(request_id=effect.request_id, page=None)
        page = self.release.pagers[effect.component].page(effect.page).encode()
        return PageRead(request_id=effect.request_id, page=page)

    def verify_page(self, effect: VerifyPage) -> PageVerified | PageRefused:
        """Checks a recipe page against the root."""
        recipe = self.release.recipes[effect.component]
        try:
            page = decode_recipe_page(effect.body)
            verify_page(page, recipe.root, recipe.chunk_count)
            if page.page_index != effect.page:
                raise VerificationError("another page than the one asked for")
        except VerificationError as error:
            return PageRefused(component=effect.component, page=effect.page, detail=str(error))
        return PageVerified(component=effect.component, page=effect.page, lengths=page.lengths)

    def write(self, effect: WriteChunks) -> list[ChunksStored | ChunkRefused]:
        """Checks and stores chunks that a download asked for."""
        component = effect.component
        verdicts = {index: self.store(component, index, data) for index, data in effect.chunks}
        stored = Runs.of(index for index, is_good in verdicts.items() if is_good)
        answers: list[ChunksStored | ChunkRefused] = [
            ChunkRefused(component=component, index=index, detail="another digest")
            for index, is_good in verdicts.items()
            if not is_good
        ]
        if stored:
            answers.insert(0, ChunksStored(component=component, indices=stored))
        return answers

    def store(self, component: int, index: int, data: bytes | memoryview) -> bool:
        """Checks a chunk, and keeps it if it matches.

        Only possession is kept: what matches the recipe is the release's own bytes, so that one
        copy serves all nodes of the world.
        """
        if not self.matches(component, index, data):
            self.figures.bad_bytes += len(data)
            return False
        self.gain(component, index, len(data))
        return True

    def matches(self, component: int, index: int, data: bytes | memoryview) -> bool:
        """Whether bytes are a chunk."""
        return ChunkId(sha256(data)) == self.release.recipes[component].digest(index)

    def gain(self, component: int, index: int, size_bytes: int) -> None:
        """Keeps a chunk that was checked."""
        possession = self.served.possession[component]
        if index not in possession:
            possession.add(index)
            self.figures.gained_bytes += size_bytes
            self._news[component] = self._news.get(component, 0) | 1 << index

    def store_push(self, push: Push) -> tuple[list[int], list[int]]:
        """Checks and stores the chunks of a push: (indices that are new here, those that lie)."""
        number = push.object_number
        fresh: list[int] = []
        bad: list[int] = []
        for chunk in push.chunks:
            was_held = chunk.index in self.served.possession[number]
            if not self.store(number, chunk.index, chunk.data):
                bad.append(chunk.index)
            elif not was_held:
                fresh.append(chunk.index)
        return fresh, bad

    def bitfield(self, component: int, bits: bytes) -> BitfieldMessage:
        """A message about possession of one component."""
        return BitfieldMessage(manifest_id=self.release.manifest_id, component=component, bits=bits)

    def haves(self, runs: Sequence[Run]) -> list[BitfieldMessage | Have]:
        """Messages that say the same as runs of chunk numbers."""
        bits: dict[int, int] = {}
        for first, count in runs:
            component = self._layout.component_of(first)
            start = first - self._layout.offset(component)
            bits[component] = bits.get(component, 0) | ((1 << count) - 1) << start
        return [
            Have(
                manifest_id=self.release.manifest_id,
                component=component,
                indices=Runs.of_bits(numbers),
            )
            for component, numbers in bits.items()
        ]

    @property
    def has_news(self) -> bool:
        """Whether chunks were stored that nobody was told of."""
        return bool(self._news)

    def take_news(self) -> list[tuple[int, Runs]]:
        """Takes out what was stored since the last time: (component, indices)."""
        news, self._news = self._news, {}
        return [(component, Runs.of_bits(indices)) for component, indices in news.items()]
