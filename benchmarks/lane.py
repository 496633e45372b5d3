"""What a bulk lane costs beside other ways to move the same frames between two processes.

    python benchmarks/lane.py [--mib 512] [--rounds 3] [--frame-kib 256] [--only lane,plain]

Each round runs every variant once, one after the other: a sender and a receiver process over
loopback. The sender sends frames of an exchange's size; the receiver hashes every body (SHA-256).
No disk. Reported are medians of MiB/s and of processor seconds of both processes per GiB; trust the
ratios to `plain`, which encrypts nothing and is the floor.

    lane     a lane: AES-GCM records on a socket of its own, steps in threads
    stream   a libp2p stream: Noise and yamux, on the trio thread
    trio     trio.SSLStream on a socket of its own
    threads  a blocking SSLSocket in a thread of its own
    gcm      AES-GCM records of whole frames over a blocking socket in a thread of its own
    plain    a blocking socket in a thread of its own, no encryption
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import resource
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sized
from pathlib import Path
from typing import Any, Final

import trio
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.digest import ChainId
from protocol.keys import PrivateKey
from protocol.lane_offer import LaneOffer
from swarmd.entropy import SystemEntropy
from swarmd.net.address import PeerAddress, PeerKey
from swarmd.net.config import NetworkConfig, PeerClass
from swarmd.net.lane import Lane, LaneWorkers
from swarmd.net.lane_certificate import client_context, make_lane_identity
from swarmd.net.lane_client import LaneClient
from swarmd.net.lane_server import LaneGate, LaneServer
from swarmd.net.lane_tokens import TokenBook
from swarmd.net.network import Stream, open_network

VARIANTS: Final = ("lane", "stream", "trio", "threads", "gcm", "plain")
KIB: Final = 1024
MIB: Final = 1024 * KIB
SECRETS: Final = {"send": PrivateKey(bytes([1]) * 32), "receive": PrivateKey(bytes([2]) * 32)}
HOST: Final = "127.0.0.1"
PROTOCOL: Final = "/bench/lane/2"
TOKEN: Final = bytes(range(32))
KEY: Final = bytes(range(32))
FRAME_BYTES_MAX: Final = 2 * MIB
WAITING_MAX: Final = 16
HASHED_MAX: Final = 4


class Everybody:
    """An admission that trusts."""

    def peer_class(self, _peer: PeerKey) -> PeerClass:
        """Everybody is a member."""
        return PeerClass.MEMBER

    def may_connect(self, _peer: PeerKey) -> bool:
        """Everybody may."""
        return True

    def may_open(self, _peer: PeerKey, _protocol: str) -> bool:
        """Everybody may."""
        return True

    def may_gossip(self, _peer: PeerKey) -> bool:
        """Nobody does."""
        return False


def peer(role: str) -> PeerKey:
    """The transport key of one end."""
    return PeerKey(SECRETS[role].public.raw)


# Payload -----------------------------------------------------------------------------------------


class Job:
    """What is sent: a head and a payload, over and over."""

    def __init__(self, mib: int, frame_bytes: int) -> None:
        self.head = os.urandom(100)
        self.payload = memoryview(os.urandom(frame_bytes))
        self.frame_bytes = len(self.head) + frame_bytes
        self.frames = mib * MIB // frame_bytes

    @property
    def parts(self) -> tuple[bytes, memoryview]:
        """The frame as it is handed over."""
        return self.head, self.payload


async def swallow(job: Job, receive: Callable[[], Awaitable[Sized | None]]) -> None:
    """Receives every frame and hashes it in a thread, up to 1 MiB at once as the exchange does."""
    limiter = trio.CapacityLimiter(1)
    given, taken = trio.open_memory_channel[Any](WAITING_MAX)

    def digest(bodies: list[Any]) -> None:
        for body in bodies:
            hashlib.sha256(body).digest()

    async def work() -> None:
        left = job.frames
        while left:
            bodies = [await taken.receive()]
            with contextlib.suppress(trio.WouldBlock):
                while len(bodies) < HASHED_MAX:
                    bodies.append(taken.receive_nowait())
            await trio.to_thread.run_sync(digest, bodies, limiter=limiter)
            left -= len(bodies)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        for _ in range(job.frames):
            body = await receive()
            assert body is not None
            assert len(body) == job.frame_bytes
            await given.send(body)
            del body


# Variants on trio --------------------------------------------------------------------------------


async def send_lane(job: Job, announce: Callable[[object], None]) -> None:
    """Serves frames over a lane."""
    done = trio.Event()

    async def serve(lane: Lane) -> None:
        for _ in range(job.frames):
            await lane.send_frame(job.parts)
        await lane.receive_frame()
        done.set()

    identity = make_lane_identity(Path(tempfile.gettempdir()))
    tokens = TokenBook()
    tokens.give(peer("receive"), TOKEN, trio.current_time())
    gate = LaneGate(
        chain=ChainId(bytes(32)),
        era=lambda: 0,
        tokens=tokens,
        entropy=SystemEntropy(),
        may_use=lambda _peer: True,
    )
    server = LaneServer(identity, gate, LaneWorkers(), serve)
    server.bind((HOST,), 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        announce([server.port, identity.fingerprint.hex()])
        await done.wait()
        nursery.cancel_scope.cancel()


async def receive_lane(job: Job, told: list[object]) -> None:
    """Takes them."""
    offer = LaneOffer(port=int(str(told[0])), fingerprint=bytes.fromhex(str(told[1])), token=TOKEN)
    client = LaneClient(
        key=SECRETS["receive"],
        chain=ChainId(bytes(32)),
        era=lambda: 0,
        entropy=SystemEntropy(),
        workers=LaneWorkers(),
    )
    lane = await client.open(peer("send"), offer, HOST)
    await swallow(job, lane.receive_frame)
    await lane.send_frame((b"done",))
    await lane.reset()


async def send_stream(job: Job, announce: Callable[[object], None]) -> None:
    """Serves frames over a stream of the connection for peers."""
    done = trio.Event()

    async def serve(stream: Stream) -> None:
        for _ in range(job.frames):
            await stream.send_frame(job.parts)
        await stream.receive_frame()
        done.set()

    config = NetworkConfig(seed=SECRETS["send"].seed(), listen=((HOST, 0),))
    async with open_network(config, admission=Everybody()) as network:
        network.handle(PROTOCOL, serve, streams_per_peer_max=1, deadline_s=None)
        announce([network.listen_addresses[0].multiaddr])
        await done.wait()


async def receive_stream(job: Job, told: list[object]) -> None:
    """Takes them."""
    config = NetworkConfig(seed=SECRETS["receive"].seed())
    async with open_network(config, admission=Everybody()) as network:
        await network.connect([PeerAddress.parse(str(told[0]))])
        stream = await network.open_stream(peer("send"), PROTOCOL)
        await swallow(job, stream.receive_frame)
        await stream.send_frame(b"done")
        await stream.aclose()


async def send_trio(job: Job, announce: Callable[[object], None]) -> None:
    """Serves frames over a TLS stream of trio."""
    identity = make_lane_identity(Path(tempfile.gettempdir()))
    listener = (await trio.open_tcp_listeners(0, host=HOST))[0]
    announce([listener.socket.getsockname()[1]])
    stream = trio.SSLStream(await listener.accept(), identity.context, server_side=True)
    prefix = struct.pack(">I", job.frame_bytes)
    for _ in range(job.frames):
        await stream.send_all(prefix + job.head)
        await stream.send_all(job.payload)
    await stream.receive_some(1)


async def receive_trio(job: Job, told: list[object]) -> None:
    """Takes them."""
    plain = await trio.open_tcp_stream(HOST, int(str(told[0])))
    stream = trio.SSLStream(plain, client_context())
    buffer = bytearray()

    async def receive() -> bytes:
        while len(buffer) < 4 or len(buffer) < 4 + int.from_bytes(buffer[:4], "big"):
            buffer.extend(await stream.receive_some(256 * KIB))
        size = int.from_bytes(buffer[:4], "big")
        with memoryview(buffer) as view:
            body = bytes(view[4 : 4 + size])
        del buffer[: 4 + size]
        return body

    await swallow(job, receive)
    await stream.send_all(b"d")


# Variants on threads -----------------------------------------------------------------------------


class Plain:
    """A socket as it is."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(self, data: bytes | memoryview) -> None:
        """Sends all of it."""
        self.sock.sendall(data)

    def receive_into(self, view: memoryview) -> None:
        """Fills the view."""
        while view:
            count = self.sock.recv_into(view)
            assert count, "ended early"
            view = view[count:]


