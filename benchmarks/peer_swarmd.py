"""One image from one seeder to several leechers over the daemon's own parts, each a process.

    python benchmarks/peer_swarmd.py [--mib 256] [--leechers 1] [--runs 3]

Without `--role` it measures itself, beside libtorrent where that is installed (benchmarks/
peer_driver.py). With it, it is one end, and can be driven by anything that speaks to it in lines:

    --role seed   reads DIR/fw.bin, authorises it in a chain of its own, prints `READY address`
    --role leech  prints `READY address`, reads `GO address ...`, fetches, prints `DONE` once
                  DIR/fw.bin is there and verified; the proof lies in the parent of DIR

Both ends run the network adapter, lanes (a libp2p stream where none can be opened), the exchange
service and the chunk store on disk, and believe in the manifest because a proof file leads from the
genesis document to a certified header that says so. What is left out is admission: whoever proves
the key in its address is a member. A leecher that is killed and started again in the same folder
goes on with what is on its disk.

`--opt` takes JSON: {"listen": "ip:port", "lane": 0|1, "relay": 0|1}.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import trio

from chunks.file_store import FileStore
from chunks.layout import default_parameters
from protocol.authorised import AuthorisedManifest
from protocol.digest import ChainId, ManifestId
from protocol.errors import TransportError
from protocol.exchange_events import Offence
from protocol.keys import PrivateKey
from protocol.manifest import Component
from protocol.relay_events import RelaySettings
from swarmd.entropy import SystemEntropy
from swarmd.net.address import PeerAddress, PeerKey
from swarmd.net.config import NetworkConfig, PeerClass
from swarmd.net.lane_service import LaneService, LaneSettings, LaneSurroundings
from swarmd.net.network import Network, open_network
from swarmd.services.exchange import ExchangeService
from swarmd.services.exchange_ports import StreamLike
from tests.support.proved_release import read_proved, write_proved

PROTOCOL = "/swarmd/benchmark/exchange/1"
HOST = "127.0.0.1"
RETRY_S = 0.2


class Everybody:
    """Admits whoever proved a key."""

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


@dataclass
class Rules:
    """Serves and asks for what was proved to be authorised, and nothing else."""

    authorised: set[ManifestId] = field(default_factory=set)

    def may_serve(self, _peer: bytes, manifest_id: ManifestId) -> bool:
        """Whether it was proved to be authorised."""
        return manifest_id in self.authorised

    def may_ask(self, _peer: bytes, manifest_id: ManifestId) -> bool:
        """Likewise."""
        return manifest_id in self.authorised


class Score:
    """Tells of offences, which no benchmark should see."""

    def blame(self, peer: bytes, offence: Offence, detail: str) -> None:
        """Writes it down."""
        sys.stderr.write(f"blamed {peer.hex()[:8]}: {offence.value}: {detail}\n")

    def stalled(self, peer: bytes) -> None:
        """Likewise."""
        sys.stderr.write(f"stalled {peer.hex()[:8]}\n")


def say(line: str) -> None:
    """Tells the driver."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Peer:
    """The parts of one process."""

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        host, port = str(options.get("listen", f"{HOST}:0")).rsplit(":", 1)
        self.folder = folder
        self.host = host
        self.store = FileStore.open(folder / "store")
        self.rules = Rules()
        self.key = PrivateKey(hashlib.sha256(str(folder.resolve()).encode()).digest())
        self.config = NetworkConfig(seed=self.key.seed(), listen=((host, int(port)),))
        self.has_lanes = bool(options.get("lane", 1))
        self.is_relaying = bool(options.get("relay", 1))
        self.network: Network
        self.lanes: LaneService
        self.service: ExchangeService

    async def run(self, use: Callable[[Peer], Awaitable[None]]) -> None:
        """Opens everything and uses it."""
        async with open_network(self.config, admission=Everybody()) as network:
            self.network = network
            self.service = ExchangeService(
                own_key=network.peer,
                store=self.store,
                authority=self.rules,
                score=Score(),
                open_stream=self._open_stream,
                entropy=SystemEntropy(),
                relays=RelaySettings() if self.is_relaying else None,
            )
            self.lanes = self._make_lanes()
            network.handle(
                PROTOCOL, self.service.serve_stream, streams_per_peer_max=2, deadline_s=None
            )
            self.lanes.serve_protocol()
            async with trio.open_nursery() as nursery:
                await nursery.start(functools.partial(self.service.run))
                await self.lanes.bind()
                nursery.start_soon(self.lanes.run)
                await use(self)
                nursery.cancel_scope.cancel()

    def _make_lanes(self) -> LaneService:
        settings = LaneSettings(hosts=(self.host,), port=0, folder=self.folder)
        around = LaneSurroundings(
            network=self.network,
            chain=ChainId(bytes(32)),
            era=lambda: 0,
            key=self.key,
            entropy=SystemEntropy(),
            may_use=lambda _peer: True,
        )
        return LaneService(settings if self.has_lanes else None, around, self.service.serve_stream)

    async def _open_stream(self, peer: bytes) -> StreamLike:
        open_plain = functools.partial(self.network.open_stream, protocol=PROTOCOL)
        return await self.lanes.open_or(PeerKey(peer), open_plain)

    def believe(self, folder: Path) -> AuthorisedManifest:
        """Checks the proof in a folder."""
        _, authorised = read_proved(folder)
        self.rules.authorised.add(authorised.manifest_id)
        return authorised

    def address(self) -> str:
        """Where to reach this peer."""
        return self.network.listen_addresses[0].multiaddr


