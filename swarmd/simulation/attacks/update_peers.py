"""Peers that send for ever, or hardly anything."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Final

from chunks.recipe_page import RECIPE_PAGE_BYTES_MAX, decode_recipe_page
from ledger.block import decode_block
from ledger.certificate import CERTIFICATE_BYTES_MAX, decode_certificate
from ledger.transition.envelope import read_transaction
from protocol.catchup import LEDGER_FRAME_BYTES_MAX, decode_ledger_message
from protocol.errors import SwarmError
from protocol.exchange_messages import EXCHANGE_FRAME_BYTES_MAX, decode_exchange
from protocol.framing import FrameBuffer
from protocol.limits import (
    BLOCK_BYTES_MAX,
    MANIFEST_BYTES_MAX,
    MIB,
    TRANSACTION_BYTES_MAX,
)
from protocol.manifest import parse_manifest
from swarmd.bundle_format import MAGIC, SECTION_BYTES_MAX, SectionKind, SectionReader
from swarmd.bundle_format import PREFIX_BYTES as SECTION_PREFIX_BYTES
from swarmd.simulation.attacks.attack import Attack, AttackResult, Family, at_least, at_most, never
from swarmd.simulation.attacks.trials import Trials
from swarmd.simulation.byzantine.endless_peer import EndlessPeer
from swarmd.simulation.byzantine.endless_sender import EndlessSender
from swarmd.simulation.byzantine.slow_peer import SlowPeer
from swarmd.simulation.exchange_host import ExchangeHost, SimulatedRelease, is_banned_by
from swarmd.simulation.world import Link, World

_LINK: Final = Link(latency_s=0.02)
_CHUNK_BYTES: Final = 16_384


def _release(chance: random.Random, chunk_count: int) -> SimulatedRelease:
    return SimulatedRelease.of([[chance.randbytes(_CHUNK_BYTES) for _ in range(chunk_count)]])


# Slow retrieval -----------------------------------------------------------------------------------

_HONEST: Final = 3
_SLOW: Final = 6
_UPLINK_BYTES_PER_S: Final = 50_000.0
_GIVEN_UP_S: Final = 3600.0
_SLOWDOWN_MAX: Final = 0.10


class _Patient(ExchangeHost):
    """Never looks at its clock: for controls."""

    @property
    def deadline(self) -> float | None:
        """It does not want to be woken."""
        return None


def _makespan_s(seed: int, *, slow: int, victim: type[ExchangeHost] = ExchangeHost) -> float:
    """How long a gateway takes with honest seeders and so many slow peers; infinite: for ever."""
    world = World(seed, _LINK)
    release = _release(random.Random(seed), 600)  # noqa: S311 - replayed by seed
    everything = [range(len(chunks)) for chunks in release.components]
    peers: list[ExchangeHost] = [
        SlowPeer(world, release, held=everything, wants=False) for _ in range(slow)
    ]
    peers += [
        ExchangeHost(
            world, release, held=everything, wants=False, uplink_bytes_per_s=_UPLINK_BYTES_PER_S
        )
        for _ in range(_HONEST)
    ]
    leecher = victim(world, release, entropy=seed)
    for peer in peers:  # the slow ones first
        leecher.connect(peer.number)
        peer.connect(leecher.number)
    world.run_until(_GIVEN_UP_S)
    if leecher.finished_at is None:
        return math.inf
    return leecher.finished_at


def _run_slow(seed: int) -> AttackResult:
    alone_s = _makespan_s(seed, slow=0)
    slowed_s = _makespan_s(seed, slow=_SLOW)
    slowdown = at_most("slowdown", _SLOWDOWN_MAX, slowed_s / alone_s - 1)
    return AttackResult(verdicts=(slowdown,), attempts=_SLOW)


def _control_slow(seed: int) -> AttackResult:
    """A gateway without deadlines for what it asked for."""
    alone_s = _makespan_s(seed, slow=0)
    slowed_s = _makespan_s(seed, slow=_SLOW, victim=_Patient)
    slowdown = at_most("slowdown", _SLOWDOWN_MAX, slowed_s / alone_s - 1)
    return AttackResult(verdicts=(slowdown,), attempts=_SLOW)


SLOW_RETRIEVAL: Final = Attack(
    name="slow-retrieval",
    family=Family.UPDATE,
    known_as="slow retrieval: TUF 1.5.2, Uptane",
    attacker="six of nine peers promise everything, take every request at once and send a byte a"
    " second; the image takes a minute from the three honest ones alone",
    counter="what a peer does not answer in time is asked of others, and it is asked for little"
    " until it delivers (X40, X41, X43)",
    run=_run_slow,
    control=_control_slow,
)
"""See its fields."""


# Endless data -------------------------------------------------------------------------------------

_PATIENCE_BYTES: Final = 64 * MIB
"""A stream of which this much was taken is taken for one that is never cut."""
_MESSAGE_MIB_MAX: Final = 1.05
"""The longest frame of the ledger, its prefix, and what arrives at once, MiB."""
_EXCESS_MAX: Final = 1.1
"""Bytes from all peers, in images: what was open at the endless peer (64 KiB while nothing of it is
known, X40, 0.04 images) may come twice before its stream ends."""
_DECODERS: Final[dict[str, tuple[Callable[[bytes], object], int]]] = {
    "manifest": (parse_manifest, MANIFEST_BYTES_MAX),
    "transaction": (read_transaction, TRANSACTION_BYTES_MAX),
    "block": (decode_block, BLOCK_BYTES_MAX),
    "certificate": (decode_certificate, CERTIFICATE_BYTES_MAX),
    "recipe page": (decode_recipe_page, RECIPE_PAGE_BYTES_MAX),
    "ledger message": (decode_ledger_message, LEDGER_FRAME_BYTES_MAX),
    "exchange message": (decode_exchange, EXCHANGE_FRAME_BYTES_MAX),
}
"""Decoders of what peers send, with the bounds of the format, bytes."""


class _Unbounded(FrameBuffer):
    """A receiver that allows any length: for controls."""

    def __init__(self, bytes_max: int) -> None:  # noqa: ARG002
        super().__init__(2**32)


def _taken_mib(receiver: type[FrameBuffer], trials: Trials) -> float:
    """The most of a stream that a receiver takes before it ends it, MiB."""
    most_bytes = 0
    for stream in EndlessSender().streams(LEDGER_FRAME_BYTES_MAX).values():
        buffer, taken_bytes = receiver(LEDGER_FRAME_BYTES_MAX), 0
        try:
            for piece in stream:
                taken_bytes += len(piece)
                for frame in buffer.feed(piece):
                    decode_ledger_message(frame)
                if taken_bytes > _PATIENCE_BYTES:
                    break
        except SwarmError:
            pass
        trials.note("streams", is_taken=taken_bytes > _PATIENCE_BYTES)
        most_bytes = max(most_bytes, taken_bytes)
    return most_bytes / MIB


def _oversized(trials: Trials) -> None:
    """Objects one byte too long, and bundles whose sections say they are."""
    sender = EndlessSender()
    for decode, bytes_max in _DECODERS.values():
        trials.offer("oversized objects", decode, sender.oversized(bytes_max))
    for kind in SectionKind:
        for length in (SECTION_BYTES_MAX[kind] + 1, 2**32 - 1, 0):
            file = sender.section(MAGIC, kind, length)
            trials.offer("endless sections", lambda file=file: SectionReader(file).next())
            head_bytes = len(MAGIC) + SECTION_PREFIX_BYTES
            trials.note("bytes behind a section's head", is_taken=file.bytes_read > head_bytes)


def _endless_exchange(seed: int) -> tuple[float, bool, bool]:
    """Bytes a gateway took in images, whether it finished, whether it cut the endless peer off."""
    world = World(seed, _LINK)
    release = _release(random.Random(seed), 100)  # noqa: S311 - replayed by seed
    everything = [range(len(chunks)) for chunks in release.components]
    endless = EndlessPeer(world, release, held=everything, wants=False)
    honest = ExchangeHost(world, release, held=everything, wants=False)
    leecher = ExchangeHost(world, release, entropy=seed)
    for peer in (endless, honest):
        leecher.connect(peer.number)
        peer.connect(leecher.number)
    world.run_until(_GIVEN_UP_S)
    taken = sum(leecher.received_bytes.values()) / (100 * _CHUNK_BYTES)
    return taken, leecher.finished_at is not None, is_banned_by(leecher, endless.number)


def _run_endless(seed: int) -> AttackResult:
    trials = Trials()
    message_mib = _taken_mib(FrameBuffer, trials)
    _oversized(trials)
    images, is_finished, is_cut_off = _endless_exchange(seed)
    verdicts = (
        at_most("taken of one message", _MESSAGE_MIB_MAX, message_mib, "MiB"),
        *(never(f"{kind} taken", count) for kind, count in trials.taken.items()),
        at_most("taken of an image", _EXCESS_MAX, images, "images"),
        at_least("endless peer cut off", 1, is_cut_off),
        at_least("completed", 1, is_finished),
    )
    return AttackResult(verdicts=verdicts, attempts=trials.attempts + 1)


def _control_endless(_seed: int) -> AttackResult:
    """A receiver of frames of any length."""
    trials = Trials()
    message_mib = _taken_mib(_Unbounded, trials)
    verdicts = (at_most("taken of one message", _MESSAGE_MIB_MAX, message_mib, "MiB"),)
    return AttackResult(verdicts=verdicts, attempts=trials.attempts)


ENDLESS_DATA: Final = Attack(
    name="endless-data",
    family=Family.UPDATE,
    known_as="endless data: TUF 1.5.2, Uptane",
    attacker="peers that announce frames of 4 GiB, send objects and sections over their bounds, and"
    " answer one request fifty times",
    counter="lengths are compared before anything is kept (P3, P100, N6); sizes are in the"
    " manifest (P62, P64); an answer to nothing open ends the stream (X26)",
    run=_run_endless,
    control=_control_endless,
)
"""See its fields."""
