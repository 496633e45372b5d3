"""A node of a transfer over thin links: the production machines on `LinkNetwork`.

As `ExchangeHost`, with three differences. Messages travel over the link model with the size that
their encoding really has, but as objects: nothing is copied, so that many nodes fit into a process.
News of new chunks is gathered for a moment, as the daemon does. Verifying and storing take the
times of a `Disk`. Misbehaviour written for `ExchangeHost` mixes with this class:
`class X(Bad, TransferHost)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.digest import ChunkId, sha256
from protocol.errors import RemoteProtocolError
from protocol.exchange_events import (
    Acquired,
    ChunkRefused,
    ChunksStored,
    ExchangeOffenceError,
    Flushed,
    Offence,
    RecipeKnown,
    WriteChunk,
)
from protocol.exchange_messages import Chunks, ExchangeMessage, encode_exchange_parts
from swarmd.simulation.exchange_host import ExchangeHost, SimulatedRelease
from swarmd.simulation.links import FrameLeft, LinkNetwork, NodeLink
from swarmd.simulation.world import World

_FRAME_HEAD_BYTES: Final = 4
"""The length in front of each frame."""
_URGENT_BYTES_MAX: Final = 2048
"""Frames up to this size take no turn of their own on the uplink: they fit a packet or two."""
NEWS_DELAY_S: Final = 0.05
"""How long news of chunks is gathered, seconds (exchange.md, X47)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """How long a node's own operations take."""

    verify_s: float = 0.002
    """From a chunk's arrival until it is verified and may be served, seconds."""


@dataclass(frozen=True, slots=True)
class _TellNews:
    """The moment for gathered news has come."""


class TransferHost(ExchangeHost):
    """See the module's docstring. Make it, then `join` its peers."""

    def __init__(
        self,
        world: World,
        release: SimulatedRelease,
        network: LinkNetwork,
        link: NodeLink,
        *,
        held: Sequence[Iterable[int]] | None = None,
        wants: bool = True,
        entropy: int = 0,
        disk: Disk | None = None,
    ) -> None:
        """Makes a node.

        Args:
            world: where it lives.
            release: what is exchanged.
            network: how messages travel.
            link: how the node is attached.
            held: for each component, the chunks held from the start; None for nothing.
            wants: whether it fetches what it lacks.
            entropy: for the picker.
            disk: how long verifying and storing take.
        """
        super().__init__(world, release, held=held, wants=wants, entropy=entropy)
        self.link: Final = link
        """How the node is attached."""
        self.started_at: Final = world.now
        """When it was made, simulated seconds."""
        self.gained_bytes = 0
        """Chunk bytes verified and stored since then."""
        self._network = network
        self._news: dict[int, list[int]] = {}
        self.storage_delay_s = (disk or Disk()).verify_s
        network.attach(self.number, link)

    def learn_recipes(self) -> None:
        """Takes the recipes as verified, where fetching them is not what is looked at."""
        for component, recipe in enumerate(self._release.recipes):
            if self._download is not None:
                lengths = [len(chunk) for chunk in self._release.components[component]]
                assert len(lengths) == recipe.chunk_count, "a release is made of its recipes"
                self._feed(RecipeKnown(component=component, lengths=lengths))

    @property
    def received_total(self) -> int:
        """Chunk bytes that came from anybody."""
        return sum(self.received_bytes.values())

    # Sending -------------------------------------------------------------------------------------

    def put(self, target: int, message: ExchangeMessage, payload_bytes: int) -> None:
        """Gives a message to the link."""
        size = _FRAME_HEAD_BYTES + sum(map(len, encode_exchange_parts(message)))
        self._network.send(
            self.number,
            target,
            message,
            size_bytes=size,
            is_urgent=not isinstance(message, Chunks) and size <= _URGENT_BYTES_MAX,
            token=payload_bytes or None,
        )

    def leave(self) -> None:
        """Ends the node; its peers notice that their streams broke."""
        super().leave()
        for peer in self.peers:
            self._network.disconnect(self.number, peer)

    # Actor ---------------------------------------------------------------------------------------

    def receive(self, source: int, message: object, now: float) -> None:
        """Takes a message, or the end of a stream (None)."""
        if message is None or self.is_gone or source not in self._uploads:
            super().receive(source, None, now)
            return
        try:
            self._dispatch(source, message)  # type: ignore[arg-type]  # only put() sends
        except ExchangeOffenceError as error:
            self._cut(source, error.offence)
        except RemoteProtocolError:
            self._cut(source, Offence.MALFORMED)

    def handle(self, event: object, now: float) -> None:
        """Takes the end of an own operation."""
        match event:
            case FrameLeft():
                if event.target in self._uploads and isinstance(event.token, int):
                    self._feed_upload(event.target, Flushed(payload_bytes=event.token))
            case _TellNews():
                self._tell_news()
            case _:
                super().handle(event, now)

    # Storage -------------------------------------------------------------------------------------

    def _write(self, effect: WriteChunk) -> ChunksStored | ChunkRefused:
        component, index = effect.component, effect.index
        if ChunkId(sha256(effect.data)) != self._release.recipes[component].digest(index):
            return ChunkRefused(component=component, index=index, detail="")
        # The release's own bytes, which are equal: one copy serves all nodes.
        self._data[component][index] = self._release.components[component][index]
        self._served.possession[component].add(index)
        self.gained_bytes += len(effect.data)
        if not self._news:
            self._world.post(self.number, NEWS_DELAY_S, _TellNews())
        self._news.setdefault(component, []).append(index)
        return ChunksStored(component=component, indices=(index,))

    def _tell_news(self) -> None:
        gathered, self._news = self._news, {}
        for component, indices in gathered.items():
            news = Acquired(
                manifest_id=self._release.manifest_id,
                component=component,
                indices=tuple(sorted(indices)),
            )
            for peer in self.peers:
                self._feed_upload(peer, news)


def join(network: LinkNetwork, newcomer: TransferHost, peers: Iterable[TransferHost]) -> None:
    """Opens streams between a node and others."""
    for peer in peers:
        if peer is not newcomer and not peer.is_gone:
            network.connect(newcomer.number, peer.number)
            newcomer.connect(peer.number)
            peer.connect(newcomer.number)