async def seed(peer: Peer) -> None:
    """Offers DIR/fw.bin until the process is killed."""
    source = peer.folder / "fw.bin"
    parameters = default_parameters(source.stat().st_size)
    staged = peer.store.stage(source, parameters)
    peer.store.promote(staged.image)
    # A seeder verifies what it serves once after each start; this one has done so.
    peer.store.verify_image(staged.image)
    component = Component(
        name="firmware",
        size=staged.size_bytes,
        digest=staged.image,
        chunker=parameters,
        chunk_count=staged.recipe.chunk_count,
        recipe_root=staged.recipe.root,
    )
    write_proved(peer.folder, component)
    await peer.service.offer(peer.believe(peer.folder))
    say(f"READY {peer.address()}")
    await trio.sleep_forever()


async def leech(peer: Peer) -> None:
    """Fetches into DIR/fw.bin, then serves on until the process is killed."""
    authorised = peer.believe(peer.folder.parent)
    say(f"READY {peer.address()}")
    line = await trio.to_thread.run_sync(sys.stdin.readline)
    addresses = [PeerAddress.parse(word) for word in line.split()[1:]]
    async with trio.open_nursery() as nursery:
        for address in addresses:
            nursery.start_soon(connect, peer, address)
        await peer.service.fetch(authorised)
        image = authorised.manifest.components[0].digest
        target = peer.folder / "fw.bin"
        target.unlink(missing_ok=True)
        # The verified file itself: the store renamed it into place after its digest was right.
        os.link(peer.folder / "store" / "images" / image.hex(), target)
        say("DONE")
        await trio.sleep_forever()


async def connect(peer: Peer, address: PeerAddress) -> None:
    """Connects to one peer, trying again as the daemon does."""
    while not peer.network.is_connected(address.peer):
        try:
            await peer.network.connect([address])
        except TransportError as error:
            sys.stderr.write(f"{error}\n")
            await trio.sleep(RETRY_S)
    peer.service.peer_connected(address.peer)


def main() -> None:
    """Plays a role, or measures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--role", choices=("seed", "leech"))
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--leechers", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--opt", default="{}")
    arguments = parser.parse_args()
    if arguments.role is None:
        from peer_driver import measure

        measure(mib=arguments.mib, leechers=arguments.leechers, runs=arguments.runs)
        return
    peer = Peer(arguments.dir, json.loads(arguments.opt))
    trio.run(peer.run, seed if arguments.role == "seed" else leech)


if __name__ == "__main__":
    main()
