"""The fetches under way, and which of them an answer concerns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from chunks.store import ChunkStore
from protocol.authorised import AuthorisedManifest
from protocol.digest import ManifestId
from protocol.download import Download
from protocol.download_board import Allowance, ByteBudget
from protocol.download_requests import LANE_BITS
from protocol.errors import LocalProtocolError
from protocol.exchange_events import ExchangeOffenceError, Offence, PeerBanned, PeerId, PeerMessage
from protocol.exchange_messages import (
    BitfieldMessage,
    Chunks,
    ExchangeMessage,
    Have,
    RecipePageMessage,
    Reject,
    Unknown,
)
from protocol.picker import Picker, RarestFirst
from swarmd.entropy import Entropy
from swarmd.services.exchange_fetch import Fetch, FetchOwner
from swarmd.services.exchange_patch import BadPatches

EXCUSED_S: Final = 30.0
"""How long a peer that may not be taken from any more may still send what it was asked, seconds."""
_ENTROPY_BOUND: Final = 2**64

PickerFactory = Callable[[int, int], Picker]
"""Makes a picking rule for (chunk count, entropy)."""


def rarest_first(size: int, entropy: int) -> Picker:
    """The default picking rule."""
    return RarestFirst(size=size, entropy=entropy)


class FetchTable:
    """See the module's docstring. Iterating gives the fetches as they are at the start."""

    def __init__(
        self,
        store: ChunkStore,
        entropy: Entropy,
        make_picker: PickerFactory,
        allowance: Allowance | None = None,
    ) -> None:
        """Starts empty.

        Args:
            store: where chunks are written.
            entropy: lets nodes pick in different orders.
            make_picker: the picking rule.
            allowance: what rates permit to be asked for; None: no rate is kept.
        """
        self._store = store
        self._entropy = entropy
        self._make_picker = make_picker
        self._budget = ByteBudget(allowance=allowance)
        self._bad_patches = BadPatches()
        self._fetches: dict[ManifestId, Fetch] = {}
        self._lanes: dict[int, Fetch] = {}
        self._next_lane = 1
        self._excused: dict[PeerId, float] = {}

    def __iter__(self) -> Iterator[Fetch]:
        return iter(tuple(self._fetches.values()))

    def __contains__(self, manifest_id: ManifestId) -> bool:
        return manifest_id in self._fetches

    def __getitem__(self, manifest_id: ManifestId) -> Fetch:
        return self._fetches[manifest_id]

    def get(self, manifest_id: ManifestId) -> Fetch | None:
        """The fetch of a manifest."""
        return self._fetches.get(manifest_id)

    def begin(self, authorised: AuthorisedManifest, owner: FetchOwner) -> Fetch:
        """Makes the fetch of a manifest.

        Raises:
            LocalProtocolError: it is being fetched already.
        """
        manifest_id = authorised.manifest_id
        if manifest_id in self._fetches:
            raise LocalProtocolError(f"manifest {manifest_id.hex()[:8]} is being fetched already")
        lane, self._next_lane = self._next_lane, self._next_lane + 1
        counts = [item.chunk_count for item in authorised.manifest.objects]
        machine = Download(
            manifest_id=manifest_id,
            chunk_counts=counts,
            picker=self._make_picker(sum(counts), self._entropy.uint(_ENTROPY_BOUND)),
            lane=lane,
            budget=self._budget,
            needed=len(authorised.manifest.components),
            entropy=self._entropy.uint(_ENTROPY_BOUND),
        )
        fetch = Fetch(
            authorised,
            machine=machine,
            store=self._store,
            owner=owner,
            bad_patches=self._bad_patches,
        )
        self._fetches[manifest_id] = self._lanes[lane] = fetch
        return fetch

    def end(self, fetch: Fetch) -> None:
        """Takes a fetch out; answers to its open requests are still judged."""
        self._fetches.pop(fetch.authorised.manifest_id, None)
        fetch.stop()
        self.drop_drained()

    def with_answers_due(self) -> tuple[Fetch, ...]:
        """Fetches under way, and ended ones whose requests are not all answered."""
        return tuple(self._lanes.values())

    def drop_drained(self) -> None:
        """Forgets ended downloads that no answer can concern any more."""
        live = tuple(self._fetches.values())
        self._lanes = {
            lane: fetch
            for lane, fetch in self._lanes.items()
            if fetch in live or not fetch.machine.is_drained
        }

    def excuse(self, peer: PeerId, now: float) -> None:
        """Lets a peer send what it was asked before it was put out of use."""
        self._excused[peer] = now + EXCUSED_S

    def forget_peer(self, peer: PeerId) -> None:
        """Notes that a peer is gone."""
        self._excused.pop(peer, None)

    def take_answer(self, peer: PeerId, message: ExchangeMessage, now: float) -> None:
        """Gives an answer or possession news to the download it concerns.

        Raises:
            ExchangeOffenceError: the peer broke the protocol.
        """
        match message:
            case Chunks() | RecipePageMessage() | Reject():
                fetch = self._lanes.get(message.request_id >> LANE_BITS)
                if fetch is None:
                    if now < self._excused.get(peer, 0.0):
                        return  # it could not know: what is on its way is thrown away
                    raise ExchangeOffenceError(
                        Offence.UNSOLICITED, f"no request {message.request_id} is open"
                    )
            case Have() | BitfieldMessage() | Unknown():
                fetch = self._fetches.get(message.manifest_id)
                if fetch is None or not fetch.machine.has_peer(peer):
                    # Sent before the peer saw that this node is not interested any more.
                    return
            case _:
                raise LocalProtocolError(f"{type(message).__name__} is no answer")
        machine = fetch.machine
        if not machine.has_peer(peer):
            if machine.is_banned(peer) or now < self._excused.get(peer, 0.0):
                return  # as above
            raise ExchangeOffenceError(Offence.UNSOLICITED, "the peer was asked nothing of this")
        try:
            fetch.feed(PeerMessage(peer=peer, message=message))
        except ExchangeOffenceError:
            fetch.feed(PeerBanned(peer=peer))
            raise
        if machine.is_drained:
            self.drop_drained()
