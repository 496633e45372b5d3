"""Objects that a download can do without: patches, wanted when the host finds a use for them."""

from __future__ import annotations

import pytest

from protocol.bitfield import Bitfield, bits_of
from protocol.digest import ManifestId
from protocol.download import Download
from protocol.download_state import DownloadState
from protocol.errors import LocalProtocolError
from protocol.exchange_events import (
    ChunksLost,
    ChunksStored,
    ComponentComplete,
    ComponentPrepared,
    ComponentVerified,
    DownloadEffect,
    DownloadInput,
    Finished,
    ObjectDropped,
    ObjectWanted,
    PeerJoined,
    PeerMessage,
    PrepareComponent,
    RecipeKnown,
    Send,
    StorageFull,
    StorageReady,
    TimerFired,
    WriteChunks,
)
from protocol.exchange_messages import (
    BitfieldMessage,
    Chunks,
    ExchangeMessage,
    Interest,
    RecipeRequest,
    Request,
)
from protocol.picker import RarestFirst
from protocol.runs import Runs

MANIFEST = ManifestId(b"m" * 32)
PEER = b"peer"


class Rig:
    """A download of one component of three chunks, with a patch of two."""

    def __init__(self) -> None:
        self.machine = Download(
            manifest_id=MANIFEST,
            chunk_counts=(3, 2),
            picker=RarestFirst(size=5, entropy=0),
            lane=1,
            needed=1,
        )
        self.now = 0.0
        self.feed(PeerJoined(peer=PEER))
        for number, count in enumerate((3, 2)):
            bits = Bitfield.full(count).encode()
            self.hear(BitfieldMessage(manifest_id=MANIFEST, component=number, bits=bits))

    def feed(self, event: DownloadInput) -> list[DownloadEffect]:
        self.now += 0.01
        return self.machine.handle(event, self.now)

    def hear(self, message: ExchangeMessage) -> list[DownloadEffect]:
        return self.feed(PeerMessage(peer=PEER, message=message))

    def prepare(self, number: int, count: int, *held: int) -> list[DownloadEffect]:
        known = self.feed(RecipeKnown(component=number, lengths=[100] * count))
        assert PrepareComponent(component=number) in known
        return self.feed(ComponentPrepared(component=number, held=Bitfield(count, bits_of(held))))


def messages(effects: list[DownloadEffect]) -> list[ExchangeMessage]:
    return [effect.message for effect in effects if isinstance(effect, Send)]


def requests(effects: list[DownloadEffect]) -> list[tuple[int, tuple[int, ...]]]:
    sent = messages(effects)
    return [(one.component, tuple(one.indices)) for one in sent if isinstance(one, Request)]


def test_a_patch_is_neither_asked_for_nor_needed_until_it_is_wanted() -> None:
    rig = Rig()
    joined = Download(
        manifest_id=MANIFEST,
        chunk_counts=(3, 2),
        picker=RarestFirst(size=5, entropy=0),
        lane=2,
        needed=1,
    ).handle(PeerJoined(peer=PEER), 0.0)
    assert messages(joined) == [Interest(manifest_id=MANIFEST, components=(0,))]
    assert rig.machine.statistics().chunks_total == 3
    effects = rig.prepare(0, 3)
    assert requests(effects) == [(0, (0, 1, 2))]
    (sent,) = messages(effects)
    assert isinstance(sent, Request)
    chunks = tuple((index, bytes(100)) for index in range(3))
    rig.hear(Chunks.of(sent.request_id, chunks))
    assert ComponentComplete(component=0) in rig.feed(
        ChunksStored(component=0, indices=[0, 1, 2], gained=[])
    )
    assert Finished() in rig.feed(ComponentVerified(component=0))
    assert rig.machine.state is DownloadState.FINISHED


def wanted() -> tuple[Rig, list[DownloadEffect]]:
    """The component waits to be prepared, which the host does once it has the patch."""
    rig = Rig()
    rig.feed(RecipeKnown(component=0, lengths=[100] * 3))
    return rig, rig.feed(ObjectWanted(component=1))


