"""One numbering for all chunks of a manifest, and what its recipes have told about them so far.

Components are laid end to end: chunk `index` of component `c` has the number `offsets[c] + index`,
so that bandwidth, windows and picking work on one space however many components a manifest has.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from protocol.errors import LocalProtocolError
from protocol.limits import RECIPE_PAGE_LEAVES
from protocol.runs import Runs

PageKey = tuple[int, int]
"""(component, page number)."""


class Layout:
    """Numbers of chunks and pages of one manifest; lengths become known page by page."""

    __slots__ = (
        "_counts",
        "_lengths",
        "_masks",
        "_offsets",
        "_pages_left",
        "_places",
        "has_pages_missing",
    )

    def __init__(self, chunk_counts: Sequence[int]) -> None:
        """Starts with the chunk count of each component and no lengths."""
        self._counts = tuple(chunk_counts)
        self._offsets = (0, *accumulate(self._counts))
        self._masks = tuple(
            ((1 << count) - 1) << offset
            for count, offset in zip(self._counts, self._offsets, strict=False)
        )
        self._lengths = [array("I", bytes(4 * count)) for count in self._counts]
        self._places: list[array[int]] = [array("Q") for _ in self._counts]
        self._pages_left = [set(range(self.page_count(c))) for c in range(len(self._counts))]
        self.has_pages_missing = any(self._pages_left)
        """Whether any page is not verified yet."""

    @property
    def component_count(self) -> int:
        """Components of the manifest."""
        return len(self._counts)

    @property
    def chunk_count(self) -> int:
        """Chunks of all components."""
        return self._offsets[-1]

    def chunk_count_of(self, component: int) -> int:
        """Chunks of one component."""
        return self._counts[component]

    def page_count(self, component: int) -> int:
        """Recipe pages of a component."""
        return -(-self._counts[component] // RECIPE_PAGE_LEAVES)

    def offset(self, component: int) -> int:
        """Number of the component's first chunk."""
        return self._offsets[component]

    def mask(self, component: int) -> int:
        """The component's chunks as a set of numbers."""
        return self._masks[component]

    def component_of(self, number: int) -> int:
        """The component a chunk number belongs to."""
        if len(self._counts) == 1:
            return 0
        return bisect_right(self._offsets, number) - 1

    def length(self, component: int, index: int) -> int:
        """Bytes of a chunk; 0 while its page is unknown."""
        return self._lengths[component][index]

    def lengths_of(self, component: int, indices: Runs) -> tuple[int, ...]:
        """Bytes of each of these chunks."""
        lengths = self._lengths[component]
        if len(indices.pairs) == 1:
            first, count = indices.pairs[0]
            return (lengths[first],) if count == 1 else tuple(lengths[first : first + count])
        return tuple(map(lengths.__getitem__, indices))

    def bytes_of(self, component: int, indices: Runs) -> int:
        """Bytes of all of these chunks together; the recipe must be complete."""
        places = self._places[component]
        pairs = indices.pairs
        if len(pairs) == 1:
            first, count = pairs[0]
            return places[first + count] - places[first]
        return sum(places[first + count] - places[first] for first, count in pairs)

    def run_bytes(self, component: int, first: int, count: int) -> int:
        """Bytes of a run of chunks; the recipe must be complete."""
        places = self._places[component]
        return places[first + count] - places[first]

    def prefix_count(self, component: int, first: int, count: int, size_bytes: int) -> int:
        """How many chunks of a run, from its first on, have at most `size_bytes` together."""
        places = self._places[component]
        end = bisect_right(places, places[first] + size_bytes, first, first + count + 1)
        return end - 1 - first

    def runs_by_component(self, numbers: int) -> Iterator[tuple[int, Runs]]:
        """Splits a set of numbers into (component, indices)."""
        for component, mask in enumerate(self._masks):
            part = numbers & mask
            if part:
                yield component, Runs.of_bits(part >> self._offsets[component])

    def pages_missing(self) -> Iterator[PageKey]:
        """Pages not verified yet, ascending."""
        for component, pages in enumerate(self._pages_left):
            for page in sorted(pages):
                yield component, page

    def is_page_known(self, component: int, page: int) -> bool:
        """Whether a page is verified."""
        return page not in self._pages_left[component]

    def is_recipe_complete(self, component: int) -> bool:
        """Whether every page of a component is verified."""
        return not self._pages_left[component]

    def learn_page(self, component: int, page: int, lengths: Sequence[int]) -> None:
        """Takes the lengths of a verified page; a page known already is ignored.

        Raises:
            LocalProtocolError: the host verified a page that cannot exist.
        """
        start = page * RECIPE_PAGE_LEAVES
        expected = min(RECIPE_PAGE_LEAVES, self._counts[component] - start)
        if page < 0 or expected <= 0 or len(lengths) != expected or min(lengths) <= 0:
            raise LocalProtocolError(
                f"page {page} with {len(lengths)} lengths, expected {expected}"
            )
        self._lengths[component][start : start + expected] = array("I", lengths)
        self._pages_left[component].discard(page)
        self.has_pages_missing = any(self._pages_left)
        if not self._pages_left[component]:
            self._places[component] = array("Q", accumulate(self._lengths[component], initial=0))
