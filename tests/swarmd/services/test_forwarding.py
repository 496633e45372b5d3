"""Connections through a third member: they work, they end, and they cannot be abused."""

from __future__ import annotations

import pytest
import trio

from protocol.errors import EncodingError, TransportError
from protocol.forward_messages import (
    Connect,
    ForwardAnswer,
    ForwardStatus,
    Incoming,
    Reserve,
    decode_forward_answer,
    decode_forward_request,
)
from swarmd.net.forwarded import ForwardedStream
from swarmd.net.network import Stream
from swarmd.peers import Offence
from swarmd.services import forwarder as forwarder_module
from swarmd.services.forwarder import Forwarder, ForwarderLimits
from tests.support.forward_nodes import FORWARD, ForwardNode, forward_node, triangle
from tests.support.network_nodes import assert_echoes, until
from tests.support.reach_nodes import Directory, Member

pytestmark = pytest.mark.slow
LIMIT_S = 20.0
SECRET = b"a secret that only two may read"


async def test_two_members_speak_through_a_third() -> None:
    with trio.fail_after(LIMIT_S):
        async with triangle() as (hidden, asker, relay, _):
            assert await asker.detours.reach(hidden.peer)
            await asker.greeted(hidden)
            await assert_echoes(asker.network, hidden.network)
            await assert_echoes(hidden.network, asker.network)
            for node, other in ((asker, hidden), (hidden, asker)):
                route = node.network.route(other.peer)
                assert route is not None
                assert route.via == relay.peer
                assert route.host == ""
            assert relay.forwarder.statistics().connections == 1
            assert relay.forwarder.statistics().passed_bytes > 0
            await asker.network.disconnect(hidden.peer)
            await until(lambda: relay.forwarder.statistics().connections == 0)


class Listener(Forwarder):
    """A forwarder that keeps what it passes on."""

    heard = bytearray()

    async def _pump(self, source: Stream, sink: Stream, passage: object) -> None:
        while (frame := await source.receive_frame()) is not None:
            self.heard.extend(frame)
            await sink.send_frame([frame])


async def test_the_forwarder_hears_ciphertext_only() -> None:
    with trio.fail_after(LIMIT_S):
        async with triangle() as (hidden, asker, relay, _):
            relay.forwarder.__class__ = Listener
            assert await asker.detours.reach(hidden.peer)
            await assert_echoes(asker.network, hidden.network, SECRET)
            assert len(Listener.heard) > 2 * len(SECRET)
            assert SECRET not in Listener.heard


class Forger(Forwarder):
    """A forwarder that flips one bit of every large piece."""

    async def _pump(self, source: Stream, sink: Stream, passage: object) -> None:
        while (frame := await source.receive_frame()) is not None:
            forged = bytearray(frame)
            if len(forged) > 100:
                forged[-5] ^= 1
            await sink.send_frame([forged])


async def test_a_forwarder_that_changes_a_bit_ends_the_connection() -> None:
    with trio.fail_after(LIMIT_S):
        async with triangle() as (hidden, asker, relay, _):
            relay.forwarder.__class__ = Forger
            reached = await asker.detours.reach(hidden.peer)
            if reached:
                with pytest.raises(TransportError):
                    await assert_echoes(asker.network, hidden.network, bytes(1000))
            await until(lambda: not asker.network.is_connected(hidden.peer))


async def test_a_forwarder_cannot_pose_as_the_other_end() -> None:
    """It answers the handshake itself: its key is not the one that was asked for."""

    class Impostor(Forwarder):
        async def connect(self, stream: Stream, request: Connect) -> None:
            await stream.send_frame(ForwardAnswer(ForwardStatus.ACCEPTED).encode())
            inner = ForwardedStream(stream)
            self._network.accept_over(inner, stream.peer)
            await inner.ended.wait()

    with trio.fail_after(LIMIT_S):
        async with triangle() as (hidden, asker, relay, _):
            relay.forwarder.__class__ = Impostor
            assert not await asker.detours.reach(hidden.peer)
            assert not asker.network.is_connected(hidden.peer)


async def test_a_direct_connection_takes_the_place_of_a_detour_and_never_the_other_way() -> None:
    with trio.fail_after(LIMIT_S):
        async with triangle() as (hidden, asker, relay, _):
            assert await asker.detours.reach(hidden.peer)
            await asker.greeted(hidden)
            await asker.network.connect(hidden.network.listen_addresses, replaces_forwarded=True)
            await until(lambda: relay.forwarder.statistics().connections == 0)
            await assert_echoes(asker.network, hidden.network)
            assert await asker.detours.reach(hidden.peer)
            await until(lambda: relay.forwarder.statistics().connections == 0)
            for node, other in ((asker, hidden), (hidden, asker)):
                route = node.network.route(other.peer)
                assert route is not None
                assert route.via is None


# -- who may -----------------------------------------------------------------------------------


