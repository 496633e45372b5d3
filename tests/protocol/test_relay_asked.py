"""Who asks for chunks claims nothing: a seeder pushes what many asked for before it began."""

from __future__ import annotations

import pytest

from protocol.digest import ManifestId
from protocol.exchange_events import PeerJoined, TimerFired
from protocol.relay import Relay
from protocol.relay_events import (
    ObjectReady,
    PeerPossession,
    PeerRequested,
    RelayReceived,
    RelaySettings,
    SendPush,
)
from protocol.relay_messages import Ready, Role

M = ManifestId(b"m" * 32)
LENGTHS = [8192] * 20
WHOLE = (1 << len(LENGTHS)) - 1
MEMBERS = [bytes([number]) * 32 for number in range(1, 7)]


def pushed(claims: str) -> int:
    """Chunks that a seeder pushes after members asked for all, or told that they hold all."""
    relay = Relay(
        manifest_id=M,
        own_key=b"o" * 32,
        chunk_counts=[len(LENGTHS)],
        settings=RelaySettings(),
        entropy=1,
    )
    for peer in MEMBERS:
        relay.handle(PeerJoined(peer=peer), 0.0)
        indices = tuple(range(len(LENGTHS)))
        if claims == "asked":
            relay.handle(PeerRequested(peer=peer, object_number=0, indices=indices), 0.0)
    relay.handle(ObjectReady(object_number=0, lengths=LENGTHS, held=WHOLE), 0.0)
    for peer in MEMBERS:
        roles = ((0, Role.RECEIVES if claims != "told" else Role.RESUMES),)
        relay.handle(RelayReceived(peer=peer, message=Ready(manifest_id=M, roles=roles)), 0.0)
        if claims == "told":
            relay.handle(PeerPossession(peer=peer, object_number=0, bits=WHOLE), 0.0)
    relay.handle(TimerFired(), 0.6)
    count = 0
    for _ in range(100):
        pushes = [effect for effect in relay.next_push(0.6) if isinstance(effect, SendPush)]
        if not pushes:
            break
        count += sum(push.count for push in pushes)
        for push in pushes:
            relay.set_writable(push.peer, is_writable=True)
    return count


@pytest.mark.parametrize("claims", ["nothing", "asked"])
def test_requests_keep_nothing_from_being_pushed(claims: str) -> None:
    assert pushed(claims) == pushed("nothing") > 0


def test_what_enough_members_hold_is_not_pushed() -> None:
    assert pushed("told") == 0