class Sealed:
    """AES-GCM records of one frame each: length in the associated data, counters as nonces."""

    def __init__(self, sock: socket.socket) -> None:
        self.plain = Plain(sock)
        self.cipher = AESGCM(KEY)
        self.counter = 0
        self.buffer = bytearray(FRAME_BYTES_MAX)

    def _next(self) -> bytes:
        self.counter += 1
        return self.counter.to_bytes(12, "big")

    def send_frame(self, head: bytes, payload: memoryview) -> None:
        """Seals and sends both parts."""
        for part in (head, payload):
            size = struct.pack(">I", len(part) + 16)
            view = memoryview(self.buffer)[: len(part) + 16]
            self.cipher.encrypt_into(self._next(), part, size, view)
            self.plain.send(size)
            self.plain.send(view)

    def receive_part(self, target: memoryview) -> None:
        """Receives and opens one part."""
        size = bytearray(4)
        self.plain.receive_into(memoryview(size))
        view = memoryview(self.buffer)[: int.from_bytes(size, "big")]
        self.plain.receive_into(view)
        self.cipher.decrypt_into(self._next(), view, bytes(size), target)


def secure(variant: str, sock: socket.socket, *, is_server: bool) -> socket.socket:
    """Puts TLS over a socket for the variant that has it."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if variant != "threads":
        return sock
    if is_server:
        context = make_lane_identity(Path(tempfile.gettempdir())).context
    else:
        context = client_context()
    return context.wrap_socket(sock, server_side=is_server)


def send_in_thread(variant: str, job: Job, announce: Callable[[object], None]) -> None:
    """Serves frames over a blocking socket."""
    with socket.create_server((HOST, 0)) as listener:
        announce([listener.getsockname()[1]])
        accepted, _ = listener.accept()
    with secure(variant, accepted, is_server=True) as sock:
        if variant == "gcm":
            sealed = Sealed(sock)
            for _ in range(job.frames):
                sealed.send_frame(*job.parts)
        else:
            plain = Plain(sock)
            for _ in range(job.frames):
                plain.send(job.head)
                plain.send(job.payload)
        sock.recv(1)


def receive_in_thread(variant: str, job: Job, told: list[object]) -> None:
    """Takes and hashes them."""
    raw = socket.create_connection((HOST, int(str(told[0]))))
    buffer = memoryview(bytearray(job.frame_bytes))
    head, payload = buffer[: len(job.head)], buffer[len(job.head) :]
    with secure(variant, raw, is_server=False) as sock:
        plain, sealed = Plain(sock), Sealed(sock)
        for _ in range(job.frames):
            if variant == "gcm":
                sealed.receive_part(head)
                sealed.receive_part(payload)
            else:
                plain.receive_into(buffer)
            hashlib.sha256(buffer).digest()
        sock.send(b"d")


# Running -----------------------------------------------------------------------------------------

ON_TRIO: Final = {
    "lane": (send_lane, receive_lane),
    "stream": (send_stream, receive_stream),
    "trio": (send_trio, receive_trio),
}


def run_role(role: str, variant: str, job: Job) -> None:
    """One end, in a process of its own: tells and is told over its standard streams."""

    def announce(value: object) -> None:
        print(json.dumps(value), flush=True)

    if role == "send":
        if variant in ON_TRIO:
            trio.run(ON_TRIO[variant][0], job, announce)
        else:
            send_in_thread(variant, job, announce)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        announce(usage.ru_utime + usage.ru_stime)
        return
    told = json.loads(sys.stdin.readline())
    before = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    if variant in ON_TRIO:
        trio.run(ON_TRIO[variant][1], job, told)
    else:
        receive_in_thread(variant, job, told)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    announce([seconds, cpu_s, after.ru_maxrss / 1024])


def measure(variant: str, mib: int, frame_kib: int) -> tuple[float, float]:
    """Runs both ends once; returns MiB/s and processor seconds per GiB."""
    command = [sys.executable, __file__, "--mib", str(mib), "--frame-kib", str(frame_kib)]
    ends = {}
    for role in ("send", "receive"):
        ends[role] = subprocess.Popen(
            [*command, "--role", role, "--only", variant],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    idle_s = idle_cpu_s(variant)
    told = ends["send"].stdout.readline()  # type: ignore[union-attr]
    out, _ = ends["receive"].communicate(told)
    sent_cpu_s = float(ends["send"].stdout.read())  # type: ignore[union-attr]
    for end in ends.values():
        if end.wait():
            raise SystemExit(f"{variant}: an end failed")
    seconds, received_cpu_s, _ = json.loads(out)
    return mib / seconds, (sent_cpu_s - idle_s + received_cpu_s) * 1024 / mib


def idle_cpu_s(variant: str) -> float:
    """Processor seconds a sender takes to start, which are not the transfer's."""
    if variant not in _IDLE:
        usage = subprocess.run(
            [sys.executable, "-c", _START], capture_output=True, text=True, check=True
        )
        _IDLE[variant] = float(usage.stdout)
    return _IDLE[variant]