async def test_strangers_and_other_groups_get_the_same_answer_as_for_nobody() -> None:
    foreign, nobody = Member(7, groups=("lamps",)), Member(9)
    directory = Directory()
    directory.add(foreign)
    with trio.fail_after(LIMIT_S):
        async with (
            triangle(directory) as (hidden, asker, relay, _),
            forward_node(foreign, directory) as other,
        ):
            await other.meet(relay)
            answers = [
                await other.status(relay, Connect(target).encode())
                for target in (hidden.peer, nobody.peer, asker.peer, other.peer)
            ]
            assert answers == ["UNKNOWN"] * 4
            assert hidden.network.peers() == (relay.peer,)


async def test_who_does_not_forward_says_so() -> None:
    one, two = Member(1), Member(2)
    directory = Directory()
    directory.add(one, two)
    off = ForwarderLimits(streams_max=0, bytes_per_s=1)
    with trio.fail_after(LIMIT_S):
        async with (
            forward_node(one, directory, limits=off) as relay,
            forward_node(two, directory) as asker,
        ):
            await asker.meet(relay)
            assert await asker.status(relay, Reserve().encode()) == "REFUSED"
            assert await asker.status(relay, Connect(one.peer).encode()) == "REFUSED"


async def test_nothing_goes_through_two_forwarders() -> None:
    """Over a connection that is passed on, nothing is reserved and nothing asked for: no circle."""
    with trio.fail_after(LIMIT_S):
        async with triangle() as (hidden, asker, _relay, _):
            assert await asker.detours.reach(hidden.peer)
            await asker.greeted(hidden)
            assert await asker.status(hidden, Reserve().encode()) == "REFUSED"
            assert await hidden.status(asker, Connect(hidden.peer).encode()) == "REFUSED"


async def test_a_connection_nobody_reserved_is_not_accepted() -> None:
    """A member cannot feed connections to whoever has not asked for them."""
    one, two, three = (Member(number) for number in (1, 2, 3))
    directory = Directory()
    directory.add(one, two, three)
    with trio.fail_after(LIMIT_S):
        async with forward_node(one, directory) as victim, forward_node(two, directory) as pusher:
            await pusher.meet(victim)
            assert await pusher.status(victim, Incoming(three.peer).encode()) == "UNKNOWN"


# -- ends --------------------------------------------------------------------------------------


async def test_suspension_of_either_end_cuts_the_way_at_once() -> None:
    for number in range(2):
        with trio.fail_after(LIMIT_S):
            async with triangle() as (hidden, asker, relay, directory):
                assert await asker.detours.reach(hidden.peer)
                await asker.greeted(hidden)
                directory.suspend((hidden, asker)[number].member)
                started = trio.current_time()
                relay.forwarder.review()
                relay.forwarder.drop((hidden, asker)[number].peer)
                await until(lambda: not asker.network.is_connected(hidden.peer))
                await until(lambda: not hidden.network.is_connected(asker.peer))
                assert trio.current_time() - started < 1.0
                assert relay.forwarder.statistics().connections == 0


async def test_suspension_of_the_forwarder_ends_what_goes_through_it() -> None:
    with trio.fail_after(LIMIT_S):
        async with triangle() as (hidden, asker, relay, _):
            assert await asker.detours.reach(hidden.peer)
            await asker.greeted(hidden)
            started = trio.current_time()
            hidden.detours.drop(relay.peer)
            await hidden.network.disconnect_via(relay.peer)
            await until(lambda: not asker.network.is_connected(hidden.peer))
            await until(lambda: not hidden.detours.forwarders)
            assert trio.current_time() - started < 1.0


async def test_a_member_that_leaves_frees_its_reservation() -> None:
    with trio.fail_after(LIMIT_S):
        async with triangle() as (hidden, asker, relay, _):
            await hidden.network.disconnect(relay.peer)
            await until(lambda: relay.forwarder.statistics().reservations == 0)
            assert not await asker.detours.reach(hidden.peer)


async def test_a_reservation_that_is_not_needed_any_more_ends() -> None:
    with trio.fail_after(LIMIT_S):
        async with triangle() as (hidden, _asker, relay, _):
            hidden.is_needed = False
            hidden.detours.wake()
            await until(lambda: relay.forwarder.statistics().reservations == 0)
            assert hidden.detours.forwarders == ()


# -- abuse -------------------------------------------------------------------------------------


async def test_a_member_holds_one_reservation_however_often_it_asks() -> None:
    with trio.fail_after(LIMIT_S):
        async with triangle() as (hidden, asker, relay, _):
            streams: list[Stream] = []
            for _ in range(5):
                stream = await asker.network.open_stream(relay.peer, FORWARD)
                await stream.send_frame(Reserve().encode())
                await stream.receive_frame()
                streams.append(stream)
            assert relay.forwarder.statistics().reservations == 2
            assert hidden.detours.forwarders == (relay.peer,)


