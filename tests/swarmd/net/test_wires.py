"""What carries the bytes: the memory wire behaves as TCP does, and both report their troubles."""

import pytest
import trio
import trio.testing

from protocol.errors import TransportError
from swarmd.net.memory import BACKLOG, PIPE_BYTES_MAX, MemoryStream, MemoryWire
from swarmd.net.wire import ByteStream, TCPWire, Wire, WireListener, remote_address
from tests.support.network_nodes import LIMIT_S, assert_echoes, node


@pytest.fixture(params=["tcp", "memory"])
def wire(request: pytest.FixtureRequest) -> Wire:
    return TCPWire() if request.param == "tcp" else MemoryWire()


async def pair(wire: Wire) -> tuple[ByteStream, ByteStream, WireListener]:
    listener = await wire.listen("127.0.0.1", 0)
    there = await wire.dial(*listener.address)
    return there, await listener.accept(), listener


async def send_forever(stream: ByteStream) -> None:
    while True:
        await stream.send_all(bytes(100_000))


async def test_bytes_and_end(wire: Wire) -> None:
    with trio.fail_after(LIMIT_S):
        one, two, listener = await pair(wire)
        await one.send_all(b"hello")
        assert await two.receive_some(3) == b"hel"
        assert await two.receive_some() == b"lo"
        await one.aclose()
        assert await two.receive_some() == b""
        await two.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await two.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await two.receive_some()
        await listener.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()


async def test_sending_to_a_closed_end_breaks(wire: Wire) -> None:
    with trio.fail_after(LIMIT_S):
        one, two, listener = await pair(wire)
        await two.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await send_forever(one)
        await one.aclose()
        await listener.aclose()


async def test_a_full_pipe_waits_for_its_reader(wire: Wire) -> None:
    size = 64 * PIPE_BYTES_MAX
    with trio.fail_after(LIMIT_S):
        one, two, listener = await pair(wire)
        sent = trio.Event()

        async def push() -> None:
            await one.send_all(bytes(size))
            sent.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(push)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not sent.is_set()
            received = 0
            while received < size:
                received += len(await two.receive_some())
        for stream in (one, two):
            await stream.aclose()
        await listener.aclose()


async def test_nobody_listens(wire: Wire) -> None:
    listener = await wire.listen("127.0.0.1", 0)
    host, port = listener.address
    await listener.aclose()
    with pytest.raises(TransportError, match="cannot connect"):
        await wire.dial(host, port)


async def test_address_that_is_not_ours() -> None:
    with pytest.raises(TransportError, match="cannot listen"):
        await TCPWire().listen("192.0.2.1", 0)


async def test_memory_backlog_is_bounded_and_ended() -> None:
    wire = MemoryWire()
    listener = await wire.listen("10.0.0.1", 4001)
    waiting = [await wire.dial("10.0.0.1", 4001) for _ in range(BACKLOG)]
    with pytest.raises(TransportError, match="full"):
        await wire.dial("10.0.0.1", 4001)
    await listener.aclose()
    assert await waiting[0].receive_some() == b""
    assert remote_address(waiting[0]) is None


async def test_memory_latency_is_virtual(autojump_clock: trio.testing.MockClock) -> None:
    wire = MemoryWire(latency_s=0.5)
    async with node(1, wire=wire) as server, node(2, wire=wire, dial_stagger_s=60.0) as client:
        start = trio.current_time()
        await assert_echoes(client, server)
        assert 3.0 < trio.current_time() - start < 12.0


class ExhaustedListener:
    """Refuses to accept a few times, as a system without descriptors does."""

    def __init__(self, inner: WireListener) -> None:
        self._inner = inner
        self.address = inner.address
        self._refusals = 3

    async def accept(self) -> ByteStream:
        if self._refusals:
            self._refusals -= 1
            raise TransportError("cannot accept now: too many open files")
        return await self._inner.accept()

    async def aclose(self) -> None:
        await self._inner.aclose()


class ExhaustedWire(MemoryWire):
    async def listen(self, host: str, port: int) -> ExhaustedListener:  # type: ignore[override]
        return ExhaustedListener(await super().listen(host, port))


async def test_accepting_goes_on_when_descriptors_are_back(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    wire = ExhaustedWire()
    async with node(1, wire=wire) as server, node(2, wire=wire) as client:
        await assert_echoes(client, server)
    assert "too many open files" in caplog.text


async def test_memory_stream_is_a_byte_stream() -> None:
    one, _, _ = await pair(MemoryWire())
    assert isinstance(one, MemoryStream)
