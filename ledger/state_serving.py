"""What a node tells peers that fetch the state: its newest kept version, pages of it, manifests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ledger.block_store import BlockStore
from ledger.header import Header
from ledger.light import EpochStep
from ledger.log import Log
from ledger.state_range import StatePage, make_page
from protocol.digest import Digest, ManifestId
from protocol.limits import KIB
from protocol.state_messages import (
    STATE_HEADERS_MAX,
    STATE_STEPS_MAX,
    STEP_BYTES_MAX,
    StateHeadAnswer,
)

STEPS_BYTES_MAX: Final = 512 * KIB
"""Bytes of hand-overs in one answer: the frame holds these and the headers."""
_NOTHING: Final = StateHeadAnswer(steps=(), headers=(), certificate=b"", log=b"")


def state_head(store: BlockStore, steps: Sequence[EpochStep], epoch: int) -> StateHeadAnswer:
    """The newest version kept for others, with what makes it believable (Y20).

    Args:
        store: the ledger's database.
        steps: hand-overs from the asker's epoch on, as many as there are.
        epoch: the asker's epoch.
    """
    shown = _newest_version(store)
    if shown is None or shown[0].epoch < epoch:
        return _NOTHING
    first, log = shown
    encoded = [step.encode() for step in steps[: first.epoch - epoch]][:STATE_STEPS_MAX]
    while sum(map(len, encoded)) > STEPS_BYTES_MAX:
        encoded.pop()
    if any(len(raw) > STEP_BYTES_MAX for raw in encoded):
        return _NOTHING
    if len(encoded) < first.epoch - epoch:
        return StateHeadAnswer(steps=tuple(encoded), headers=(), certificate=b"", log=b"")
    headers, certificate = _finality(store, first.height)
    if not certificate:
        return _NOTHING
    return StateHeadAnswer(
        steps=tuple(encoded),
        headers=headers,
        certificate=certificate,
        log=log.encode(),
    )


def _newest_version(store: BlockStore) -> tuple[Header, Log] | None:
    """Header and log of the newest kept version that does not close its epoch (Y3)."""
    for snapshot in reversed(store.nodes.snapshots()):
        header = store.header(snapshot.height)
        if header is not None and not header.closes_epoch:
            return header, snapshot.log
    return None


def _finality(store: BlockStore, height: int) -> tuple[tuple[bytes, ...], bytes]:
    """Encoded headers from a height to the first certified one, and its certificate."""
    headers: list[bytes] = []
    for current in range(height, height + STATE_HEADERS_MAX):
        header = store.header(current)
        if header is None:
            break
        headers.append(header.encoded)
        certificate = store.certificate_of(current)
        if certificate is not None:
            return tuple(headers), certificate.encode()
        closed = store.handover(header.epoch) if header.closes_epoch else None
        if closed is not None:
            fillers = [block.header.encoded for block in closed[1].fillers]
            return (*headers, *fillers), closed[1].certificate.encode()
    return (), b""


def state_page(store: BlockStore, height: int, start: Digest) -> StatePage | None:
    """A page of a kept version; None: it is not kept.

    Raises:
        StorageError: it could not be read, or ceased to be kept meanwhile.
    """
    kept = next((item for item in store.nodes.snapshots() if item.height == height), None)
    return None if kept is None else make_page(kept.tree, start)


def manifests(store: BlockStore, wanted: Sequence[ManifestId]) -> tuple[bytes, ...]:
    """Original bytes of manifests, in the order asked for; empty where one is not here."""
    return tuple(store.manifests.raw(name) or b"" for name in wanted)
