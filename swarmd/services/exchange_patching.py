"""Drives the patches of one fetch: has them fetched, applies them, and falls back to chunks.

Everything that fails here ends the same way: the component is told to be prepared with what is held
by then, and the download fetches the rest as chunks. A patch that lied is remembered as bad and
named in the log; no peer is blamed, because all of it was what its publisher signed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from chunks.patch import PatchError
from chunks.patch_apply import PatchApplication, StepOutcome
from chunks.recipe import Recipe
from chunks.store import ChunkStore, DiskFullError, Download
from protocol.bitfield import Bitfield
from protocol.errors import StorageError, SwarmError, VerificationError
from protocol.exchange_events import ComponentPrepared, ObjectDropped, ObjectWanted
from protocol.manifest import Manifest
from swarmd.services.exchange_patch import (
    CHECK_S,
    PATIENCE_S,
    BadPatches,
    ComponentPatch,
    PatchBoard,
    PatchPhase,
    choose_patch,
)
from swarmd.services.exchange_repeats import with_repeats

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyPatch:
    """A job of the fetch: one step of applying the patch of a component."""

    component: int
    """Position of the component in the manifest."""


class PatchHost(Protocol):
    """The fetch, as its patches see it."""

    async def in_thread(self, call: Callable[[], object]) -> None:
        """Runs blocking work in a worker thread."""
        ...

    def feed(self, event: ObjectWanted | ObjectDropped | ComponentPrepared) -> None:
        """Feeds the download."""
        ...

    def know_recipe(self, number: int, recipe: Recipe) -> None:
        """Takes an object's recipe, and tells the download."""
        ...

    def gained(self, number: int, indices: Sequence[int]) -> None:
        """Makes chunks servable and tells peers."""
        ...

    def add_job(self, job: ApplyPatch) -> None:
        """Has a step done after the jobs that wait already."""
        ...

    def begun(self, component: int) -> Download | None:
        """The right to write into a component that was begun."""
        ...

    def is_alone(self) -> bool:
        """Whether there is no peer to ask."""
        ...