_IDLE: dict[str, float] = {}
_START: Final = f"""
import sys, runpy, resource
sys.argv = [{__file__!r}]
runpy.run_path({__file__!r}, run_name="started")
usage = resource.getrusage(resource.RUSAGE_SELF)
print(usage.ru_utime + usage.ru_stime)
"""


def main() -> None:
    """Measures and prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frame-kib", type=int, default=256)
    parser.add_argument("--only", default=",".join(VARIANTS))
    parser.add_argument("--role", choices=("send", "receive"))
    options = parser.parse_args()
    if options.role:
        run_role(options.role, options.only, Job(options.mib, options.frame_kib * KIB))
        return
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in options.only.split(",")}
    for _ in range(options.rounds):
        for name, figures in results.items():
            figures.append(measure(name, options.mib, options.frame_kib))
    document = {
        name: {
            "mib_per_s": round(statistics.median(rate for rate, _ in figures)),
            "cpu_s_per_gib": round(statistics.median(cpu for _, cpu in figures), 2),
        }
        for name, figures in results.items()
    }
    machine = {
        "cpus": os.cpu_count(),
        "openssl": ssl.OPENSSL_VERSION,
        "frame_kib": options.frame_kib,
    }
    print(json.dumps({"machine": machine, "mib": options.mib, "lane": document}, indent=2))


if __name__ == "__main__":
    main()