async def test_reservations_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarder_module, "RESERVATIONS_MAX", 1)
    with trio.fail_after(LIMIT_S):
        async with triangle() as (hidden, asker, relay, _):
            assert await asker.status(relay, Reserve().encode()) == "BUSY"
            assert hidden.detours.forwarders == (relay.peer,)


async def test_a_flood_of_requests_is_refused_and_others_are_served() -> None:
    with trio.fail_after(LIMIT_S):
        async with triangle() as (hidden, asker, relay, _):
            nobody = Connect(Member(9).peer).encode()
            answers = [await asker.status(relay, nobody) for _ in range(12)]
            assert answers.count("UNKNOWN") == forwarder_module.REQUEST_BURST
            assert answers[-1] == "BUSY"
            assert await hidden.status(relay, nobody) == "UNKNOWN"


async def test_one_member_has_few_connections_passed_on() -> None:
    with trio.fail_after(LIMIT_S):
        async with triangle() as (hidden, asker, relay, _):
            streams: list[Stream] = []
            said: list[ForwardStatus] = []
            for _ in range(forwarder_module.PER_PEER_MAX + 2):
                stream = await asker.network.open_stream(relay.peer, FORWARD)
                await stream.send_frame(Connect(hidden.peer).encode())
                frame = await stream.receive_frame()
                assert frame is not None
                said.append(decode_forward_answer(frame).status)
                streams.append(stream)
            assert said[:-2] == [ForwardStatus.ACCEPTED] * forwarder_module.PER_PEER_MAX
            assert said[-2:] == [ForwardStatus.BUSY] * 2
            for stream in streams:
                await stream.reset()
            await until(lambda: relay.forwarder.statistics().connections == 0)


async def test_an_idle_connection_gives_way_when_there_is_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = ForwarderLimits(streams_max=1, bytes_per_s=1 << 26)
    with trio.fail_after(LIMIT_S):
        async with triangle(limits=limits) as (hidden, asker, relay, directory):
            fourth = Member(4)
            directory.add(fourth)
            async with forward_node(fourth, directory) as late:
                await late.meet(relay)
                late.forwarders[hidden.peer] = (relay.peer,)
                assert await asker.detours.reach(hidden.peer)
                assert not await late.detours.reach(hidden.peer), "busy ones stay"
                monkeypatch.setattr(forwarder_module, "IDLE_S", 0.0)
                assert await late.detours.reach(hidden.peer)
                await until(lambda: not asker.network.is_connected(hidden.peer))


async def transfer(asker: ForwardNode, hidden: ForwardNode, size: int) -> float:
    """Sends bytes through the forwarder; returns how long they took, seconds."""
    done = trio.Event()

    async def sink(stream: Stream) -> None:
        while await stream.receive_some():
            pass
        done.set()

    hidden.network.handle("/sink/1", sink, streams_per_peer_max=1, deadline_s=None)
    started = trio.current_time()
    async with await asker.network.open_stream(hidden.peer, "/sink/1") as stream:
        await stream.send_all(bytes(size))
        await stream.close_write()
        await done.wait()
    return trio.current_time() - started


@pytest.mark.slow
async def test_bytes_a_second_are_bounded() -> None:
    """One member's share is a quarter: 256 KiB a second after what it may burst."""
    limits = ForwarderLimits(streams_max=4, bytes_per_s=1 << 20)
    with trio.fail_after(LIMIT_S):
        async with triangle(limits=limits) as (hidden, asker, _relay, _):
            assert await asker.detours.reach(hidden.peer)
            await asker.greeted(hidden)
            share = limits.bytes_per_s / forwarder_module.SHARE
            took_s = await transfer(asker, hidden, 768 * 1024)
            assert took_s >= (768 * 1024 - share) / share * 0.9
            assert took_s <= 768 * 1024 / share * 1.5


@pytest.mark.parametrize("frame", [b"\x00", b"\xa1\x00\x04", b"\xa2\x00\x02\x01\x41\x00"])
def test_garbage_is_no_request(frame: bytes) -> None:
    with pytest.raises(EncodingError):
        decode_forward_request(frame)


def test_messages_read_back() -> None:
    for request in (Reserve(), Connect(b"\x01" * 32), Incoming(b"\x02" * 32)):
        assert decode_forward_request(request.encode()) == request
    for status in ForwardStatus:
        assert decode_forward_answer(ForwardAnswer(status).encode()).status is status


async def test_talking_on_a_reservation_is_scored() -> None:
    with trio.fail_after(LIMIT_S):
        async with triangle() as (_hidden, asker, relay, _):
            stream = await asker.network.open_stream(relay.peer, FORWARD)
            await stream.send_frame(Reserve().encode())
            await stream.receive_frame()
            await stream.send_frame(b"more")
            await until(lambda: relay.offences == [Offence.MALFORMED])
            assert relay.forwarder.statistics().reservations == 1
