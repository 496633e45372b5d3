"""Which images a node keeps: a pure rule over what it holds and what that belongs to.

Participants: a node with images of releases, each release in one or more *lines* (a product in a
group) at a sequence; operators who pin; devices that run releases.

Goals: what devices run, what an operator pinned, what is being fetched or read, and the newest
release of each line always stay, so that every device can be served, and every next release finds
a base for its delta; the last k releases of each line stay while there is room; the rest goes.
Non-goals: what is authorised, revoked or wanted (facts come in), and the deletion itself.

Rules (docs/spec/chunks.md, section 6):

K1. Never goes: pinned; run by a device; fetched or read at the moment; of a stepping stone; of the
    newest release of a line; of the newest release that is whole.
K2. Goes when room is needed, oldest first, in this order: patches of releases that are whole and
    kept, since they help others only; images of no release known here as authorised; those of the k
    newest whole releases of a line.
K3. Goes at once: older ones; partial ones of releases that are not the newest of any line; locked
    ones that no device runs any more.

An image of several releases is kept by the strongest reason among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from protocol.digest import Digest, ManifestId

Line = tuple[str, str]
"""Product and group."""


class Reason(Enum):
    """Why an image stays or goes; the text is for operators."""

    PINNED = "pinned"
    """K1."""
    RUNNING = "run by a device"
    """K1."""
    IN_USE = "fetched or read at the moment"
    """K1."""
    STEPPING_STONE = "a stepping stone of a release that is kept"
    """K1: devices must install it before that release."""
    NEWEST = "newest release"
    """K1."""
    NEWEST_WHOLE = "newest release that is whole here"
    """K1: what devices get until the newest is complete, and the base of its delta."""
    RECENT = "one of the last releases"
    """K2."""
    PATCH = "a patch of a release that is whole here"
    """K2: other gateways may still want it."""
    UNCLAIMED = "of no authorised release of this node's groups"
    """K2."""
    SUPERSEDED = "superseded by newer releases"
    """K3."""
    PARTIAL = "an unfinished download of a superseded release"
    """K3."""
    UNLOCKED = "withdrawn, and no device runs it any more"
    """K3."""


_STRENGTH: Final = tuple(Reason)
"""Reasons from the strongest to the weakest."""
_HARD: Final = frozenset(
    {
        Reason.PINNED, Reason.RUNNING, Reason.IN_USE, Reason.STEPPING_STONE, Reason.NEWEST,
        Reason.NEWEST_WHOLE,
    }
)  # fmt: skip
_SOFT: Final = (Reason.PATCH, Reason.UNCLAIMED, Reason.RECENT)
"""What goes when room is needed, in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldImage:
    """One image of the store."""

    image: Digest
    """Its digest."""
    size_bytes: int
    """What its deletion frees."""
    arrival: int
    """Position in the order of arrival; smaller is older."""
    is_complete: bool
    """Whether every chunk is held and checked."""
    is_locked: bool = False
    """Whether it is kept without being served, after its authorisation ended."""
    is_in_use: bool = False
    """Whether it is fetched, or was read a moment ago."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRelease:
    """A release that is authorised for this node, or that devices run."""

    manifest: ManifestId
    """Which."""
    lines: frozenset[Line]
    """Where it is authorised now; none: nowhere any more."""
    sequence: int
    """Its place in each of its lines."""
    images: frozenset[Digest]
    """All objects it names."""
    patches: frozenset[Digest] = frozenset()
    """Those of them that only help to make the others."""
    is_whole: bool
    """Whether every component is complete here."""
    is_pinned: bool = False
    """Whether an operator wants it kept."""
    is_running: bool = False
    """Whether a device behind this node runs it."""
    stepping_stones: frozenset[ManifestId] = frozenset()
    """What a device must run before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is to become of one image."""

    image: Digest
    """Which."""
    size_bytes: int
    """Its size."""
    goes: bool
    """Whether it is to be deleted."""
    reason: Reason
    """Why it stays, or why it may go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Room that has to be made."""

    size_bytes: int = 0
    """Bytes."""
    files: int = 0
    """Images."""


def decide(
    images: Sequence[HeldImage],
    releases: Iterable[HeldRelease],
    *,
    keep: int,
    need: Need | None = None,
) -> tuple[Verdict, ...]:
    """Judges every image, by K1 to K3.

    Args:
        images: all but staged ones.
        releases: every release that concerns them, and the newest of each line.
        keep: k, 1 or more.
        need: what has to be freed beyond what goes at once; less is freed where less may go.

    Returns:
        One verdict for each image, in the order of arrival.
    """
    ordered = sorted(images, key=lambda held: held.arrival)
    claims = _claims(tuple(releases), keep)
    reasons = {held.image: _reason(held, claims.get(held.image, ())) for held in ordered}
    going = {
        held.image
        for held in ordered
        if reasons[held.image] not in _HARD and reasons[held.image] not in _SOFT
    }
    if need is not None:
        going |= _make_room(ordered, reasons, going, need)
    return tuple(
        Verdict(
            image=held.image,
            size_bytes=held.size_bytes,
            goes=held.image in going,
            reason=reasons[held.image],
        )
        for held in ordered
    )


def _claims(releases: tuple[HeldRelease, ...], keep: int) -> dict[Digest, list[Reason]]:
    """What each release says about its images."""
    reasons: dict[ManifestId, list[Reason]] = {release.manifest: [] for release in releases}
    for line in sorted({line for release in releases for line in release.lines}):
        ranked = sorted(
            (release for release in releases if line in release.lines),
            key=lambda release: (-release.sequence, release.manifest),
        )
        whole = [release for release in ranked if release.is_whole]
        for release in ranked:
            if release is ranked[0]:
                reason = Reason.NEWEST
            elif whole and release is whole[0]:
                reason = Reason.NEWEST_WHOLE
            else:
                reason = Reason.RECENT if release in whole[:keep] else Reason.SUPERSEDED
            reasons[release.manifest].append(reason)
    by_id = {release.manifest: release for release in releases}
    for release in releases:
        if release.is_pinned:
            reasons[release.manifest].append(Reason.PINNED)
        if release.is_running:
            reasons[release.manifest].append(Reason.RUNNING)
    for manifest in _stones(by_id, reasons):
        reasons[manifest].append(Reason.STEPPING_STONE)
    claims: dict[Digest, list[Reason]] = {}
    for release in releases:
        said = reasons[release.manifest]
        kept = any(reason in _HARD or reason is Reason.RECENT for reason in said)
        for image in release.images:
            is_done = release.is_whole and kept and image in release.patches
            claims.setdefault(image, []).extend((Reason.PATCH,) if is_done else said)
    return claims


def _stones(
    releases: dict[ManifestId, HeldRelease], reasons: dict[ManifestId, list[Reason]]
) -> list[ManifestId]:
    """Stepping stones of the releases that never go, and theirs in turn."""
    waiting = [manifest for manifest, said in reasons.items() if _HARD.intersection(said)]
    found: dict[ManifestId, None] = {}
    while waiting:
        for stone in sorted(releases[waiting.pop()].stepping_stones):
            if stone in releases and stone not in found:
                found[stone] = None
                waiting.append(stone)
    return list(found)


def _reason(held: HeldImage, said: Sequence[Reason]) -> Reason:
    """The strongest reason that concerns one image."""
    reasons = list(said)
    if held.is_in_use:
        reasons.append(Reason.IN_USE)
    if held.is_locked:
        # Its authorisation ended: only what devices run, or somebody still reads, keeps it.
        kept = [one for one in reasons if one in {Reason.RUNNING, Reason.IN_USE}]
        return min(kept, key=_STRENGTH.index, default=Reason.UNLOCKED)
    strongest = min(reasons, key=_STRENGTH.index, default=Reason.UNCLAIMED)
    if strongest is Reason.SUPERSEDED and not held.is_complete:
        return Reason.PARTIAL
    return strongest


def _make_room(
    ordered: Sequence[HeldImage],
    reasons: dict[Digest, Reason],
    going: set[Digest],
    need: Need,
) -> set[Digest]:
    """What has to go besides: as few as cover the need, unclaimed ones and the oldest first."""
    size_bytes = need.size_bytes - sum(item.size_bytes for item in ordered if item.image in going)
    files = need.files - len(going)
    more: set[Digest] = set()
    for soft in _SOFT:
        for held in ordered:
            if size_bytes <= 0 and files <= 0:
                return more
            if reasons[held.image] is soft:
                more.add(held.image)
                size_bytes -= held.size_bytes
                files -= 1
    return more