class Patching:
    """See the module's docstring."""

    def __init__(
        self, host: PatchHost, manifest: Manifest, store: ChunkStore, bad: BadPatches
    ) -> None:
        """Starts without a choice."""
        self._host = host
        self._manifest = manifest
        self._store = store
        self._board = PatchBoard(bad)
        self.made_bytes = 0
        """Bytes that patches made."""

    async def begin(self, component: int) -> bool:
        """Looks whether a component that was begun is to wait for a patch.

        Returns:
            Whether it is; if not, it is to be prepared now.
        """
        known = self._board.of_component(component)
        if known is not None:
            if known.phase is PatchPhase.APPLYING:
                self._host.add_job(ApplyPatch(component=component))
            return known.phase is not PatchPhase.OVER
        if not self._manifest.components[component].patches:
            return False
        chosen: list[ComponentPatch] = []
        recipes: list[Recipe] = []
        now = trio.current_time()

        def choose() -> None:
            found = choose_patch(self._store, self._manifest, component, self._board.bad)
            if found is None:
                return
            number, patch = found
            chosen.append(
                ComponentPatch(component=component, number=number, patch=patch, progress_at=now)
            )
            recipes.extend(self._known_recipe(number))

        await self._host.in_thread(choose)
        if not chosen:
            return False
        self._board.begin(chosen[0])
        logger.info(
            "%s is made from image %s by a patch of %d bytes",
            self._manifest.components[component].name,
            chosen[0].patch.base.hex()[:8],
            chosen[0].patch.size,
        )
        self._host.feed(ObjectWanted(component=chosen[0].number))
        for recipe in recipes:
            self._host.know_recipe(chosen[0].number, recipe)
        return True

    def _known_recipe(self, number: int) -> list[Recipe]:
        wanted = self._manifest.objects[number]
        try:
            recipe = self._store.recipe(wanted.digest)
        except StorageError:
            return []
        return [recipe] if recipe.root == wanted.recipe_root else []

    def got_on(self, number: int) -> None:
        """Notes that chunks of an object came."""
        one = self._board.of_object(number)
        if one is not None:
            one.progress_at = trio.current_time()

    def completed(self, number: int) -> None:
        """Notes that an object is complete: if it is a patch that is waited for, it is applied."""
        one = self._board.of_object(number)
        if one is not None and one.phase is PatchPhase.FETCHING:
            one.phase = PatchPhase.APPLYING
            self._host.add_job(ApplyPatch(component=one.component))

    def is_over(self, number: int) -> bool:
        """Whether an object is a patch that nobody waits for any more."""
        one = self._board.of_object(number)
        return one is not None and one.phase is PatchPhase.OVER

    async def failed(self, number: int, error: SwarmError) -> None:
        """Gives a patch up that cannot be fetched or kept: it lies about itself, or has no room."""
        one = self._board.of_object(number)
        if one is None or one.phase is PatchPhase.OVER:
            return
        if isinstance(error, VerificationError):
            self._condemn(one, error)
        else:
            logger.warning("patch %s is not fetched: %s", one.patch.digest.hex()[:8], error)
        await self._end(one)

    async def apply(self, component: int) -> bool:
        """Does one step of applying.

        Returns:
            False if there was no room: intake is to pause, after which `begin` goes on.
        """
        one = self._board.of_component(component)
        if one is not None and one.phase is PatchPhase.GIVEN_UP:
            await self._end(one)
            return True
        if one is None or one.phase is not PatchPhase.APPLYING:
            return True
        outcomes: list[StepOutcome] = []
        try:
            await self._host.in_thread(lambda: outcomes.append(self._step(one)))
        except DiskFullError:
            return False
        except PatchError as error:
            self._condemn(one, error)
            await self._end(one)
        except StorageError as error:
            logger.warning("patch %s is not applied: %s", one.patch.digest.hex()[:8], error)
            await self._end(one)
        else:
            (outcome,) = outcomes
            self.made_bytes += outcome.made_bytes
            self._host.gained(component, outcome.gained)
            if outcome.is_done:
                await self._end(one)
            else:
                self._host.add_job(ApplyPatch(component=component))
        return True

    def _step(self, one: ComponentPatch) -> StepOutcome:
        download = self._host.begun(one.component)
        assert download is not None, "a component is begun before a patch for it is chosen"
        if one.application is None:
            one.application = PatchApplication(
                self._store, download, patch=one.patch.digest, base=one.patch.base
            )
        return one.application.step()

    def _condemn(self, one: ComponentPatch, error: VerificationError) -> None:
        self._board.bad.add(one.patch.digest)
        logger.warning(
            "patch %s of publisher %s is bad, %s is fetched as chunks: %s",
            one.patch.digest.hex()[:8],
            self._manifest.publisher.hex()[:8],
            self._manifest.components[one.component].name,
            error,
        )

    async def watch(self) -> None:
        """Gives patches up that do not get on, until cancelled."""
        while any(component.patches for component in self._manifest.components):
            await trio.sleep(CHECK_S)
            for one in self._board.fetching():
                now = trio.current_time()
                if self._host.is_alone():
                    one.progress_at = now
                elif now - one.progress_at >= PATIENCE_S:
                    logger.info("patch %s does not come", one.patch.digest.hex()[:8])
                    # As a job: a store that fails there ends the fetch, and nothing else.
                    one.phase = PatchPhase.GIVEN_UP
                    self._host.add_job(ApplyPatch(component=one.component))

    async def _end(self, one: ComponentPatch) -> None:
        """Has the component prepared with what is held by now; no more of the patch is asked."""
        one.phase = PatchPhase.OVER
        one.application = None
        held: list[Bitfield] = []
        component = self._manifest.components[one.component]

        def look() -> None:
            found = Bitfield.decode(self._store.have(component.digest), component.chunk_count)
            held.append(with_repeats(self._store.recipe(component.digest), found))

        await self._host.in_thread(look)
        self._host.feed(ObjectDropped(component=one.number))
        self._host.feed(ComponentPrepared(component=one.component, held=held[0]))
