"""The part of a download that takes what the host tells of its storage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import assert_never

from protocol.download_components import ComponentPhase
from protocol.download_core import DownloadCore
from protocol.download_requests import cancel
from protocol.download_state import DownloadState
from protocol.errors import LocalProtocolError
from protocol.exchange_events import (
    ChunkRefused,
    ChunksLost,
    ChunksStored,
    ComponentComplete,
    ComponentPrepared,
    ComponentVerified,
    Finished,
    ObjectDropped,
    ObjectWanted,
    Offence,
    PageRefused,
    PageVerified,
    PrepareComponent,
    RecipeKnown,
    StorageFull,
    StorageInput,
    StorageReady,
)
from protocol.limits import RECIPE_PAGE_LEAVES
from protocol.runs import Runs


class DownloadStorage:
    """See the module's docstring."""

    __slots__ = ("_core",)

    def __init__(self, core: DownloadCore) -> None:
        """Works on what the download's parts share."""
        self._core = core

    def handle(self, event: StorageInput, now: float) -> None:
        """Takes one input; raises `LocalProtocolError` if it makes no sense."""
        match event:
            case ChunksStored():
                self._on_stored(event)
                self._core.fill_freed(now)
                return
            case ChunkRefused():
                self._on_chunk_refused(event, now)
            case PageVerified():
                self._core.pages.judged((event.component, event.page))
                self._learn(event.component, event.page, event.lengths)
            case PageRefused():
                self._on_page_refused(event, now)
            case RecipeKnown():
                self._on_recipe_known(event)
            case ObjectWanted():
                self._on_wanted(event.component)
            case ObjectDropped():
                self._on_dropped(event.component)
            case ComponentPrepared():
                self._on_prepared(event)
            case ComponentVerified():
                self._on_component_verified(event.component)
            case ChunksLost():
                self._on_lost(event)
            case StorageFull():
                self._on_storage_full(event)
            case StorageReady():
                self._on_storage_ready()
            case _:
                assert_never(event)
        self._core.fill_all(now)

    def _on_recipe_known(self, event: RecipeKnown) -> None:
        self._core.components.expect(event.component, ComponentPhase.RECIPE)
        for page in range(self._core.layout.page_count(event.component)):
            start = page * RECIPE_PAGE_LEAVES
            lengths = event.lengths[start : start + RECIPE_PAGE_LEAVES]
            self._learn(event.component, page, lengths)

    def _on_wanted(self, number: int) -> None:
        self._core.components.expect(number, ComponentPhase.UNWANTED)
        self._core.components.enter(number, ComponentPhase.RECIPE)
        for flow in self._core.flows.values():
            self._core.send(flow, self._core.interest())

    def _on_dropped(self, number: int) -> None:
        """What is on its way is still taken; nothing more is asked for."""
        self._core.chunks.gate(self._core.layout.mask(number))
        if self._core.components.phase(number) is ComponentPhase.RECIPE:
            self._core.components.enter(number, ComponentPhase.UNWANTED)

    def _on_prepared(self, event: ComponentPrepared) -> None:
        self._core.components.expect(event.component, ComponentPhase.PREPARING)
        if event.held.size != self._core.layout.chunk_count_of(event.component):
            raise LocalProtocolError(f"bitfield of {event.held.size} for {event.component}")
        self._core.components.enter(event.component, ComponentPhase.FETCHING)
        self._core.chunks.prepare(event.component, event.held.bits)
        self._core.ask_earlier(event.component)
        self._complete(event.component)

    def _on_stored(self, event: ChunksStored) -> None:
        phase = self._core.components.phase(event.component)
        if not event.indices and phase in (ComponentPhase.VERIFYING, ComponentPhase.DONE):
            return  # nothing asked for: pushed, or copied, after the rest was there
        self._core.components.expect(event.component, ComponentPhase.FETCHING)
        written = self._numbers(event.component, event.indices) if event.indices else 0
        gained = self._numbers(event.component, event.gained) if event.gained else 0
        for request, common in self._core.chunks.stored(written, gained):
            if request.peer in self._core.flows:
                self._core.effects.append(cancel(request, common))
        self._complete(event.component)

    def _numbers(self, component: int, indices: Iterable[int]) -> int:
        self._core.components.expect(component, ComponentPhase.FETCHING)
        count = self._core.layout.chunk_count_of(component)
        runs = Runs.of(indices)
        if runs and runs.last >= count:
            raise LocalProtocolError(f"chunks outside the {count} of component {component}")
        return runs.bits << self._core.layout.offset(component)

    def _complete(self, component: int) -> None:
        if self._core.chunks.is_component_stored(component):
            self._core.components.enter(component, ComponentPhase.VERIFYING)
            self._core.effects.append(ComponentComplete(component=component))

    def _on_component_verified(self, component: int) -> None:
        self._core.components.expect(component, ComponentPhase.VERIFYING)
        self._core.components.enter(component, ComponentPhase.DONE)
        if not self._core.components.unfinished:
            self._core.end(DownloadState.FINISHED)
            self._core.effects.append(Finished())

    def _on_lost(self, event: ChunksLost) -> None:
        match self._core.components.phase(event.component):
            case ComponentPhase.RECIPE | ComponentPhase.PREPARING | ComponentPhase.UNWANTED:
                return  # preparation will tell what is held
            case ComponentPhase.DONE:
                self._begin(event.component)
                return
            case ComponentPhase.VERIFYING:
                self._core.components.enter(event.component, ComponentPhase.FETCHING)
            case ComponentPhase.FETCHING:
                pass
        numbers = self._numbers(event.component, event.indices)
        self._core.chunks.lost(numbers)
        self._complete(event.component)

    def _on_chunk_refused(self, event: ChunkRefused, now: float) -> None:
        sender = self._core.chunks.unbuffer(self._numbers(event.component, (event.index,)))
        if sender is None:
            raise LocalProtocolError(f"chunk {event.index} refused that was not to be written")
        self._core.blame_chunk(sender, event)
        self._core.ban(sender, now)
        self._complete(event.component)

    def _on_page_refused(self, event: PageRefused, now: float) -> None:
        sender = self._core.pages.judged((event.component, event.page))
        if sender is None:
            raise LocalProtocolError(f"page {event.page} refused that was not to be verified")
        self._core.blame(sender, Offence.CORRUPT_PAGE, event.component, event.page, event.detail)
        self._core.ban(sender, now)

    def _learn(self, component: int, page: int, lengths: Sequence[int]) -> None:
        if self._core.layout.is_page_known(component, page):
            return
        self._core.layout.learn_page(component, page, lengths)
        is_wanted = self._core.components.phase(component) is ComponentPhase.RECIPE
        if is_wanted and self._core.layout.is_recipe_complete(component):
            self._begin(component)

    def _begin(self, component: int) -> None:
        self._core.components.enter(component, ComponentPhase.PREPARING)
        if self._core.state is DownloadState.RUNNING:
            self._core.effects.append(PrepareComponent(component=component))

    def _on_storage_full(self, event: StorageFull) -> None:
        numbers = Runs.of(event.indices).bits << self._core.layout.offset(event.component)
        self._core.chunks.unbuffer(numbers)
        self._core.state = DownloadState.PAUSED

    def _on_storage_ready(self) -> None:
        if self._core.state is DownloadState.PAUSED:
            self._core.state = DownloadState.RUNNING
            for component in self._core.components.at(ComponentPhase.PREPARING):
                self._core.effects.append(PrepareComponent(component=component))
