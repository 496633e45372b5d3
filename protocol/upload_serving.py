"""One request as `Upload` serves it, and the message that answers a part of it."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.digest import ManifestId
from protocol.exchange_events import (
    ChunksRead,
    ExchangeOffenceError,
    Offence,
    ReadChunks,
    ReadPage,
)
from protocol.exchange_messages import Chunks, RecipeRequest, Request, split_payload
from protocol.limits import RECIPE_PAGE_LEAVES
from protocol.runs import Runs
from protocol.upload_pages import PageCost
from protocol.upload_turns import Wish


@dataclass(slots=True, kw_only=True)
class Serving:
    """A request that is not fully answered."""

    request_id: int
    """The request it belongs to."""
    wish: Wish
    """The object it asks for."""
    page: int | None = None
    """Recipe page asked for; then no indices are waiting."""
    waiting: int = 0
    """Indices not answered, as a set."""

    @property
    def manifest_id(self) -> ManifestId:
        """The manifest it is about."""
        return self.wish.manifest_id

    @property
    def component(self) -> int:
        """Position of the component in the manifest."""
        return self.wish.component

    def read(self, bytes_max: int) -> ReadChunks | ReadPage:
        """What to read next for it, chunks up to so many bytes."""
        if self.page is not None:
            return ReadPage(
                request_id=self.request_id,
                manifest_id=self.manifest_id,
                component=self.component,
                page=self.page,
            )
        return ReadChunks(
            request_id=self.request_id,
            manifest_id=self.manifest_id,
            component=self.component,
            indices=Runs.of_bits(self.waiting),
            bytes_max=bytes_max,
        )


def chunks_of(event: ChunksRead, waiting: int) -> Chunks | None:
    """The message of what was read and is still waited for; None if that is nothing."""
    found = event.found.bits
    wanted = found & waiting
    if not wanted:
        return None
    if wanted == found:
        return Chunks(
            request_id=event.request_id,
            indices=event.found,
            lengths=event.lengths,
            payload=event.payload,
            packed=event.packed,
        )
    chunks = split_payload(event.found, event.lengths, event.payload)
    chosen = [(index, data) for index, data in chunks if wanted >> index & 1]
    return Chunks.of(event.request_id, chosen, event.packed)


def check_component(component: int, count: int) -> None:
    """Refuses an object that the manifest does not have.

    Raises:
        ExchangeOffenceError: it has fewer.
    """
    if component >= count:
        raise ExchangeOffenceError(
            Offence.MALFORMED, f"component {component}, the manifest has {count}"
        )


def page_count(size: int) -> int:
    """Recipe pages of an object of so many chunks."""
    return -(-size // RECIPE_PAGE_LEAVES)


def page_cost(size: int, page: int) -> PageCost:
    """What a recipe page of an object of so many chunks is.

    Raises:
        ExchangeOffenceError: the recipe has fewer.
    """
    pages = page_count(size)
    if page >= pages:
        raise ExchangeOffenceError(Offence.MALFORMED, f"request for recipe page {page} of {pages}")
    chunks = min(RECIPE_PAGE_LEAVES, size - page * RECIPE_PAGE_LEAVES)
    return PageCost(chunks=chunks, of_count=pages)


def wish_of(message: Request | RecipeRequest, size: int) -> Wish:
    """The object of so many chunks that a message asks for: one peer needs them and its pages."""
    return Wish(
        manifest_id=message.manifest_id,
        component=message.component,
        answers=size + page_count(size),
    )