def test_a_wanted_patch_is_fetched_while_its_component_waits() -> None:
    rig, effects = wanted()
    said = messages(effects)
    assert said[0] == Interest(manifest_id=MANIFEST, components=(0, 1))
    assert isinstance(said[1], RecipeRequest)
    assert (said[1].component, said[1].page) == (1, 0)
    assert rig.machine.statistics().chunks_total == 5
    effects = rig.prepare(1, 2)
    assert requests(effects) == [(1, (0, 1))]
    request_id = next(one.request_id for one in messages(effects) if isinstance(one, Request))
    effects = rig.hear(Chunks.of(request_id, ((0, bytes(100)), (1, bytes(100)))))
    (write,) = [effect for effect in effects if isinstance(effect, WriteChunks)]
    assert tuple(write.indices) == (0, 1)
    effects = rig.feed(ChunksStored(component=1, indices=[0, 1], gained=[]))
    assert ComponentComplete(component=1) in effects
    assert rig.feed(ComponentVerified(component=1)) == []  # the component is still to come
    effects = rig.feed(ComponentPrepared(component=0, held=Bitfield(3, bits_of((0, 2)))))
    assert requests(effects) == [(0, (1,))]  # what the patch did not make


def test_a_patch_that_makes_everything_leaves_nothing_to_fetch() -> None:
    rig, _ = wanted()
    effects = rig.feed(ComponentPrepared(component=0, held=Bitfield.full(3)))
    assert effects == [ComponentComplete(component=0)]
    assert Finished() in rig.feed(ComponentVerified(component=0))  # the patch holds nothing up


@pytest.mark.parametrize("stage", ["recipe", "chunks", "stored"])
def test_a_dropped_patch_is_asked_for_no_more(stage: str) -> None:
    rig, _ = wanted()
    if stage != "recipe":
        rig.feed(RecipeKnown(component=1, lengths=[100] * 2))
        if stage == "stored":
            rig.feed(ComponentPrepared(component=1, held=Bitfield(2, bits_of((0,)))))
    rig.feed(ObjectDropped(component=1))
    effects = rig.feed(ComponentPrepared(component=0, held=Bitfield(3, bits_of((0,)))))
    assert requests(effects) == [(0, (1, 2))]
    if stage == "chunks":
        assert (
            requests(rig.feed(ComponentPrepared(component=1, held=Bitfield(2, bits_of(()))))) == []
        )
    rig.now += 100
    assert [entry for entry in requests(rig.feed(TimerFired())) if entry[0] == 1] == []


def test_what_was_on_its_way_when_a_patch_was_dropped_is_no_offence() -> None:
    rig, _ = wanted()
    effects = rig.prepare(1, 2)
    request_id = next(one.request_id for one in messages(effects) if isinstance(one, Request))
    rig.feed(ObjectDropped(component=1))
    effects = rig.hear(Chunks.of(request_id, ((0, bytes(100)),)))
    assert [tuple(effect.indices) for effect in effects if isinstance(effect, WriteChunks)] == [
        (0,)
    ]
    rig.feed(ChunksStored(component=1, indices=[0], gained=[]))


def test_an_object_is_wanted_once_and_only_if_it_was_not_needed_anyway() -> None:
    rig, _ = wanted()
    for number in (0, 1):
        with pytest.raises(LocalProtocolError):
            rig.feed(ObjectWanted(component=number))
    with pytest.raises(LocalProtocolError):
        rig.feed(ObjectWanted(component=2))


def test_rot_of_a_patch_nobody_wants_is_nobodys_business() -> None:
    assert Rig().feed(ChunksLost(component=1, indices=(0,))) == []


def test_what_comes_unasked_after_the_rest_is_no_news() -> None:
    rig, _ = wanted()
    rig.feed(ComponentPrepared(component=0, held=Bitfield.full(3)))
    assert rig.feed(ChunksStored(component=0, indices=Runs.of(()), gained=Runs.of((1,)))) == []
    rig.feed(ComponentVerified(component=0))
    assert rig.feed(ChunksStored(component=0, indices=Runs.of(()), gained=Runs.of((1,)))) == []


def test_space_that_returns_prepares_a_wanted_patch_again() -> None:
    rig, _ = wanted()
    rig.feed(RecipeKnown(component=1, lengths=[100] * 2))
    rig.feed(StorageFull(component=1, indices=()))
    effects = rig.feed(StorageReady())
    assert PrepareComponent(component=0) in effects
    assert PrepareComponent(component=1) in effects
