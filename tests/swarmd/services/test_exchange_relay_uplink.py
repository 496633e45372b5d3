"""How links are paced while a relay pushes."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.limits import KIB
from swarmd.net.uplink_window import LOOK_S, PathState
from swarmd.services.exchange_relay_uplink import PACED_S, RelayUplink

RATE = 625_000
UNIT = 16 * KIB


@dataclass
class Link:
    """A link whose connection has taken all it was given, and acknowledged some."""

    peer: bytes
    sent_bytes: int = 0
    unacked_bytes: int = 0
    pace_bytes_per_s: int | None = None
    changes: list[int | None] = field(default_factory=list)

    def path(self) -> PathState | None:
        return PathState(self.unacked_bytes, 0.04, self.sent_bytes)

    def pace(self, bytes_per_s: int | None) -> None:
        self.pace_bytes_per_s = bytes_per_s
        self.changes.append(bytes_per_s)


class Silent(Link):
    """A link over which the system says nothing of."""

    def path(self) -> PathState | None:
        return None


def push(uplink: RelayUplink, links: list[Link], seconds: float) -> float:
    """Hands units out as there is room, to all in turn; the uplink acknowledges at its rate."""
    now, turn, free_bytes = 0.0, 0, 0.0
    while now < seconds:
        free_bytes += RATE * LOOK_S
        for link in links:
            taken = min(link.unacked_bytes, int(free_bytes))
            link.unacked_bytes -= taken
            free_bytes -= taken
        free_bytes = min(free_bytes, RATE * LOOK_S)
        room_bytes = uplink.room_bytes(0, now)
        while room_bytes is not None and room_bytes > 0:
            link = links[turn % len(links)]
            link.sent_bytes += UNIT
            link.unacked_bytes += UNIT
            uplink.handed_out(UNIT)
            room_bytes -= UNIT
            turn += 1
        now += LOOK_S
    return now


def test_links_are_paced_while_pushes_go_out_and_not_for_long_after() -> None:
    links = [Link(bytes((number,)) * 32) for number in range(8)]
    uplink = RelayUplink(links)
    now = push(uplink, links, 5.0)
    paces = [link.pace_bytes_per_s for link in links]
    assert None not in paces
    assert sum(pace or 0 for pace in paces) >= RATE
    _, paced_until = uplink.deadlines
    assert paced_until is not None
    uplink.wake(now)
    assert [link.pace_bytes_per_s for link in links] == paces, "too early"
    uplink.wake(now + PACED_S)
    assert {link.pace_bytes_per_s for link in links} == {None}
    assert uplink.deadlines[1] is None


def test_a_link_that_begins_in_between_is_paced_like_the_others() -> None:
    links = [Link(bytes((number,)) * 32) for number in range(8)]
    uplink = RelayUplink(links)
    now = push(uplink, links, 5.0)
    links.append(Link(b"x" * 32))
    uplink.room_bytes(0, now + LOOK_S)
    assert links[-1].pace_bytes_per_s == links[0].pace_bytes_per_s is not None


def test_where_the_system_says_nothing_there_is_no_limit() -> None:
    links: list[Link] = [Silent(b"a" * 32)]
    uplink = RelayUplink(links)
    assert uplink.room_bytes(0, 1.0) is None
    assert uplink.is_drained
    assert links[0].pace_bytes_per_s is None


def test_without_room_a_look_is_due_soon_and_with_room_none() -> None:
    links = [Link(b"a" * 32)]
    uplink = RelayUplink(links)
    assert (uplink.room_bytes(0, 1.0) or 0) > 0
    assert uplink.deadlines[0] is None
    links[0].unacked_bytes = links[0].sent_bytes = 10 * 1024 * KIB
    assert (uplink.room_bytes(0, 1.0 + LOOK_S) or 0) <= 0
    look_at, _ = uplink.deadlines
    assert look_at is not None
    assert look_at <= 1.0 + 2 * LOOK_S + 1e-9
