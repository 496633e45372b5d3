"""What a relay closes is not asked for; what it opens is, and only that."""

from __future__ import annotations

import pytest

from protocol.bitfield import Bitfield
from protocol.digest import ManifestId
from protocol.download import Download
from protocol.download_state import DownloadState
from protocol.exchange_events import (
    ChunksStored,
    ComponentPrepared,
    ComponentVerified,
    DownloadEffect,
    PeerJoined,
    PeerLeft,
    PeerMessage,
    RecipeKnown,
    Send,
    Stop,
    TimerFired,
)
from protocol.exchange_messages import BitfieldMessage, Request
from protocol.picker import RarestFirst
from protocol.relay_events import PullFreed, PullGated, PullOpened

M = ManifestId(b"m" * 32)
COUNTS = (8, 4)


def asked(effects: list[DownloadEffect]) -> dict[int, set[int]]:
    """What requests ask for, by component."""
    found: dict[int, set[int]] = {}
    for effect in effects:
        if isinstance(effect, Send) and isinstance(effect.message, Request):
            found.setdefault(effect.message.component, set()).update(effect.message.indices)
    return found


@pytest.fixture
def gated() -> Download:
    """Both components prepared, the first one gated, nobody there yet."""
    download = Download(
        manifest_id=M, chunk_counts=COUNTS, picker=RarestFirst(size=12, entropy=0), lane=1
    )
    for component, count in enumerate(COUNTS):
        download.handle(RecipeKnown(component=component, lengths=[1000] * count), 0.0)
        prepared = ComponentPrepared(component=component, held=Bitfield(count))
        download.handle(prepared, 0.0)
    download.handle(PullGated(object_number=0), 0.0)
    return download


def join(download: Download, peer: bytes) -> list[DownloadEffect]:
    effects = list(download.handle(PeerJoined(peer=peer), 0.0))
    for component, count in enumerate(COUNTS):
        bits = Bitfield.full(count).encode()
        message = BitfieldMessage(manifest_id=M, component=component, bits=bits)
        effects += download.handle(PeerMessage(peer=peer, message=message), 0.0)
    return effects


def test_a_gated_object_is_not_asked_for_and_another_is(gated: Download) -> None:
    assert asked(join(gated, b"a")) == {1: {0, 1, 2, 3}}
    assert asked(gated.handle(TimerFired(), 1.0)) == {}


def test_what_is_opened_is_asked_for_at_once(gated: Download) -> None:
    join(gated, b"a")
    assert asked(gated.handle(PullOpened(runs=((1, 2), (5, 1))), 0.1)) == {0: {1, 2, 5}}


def test_all_is_asked_for_once_nobody_seeds(gated: Download) -> None:
    join(gated, b"a")
    gated.handle(PullOpened(runs=((0, 1),)), 0.1)
    assert asked(gated.handle(PullFreed(object_number=0), 0.2)) == {0: set(range(1, 8))}


def test_chunks_that_came_unasked_count_and_are_not_asked_for(gated: Download) -> None:
    join(gated, b"a")
    gated.handle(ChunksStored(component=0, indices=(), gained=range(6)), 0.1)
    assert asked(gated.handle(PullFreed(object_number=0), 0.2)) == {0: {6, 7}}


def test_an_opened_chunk_is_asked_of_another_when_its_peer_leaves(gated: Download) -> None:
    join(gated, b"a")
    join(gated, b"b")
    gated.handle(PullOpened(runs=((3, 1),)), 0.1)
    again: dict[int, set[int]] = {}
    for peer in (b"a", b"b"):
        again |= asked(gated.handle(PeerLeft(peer=peer), 0.2))
        if 0 in again:
            break
    assert again[0] == {3}


def test_nothing_is_asked_for_after_the_end(gated: Download) -> None:
    join(gated, b"a")
    gated.handle(Stop(), 0.1)
    assert gated.handle(PullFreed(object_number=0), 0.2) == []
    assert gated.state is DownloadState.STOPPED


def test_a_gated_object_completes_by_what_comes_unasked() -> None:
    download = Download(
        manifest_id=M, chunk_counts=(8,), picker=RarestFirst(size=8, entropy=0), lane=1
    )
    download.handle(RecipeKnown(component=0, lengths=[1000] * 8), 0.0)
    download.handle(ComponentPrepared(component=0, held=Bitfield(8)), 0.0)
    download.handle(PullGated(object_number=0), 0.0)
    download.handle(ChunksStored(component=0, indices=(), gained=range(8)), 1.0)
    download.handle(ComponentVerified(component=0), 1.0)
    assert download.state is DownloadState.FINISHED
