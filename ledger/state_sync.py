"""Fetching the state: which version to believe, what is still missing, whom a fault belongs to.

A newcomer believes a version as it believes any header: by the hand-overs from the epoch it trusts
and one certificate. It then covers all paths with pages, in several regions at once, each page
verified by itself; so no peer need be trusted, every fault has an owner, and work that is done
stays done whoever did it. Pure. Rules: docs/spec/state-sync.md, Y20 to Y33.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ledger.errors import ForkAlarmError
from ledger.header import Header, decode_header
from ledger.light import (
    EpochStep,
    TrustAnchor,
    advance_anchor,
    decode_epoch_step,
    verify_header,
)
from ledger.log import Log, decode_log
from ledger.state_hash import DEPTH_MAX
from ledger.state_range import (
    LEAF_OVERHEAD_BYTES,
    PAGE_BYTES_MAX,
    PAGE_LEAVES_MAX,
    StatePage,
    decode_state_page,
)
from ledger.state_tree import KEY_BYTES_MAX, VALUE_BYTES_MAX
from ledger.validators import decode_validator_set
from ledger.vote import Verifier
from protocol.digest import DIGEST_BYTES, Digest
from protocol.encoding import Value, as_array, as_bytes, decode_canonical, encode_canonical
from protocol.errors import EncodingError, VerificationError
from protocol.limits import MIB
from protocol.state_messages import STATE_STEPS_MAX, STEP_BYTES_MAX, StateHeadAnswer

REGIONS_MAX: Final = 16
"""Parts of the path space that are fetched side by side."""
REGION_PAGES_MIN: Final = 2
"""A region is worth a peer of its own from about this many pages on."""
BRIDGE_ROUNDS_MAX: Final = 32
"""Answers with hand-overs that are followed, one peer: 1,024 epochs, 20 years of weekly ones."""
TARGET_BYTES_MAX: Final = BRIDGE_ROUNDS_MAX * STATE_STEPS_MAX * STEP_BYTES_MAX + MIB
"""Encoded target: 16 MiB of hand-overs at the utmost, a header, a certificate and a frontier. What
was accepted from peers must be readable at the next start."""
_PATHS_END: Final = 1 << DEPTH_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncTarget:
    """A version of the state that was found to be final."""

    header: Header
    """The header that commits to it."""
    log: Log
    """The log after the same block."""
    certificate: bytes
    """Encoded certificate that finalizes the header, through its descendants."""
    steps: tuple[bytes, ...] = ()
    """Encoded hand-overs of the epochs before it, from genesis on."""

    def encode(self) -> bytes:
        """The bytes a store keeps: [header, log, certificate, steps]."""
        return encode_canonical(
            [self.header.encoded, self.log.encode(), self.certificate, list(self.steps)]
        )


def decode_sync_target(data: bytes) -> SyncTarget:
    """Reads what a store kept; it was verified before it was kept.

    Raises:
        EncodingError: it is not what `encode` wrote.
    """
    value = decode_canonical(data, bytes_max=TARGET_BYTES_MAX)
    header, log, certificate, steps = as_array(value, "sync target", size=4)
    if not isinstance(steps, (list, tuple)):
        raise EncodingError("sync target: hand-overs are no list")
    return SyncTarget(
        header=decode_header(as_bytes(header, "header")),
        log=decode_log(as_bytes(log, "log")),
        certificate=as_bytes(certificate, "certificate"),
        steps=tuple(as_bytes(step, "epoch step") for step in steps),
    )


def bridge_epochs(anchor: TrustAnchor, steps: Sequence[bytes], verifier: Verifier) -> TrustAnchor:
    """Follows encoded hand-overs from an anchor's epoch on.

    Raises:
        VerificationError: one is malformed or does not follow.
    """
    decoded: list[EpochStep] = [decode_epoch_step(step) for step in steps]
    return advance_anchor(anchor, decoded, verifier)


def verify_state_head(
    answer: StateHeadAnswer, anchor: TrustAnchor, verifier: Verifier
) -> SyncTarget:
    """Checks that a version is final, by an anchor of its epoch.

    Args:
        answer: what a peer sent, with headers; its hand-overs were followed already.
        anchor: whom to believe after them.
        verifier: checks votes.

    Raises:
        VerificationError: the headers do not hang together, the last one is not certified, the log
            is not the one that the first commits to, or the first closes its epoch: who fetched it
            could hand nobody over to the next.
    """
    headers = [decode_header(raw) for raw in answer.headers]
    if not headers:
        raise VerificationError("state head without a header")
    for parent, header in itertools.pairwise(headers):
        if (header.parent, header.height) != (parent.block_id, parent.height + 1):
            raise VerificationError(f"header {header.height} does not follow its parent")
        if header.epoch != parent.epoch:
            raise VerificationError(f"header {header.height} is of another epoch")
    verify_header(answer.headers[-1], answer.certificate, anchor, verifier)
    first, log = headers[0], decode_log(answer.log)
    if (log.size, log.root) != (first.log_size, first.log_root):
        raise VerificationError("state head with another log")
    if first.height == 0:
        raise VerificationError("genesis is no version to fetch")
    if first.closes_epoch:
        raise VerificationError(f"version {first.height} closes its epoch: none to fetch")
    return SyncTarget(header=first, log=log, certificate=answer.certificate)


def check_checkpoint(header: Header, target: SyncTarget, anchor: TrustAnchor) -> None:
    """Checks a version against a header before it that somebody this node believes vouched for.

    Who certified that header is whom the way to the version must lead through: keys of earlier
    epochs, however many of them were stolen since, make no other way. Between the two only keys of
    that epoch and later ones count, as for a light client that starts from the header.

    Args:
        header: the header vouched for, at most as high as the version.
        target: the version.
        anchor: whom its hand-overs begin with.

    Raises:
        ForkAlarmError: `chain.checkpoint`: the version is of another history.
    """
    sets = [anchor.validators]
    sets += [decode_validator_set(decode_epoch_step(raw).validators) for raw in target.steps]
    known = next((item for item in sets if item.epoch == header.epoch), None)
    found, is_same = target.header, header.era == target.header.era and known is not None
    if known is not None and known.digest != header.validators:
        is_same = False
    if found.height == header.height and found.block_id != header.block_id:
        is_same = False
    if not is_same:
        raise ForkAlarmError(
            found.block_id,
            "chain.checkpoint",
            f"not of the history of block {header.block_id.hex()[:8]}, which was vouched for",
            target.certificate,
        )


def verify_page(raw: bytes, target: SyncTarget, start: Digest) -> StatePage:
    """Reads and checks a page a peer sent; a page ends only when it is full (Y24).

    Raises:
        VerificationError: malformed, of another version, incomplete, or cut short without need.
    """
    page = decode_state_page(raw)
    page.verify(target.header.state_root, start)
    used = sum(len(key) + len(value) + LEAF_OVERHEAD_BYTES for key, value in page.leaves)
    largest = KEY_BYTES_MAX + VALUE_BYTES_MAX + LEAF_OVERHEAD_BYTES
    is_full = used + largest > PAGE_BYTES_MAX or len(page.leaves) == PAGE_LEAVES_MAX
    if not page.is_last and not is_full:
        raise VerificationError(f"state page of {used} bytes is cut short")
    return page


@dataclass(slots=True)
class _Region:
    """Paths from `next` to before `end` that are missing."""

    next: int
    end: int
    is_taken: bool = False


class SyncPlan:
    """What of a version is missing. Regions are handed out, done page by page, and handed back."""

    def __init__(self, regions: Sequence[tuple[int, int]] = ((0, _PATHS_END),)) -> None:
        """Starts with everything missing, or where `encode` left off."""
        self._regions = [_Region(start, end) for start, end in regions]

    @property
    def is_complete(self) -> bool:
        """Whether all paths are covered."""
        return not self._regions

    @property
    def missing_ppm(self) -> int:
        """Share of the paths that is missing, in millionths."""
        return sum(item.end - item.next for item in self._regions) * 1_000_000 >> DEPTH_MAX

    def take(self) -> Digest | None:
        """The next path to ask for, in a region nobody works on; None: all are taken."""
        region = next((item for item in self._regions if not item.is_taken), None)
        if region is None:
            return None
        region.is_taken = True
        return _path(region.next)

    def give_back(self, start: Digest) -> None:
        """Nothing came for a path that was taken; somebody else may try."""
        for region in self._regions:
            if region.next == _number(start):
                region.is_taken = False

    def done(self, start: Digest, page: StatePage) -> None:
        """Notes a verified and stored page for a path that was taken; gives the region back.

        The first page of all tells how much there is: what is left is then cut into regions.
        """
        following = page.next_start()
        reached = _PATHS_END if following is None else _number(following)
        for region in list(self._regions):
            if region.next != _number(start):
                continue
            region.next, region.is_taken = reached, False
            if reached >= region.end:
                self._regions.remove(region)
            elif region.end - _number(start) == _PATHS_END:
                self._cut(region, reached)

    def _cut(self, region: _Region, page_width: int) -> None:
        pages = (region.end - region.next) // max(page_width, 1)
        count = min(REGIONS_MAX, max(1, pages // REGION_PAGES_MIN))
        width = (region.end - region.next) // count
        starts = [region.next + index * width for index in range(count)]
        self._regions = [
            _Region(start, end)
            for start, end in zip(starts, [*starts[1:], region.end], strict=True)
        ]

    def encode(self) -> bytes:
        """What a store keeps of it: the regions, as [start, last path] of each."""
        regions: list[Value] = [[_path(item.next), _path(item.end - 1)] for item in self._regions]
        return encode_canonical(regions)


def decode_sync_plan(data: bytes) -> SyncPlan:
    """Reads what a store kept.

    Raises:
        EncodingError: it is not what `encode` wrote.
    """
    value = decode_canonical(data, bytes_max=REGIONS_MAX * 128)
    if not isinstance(value, (list, tuple)):
        raise EncodingError("sync plan: regions are no list")
    regions: list[tuple[int, int]] = []
    for item in value:
        start, last = as_array(item, "region", size=2)
        regions.append(
            (
                _number(as_bytes(start, "path", size=DIGEST_BYTES)),
                _number(as_bytes(last, "path", size=DIGEST_BYTES)) + 1,
            )
        )
    return SyncPlan(regions)


def _number(path: bytes) -> int:
    return int.from_bytes(path, "big")


def _path(number: int) -> Digest:
    return Digest(number.to_bytes(DIGEST_BYTES, "big"))
