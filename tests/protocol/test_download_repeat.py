"""A download that knows nobody to ask repeats its interest, less and less often."""

from __future__ import annotations

from itertools import pairwise

from protocol.bitfield import Bitfield
from protocol.digest import ManifestId
from protocol.download import REPEAT_PEERS, REPEAT_S_MAX, REPEAT_S_START, Download
from protocol.exchange_events import (
    ComponentPrepared,
    DownloadEffect,
    PeerJoined,
    PeerMessage,
    RecipeKnown,
    Send,
    TimerFired,
)
from protocol.exchange_messages import BitfieldMessage, Interest, Request
from protocol.picker import RarestFirst
from protocol.relay_events import PullGated

M = ManifestId(b"m" * 32)
COUNT = 8


def prepared(peers: int) -> Download:
    machine = Download(
        manifest_id=M, chunk_counts=(COUNT,), picker=RarestFirst(size=COUNT, entropy=0), lane=1
    )
    for number in range(peers):
        machine.handle(PeerJoined(peer=bytes([number])), 0.0)
    machine.handle(RecipeKnown(component=0, lengths=[1000] * COUNT), 0.0)
    machine.handle(ComponentPrepared(component=0, held=Bitfield(COUNT)), 0.0)
    return machine


def told(machine: Download, peer: int, bits: int, now: float) -> list[DownloadEffect]:
    message = BitfieldMessage(manifest_id=M, component=0, bits=Bitfield(COUNT, bits).encode())
    return machine.handle(PeerMessage(peer=bytes([peer]), message=message), now)


def asked(effects: list[DownloadEffect]) -> list[int]:
    return [e.peer[0] for e in effects if isinstance(e, Send) and isinstance(e.message, Interest)]


def test_pauses_double_up_to_their_bound() -> None:
    machine = prepared(2)
    times = []
    for _ in range(7):
        assert machine.deadline is not None
        times.append(machine.deadline)
        assert asked(machine.handle(TimerFired(), machine.deadline)) == [0, 1]
    assert times[0] == REPEAT_S_START
    pauses = [later - sooner for sooner, later in pairwise(times)]
    assert pauses == [1, 2, 4, 8, 16, 16]
    assert pauses[-1] == REPEAT_S_MAX


def test_many_peers_are_asked_in_turns() -> None:
    machine = prepared(REPEAT_PEERS + 2)
    turns = []
    for _ in range(2):
        assert machine.deadline is not None
        turns.append(asked(machine.handle(TimerFired(), machine.deadline)))
    assert turns[0] == list(range(REPEAT_PEERS))
    assert turns[1][:2] == [REPEAT_PEERS, REPEAT_PEERS + 1]


def test_who_has_something_to_ask_for_repeats_nothing() -> None:
    machine = prepared(2)
    effects = told(machine, 1, 0b1111, 0.5)
    assert any(isinstance(e, Send) and isinstance(e.message, Request) for e in effects)
    assert asked(machine.handle(TimerFired(), 1.0)) == []
    assert asked(machine.handle(TimerFired(), 1.25)) == []


def test_what_pushes_are_expected_for_is_no_reason_to_ask() -> None:
    machine = prepared(2)
    machine.handle(PullGated(object_number=0), 0.0)
    assert asked(machine.handle(TimerFired(), 1.0)) == []
    assert machine.deadline is None


def test_alone_nothing_is_said() -> None:
    machine = prepared(0)
    if machine.deadline is not None:
        assert machine.handle(TimerFired(), machine.deadline) == []
