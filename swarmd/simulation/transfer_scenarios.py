"""Named transfers: the situations that tests, the campaign and tuning look at.

Each function takes a seed and the image's size, runs one transfer and returns its figures; those of
a group are given as a second value where not everybody is meant. Rates are those of links of
20 Mbit/s unless said; delays are 20 ms one way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from protocol.limits import KIB, MIB
from swarmd.simulation.byzantine.claiming_relayer import ClaimingRelayer
from swarmd.simulation.byzantine.false_complainer import FalseComplainer
from swarmd.simulation.byzantine.lying_relayer import LyingRelayer
from swarmd.simulation.byzantine.mute_relayer import MuteRelayer
from swarmd.simulation.byzantine.push_corrupter import PushCorrupter
from swarmd.simulation.byzantine.stalling_relayer import StallingRelayer
from swarmd.simulation.links import LinkModel, NodeLink
from swarmd.simulation.transfer import THIN, Transfer, TransferFigures, fluid_bound_s, link
from swarmd.simulation.transfer_host import Disk, TransferHost

UNTIL_S: Final = 600.0
"""When a run is given up, simulated seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a scenario gave."""

    figures: TransferFigures
    """The whole transfer's, against the bound that the scenario says."""
    main: float
    """Makespan of those the scenario is about, in their bound."""
    transfer: Transfer
    """The world, for whoever wants to look closer."""


Scenario = Callable[[int, int], Outcome]
"""Seed and image bytes to the outcome."""


def run_simple(
    seed: int,
    image_bytes: int,
    links: Sequence[NodeLink],
    *,
    seeders: Sequence[NodeLink] = (link(),),
    kinds: dict[int, type[TransferHost]] | None = None,
    model: LinkModel | None = None,
    disk: Disk | None = None,
    chunk_bytes: int = 16 * KIB,
) -> Transfer:
    """Runs a transfer whose nodes are all there from the start.

    Args:
        seed: decides all that is random.
        image_bytes: size of the image.
        links: of each leecher.
        seeders: links of the seeders.
        kinds: leechers that are not honest, by number.
        model: what the links share.
        disk: how long nodes take to verify.
        chunk_bytes: average chunk.
    """
    transfer = Transfer(
        seed, image_bytes=image_bytes, chunk_bytes=chunk_bytes, model=model, disk=disk
    )
    for each in seeders:
        transfer.add_seeder(each)
    for number, each in enumerate(links):
        transfer.add_leecher(each, kind=(kinds or {}).get(number, TransferHost))
    honest = [host for host in transfer.leechers if type(host) is TransferHost]
    transfer.run(UNTIL_S, waits_for=honest)
    return transfer


def _outcome(transfer: Transfer, group: Sequence[int] | None = None) -> Outcome:
    figures = transfer.figures()
    numbers = range(len(transfer.leechers)) if group is None else group
    return Outcome(figures=figures, main=figures.makespan_of(numbers), transfer=transfer)


def homogeneous(leechers: int, *, chunk_bytes: int = 16 * KIB) -> Scenario:
    """Everybody has the same link."""

    def run(seed: int, image_bytes: int) -> Outcome:
        links = [link()] * leechers
        return _outcome(run_simple(seed, image_bytes, links, chunk_bytes=chunk_bytes))

    return run


def far(delay_s: float, initial_window_bytes: int = 14_600) -> Scenario:
    """Everybody is far from everybody."""

    def run(seed: int, image_bytes: int) -> Outcome:
        model = LinkModel(delay_s=delay_s, initial_window_bytes=initial_window_bytes)
        return _outcome(run_simple(seed, image_bytes, [link()] * 16, model=model))

    return run


def asymmetric(seeder_rate: float) -> Scenario:
    """Downlinks are five times the uplinks; the seeder's uplink is some multiple of a peer's."""

    def run(seed: int, image_bytes: int) -> Outcome:
        links = [link(THIN, 5 * THIN)] * 16
        seeders = [link(seeder_rate * THIN, 5 * THIN)]
        return _outcome(run_simple(seed, image_bytes, links, seeders=seeders))

    return run


def seeder_rate(factor: float) -> Scenario:
    """The seeder's link is some multiple of a peer's."""

    def run(seed: int, image_bytes: int) -> Outcome:
        links = [link()] * 16
        return _outcome(run_simple(seed, image_bytes, links, seeders=[link(factor * THIN)]))

    return run


def mixed_links(leechers: int) -> list[NodeLink]:
    """A tenth four times slower, a tenth ten times faster, the slow ones first."""
    slow = fast = max(round(leechers / 10), 1)
    return [link(THIN / 4)] * slow + [link(THIN * 10)] * fast + [link()] * (leechers - slow - fast)


def mixed(leechers: int) -> Scenario:
    """Mixed links; `main` is about those that are not slow, against the bound without slow ones."""

    def run(seed: int, image_bytes: int) -> Outcome:
        links = mixed_links(leechers)
        transfer = run_simple(seed, image_bytes, links)
        figures = transfer.figures()
        others = range(max(round(leechers / 10), 1), leechers)
        quick = [links[number] for number in others]
        bound = fluid_bound_s(image_bytes, [link()], quick)
        main = replace(figures, bound_s=bound).makespan_of(others)
        return Outcome(figures=figures, main=main, transfer=transfer)

    return run


def misbehaving(*kinds: type[TransferHost], share: float, leechers: int = 16) -> Scenario:
    """A share of the leechers misbehaves, in turns of these kinds; `main` is about the others.

    The bound counts the uplinks of the honest ones alone, and the needs of all.
    """

    def run(seed: int, image_bytes: int) -> Outcome:
        bad = {number: kinds[number % len(kinds)] for number in range(round(share * leechers))}
        links = [link()] * leechers
        transfer = run_simple(seed, image_bytes, links, kinds=bad)
        honest = range(len(bad), leechers)
        idle = [replace(link(), uplink_bytes_per_s=0.0)] * len(bad)
        bound = fluid_bound_s(image_bytes, [link()], [*idle, *(links[n] for n in honest)])
        figures = transfer.figures(bound)
        return Outcome(figures=figures, main=figures.makespan_of(honest), transfer=transfer)

    return run


def two_sites(image_bytes_pipe: float = THIN) -> Scenario:
    """Two networks of eight fast nodes with a thin pipe between; the bound is the pipe's."""

    def run(seed: int, image_bytes: int) -> Outcome:
        model = LinkModel(pipe_bytes_per_s=image_bytes_pipe)
        fast = 10 * THIN
        near = NodeLink(uplink_bytes_per_s=fast, downlink_bytes_per_s=fast, site=0, bloat_s=0.005)
        links = [replace(near, site=number % 2) for number in range(16)]
        transfer = run_simple(seed, image_bytes, links, seeders=[near], model=model)
        figures = transfer.figures(image_bytes / image_bytes_pipe)
        return Outcome(figures=figures, main=figures.makespan, transfer=transfer)

    return run


def slow_disk(verify_s: float) -> Scenario:
    """Chunks may be served only some time after they came."""

    def run(seed: int, image_bytes: int) -> Outcome:
        disk = Disk(verify_s=verify_s)
        return _outcome(run_simple(seed, image_bytes, [link()] * 16, disk=disk))

    return run


def lossy(loss: float) -> Scenario:
    """Every link loses segments."""

    def run(seed: int, image_bytes: int) -> Outcome:
        return _outcome(run_simple(seed, image_bytes, [link()] * 16, model=LinkModel(loss=loss)))

    return run


def two_seeders() -> Scenario:
    """Two nodes hold the image from the start."""

    def run(seed: int, image_bytes: int) -> Outcome:
        return _outcome(run_simple(seed, image_bytes, [link()] * 16, seeders=[link(), link()]))

    return run


def churn(away_s: float) -> Scenario:
    """A third dies half way and is back some time later, with what it held; `main`: survivors."""

    def run(seed: int, image_bytes: int) -> Outcome:
        transfer = Transfer(seed, image_bytes=image_bytes)
        transfer.add_seeder()
        first = [transfer.add_leecher() for _ in range(16)]
        half = image_bytes / THIN / 2
        transfer.world.run_until(half)
        victims = first[::3][:5]
        for host in victims:
            host.leave()
        transfer.world.run_until(half + away_s)
        for host in victims:
            transfer.add_leecher(host.link, held=host.parts[0].held)
        transfer.run(UNTIL_S)
        figures = transfer.figures()
        bound = fluid_bound_s(image_bytes, [link()], [link()] * 16)
        survivors = [number for number, host in enumerate(first) if host not in victims]
        main = replace(figures, bound_s=bound).makespan_of(survivors)
        return Outcome(figures=figures, main=main, transfer=transfer)

    return run


def joins(spread_s: float) -> Scenario:
    """Leechers come one after another; `main` is the slowest one's time in F over its downlink."""

    def run(seed: int, image_bytes: int) -> Outcome:
        transfer = Transfer(seed, image_bytes=image_bytes)
        transfer.add_seeder()
        for number in range(16):
            transfer.world.run_until(spread_s * number / 16)
            transfer.add_leecher()
        transfer.run(UNTIL_S)
        figures = transfer.figures(image_bytes / THIN)
        return Outcome(figures=figures, main=figures.makespan, transfer=transfer)

    return run


SCENARIOS: Final[dict[str, tuple[Scenario, int]]] = {
    "homogeneous-4": (homogeneous(4), 16 * MIB),
    "homogeneous-16": (homogeneous(16), 16 * MIB),
    "homogeneous-64": (homogeneous(64), 16 * MIB),
    "homogeneous-16-1mib": (homogeneous(16, chunk_bytes=4 * KIB), 1 * MIB),
    "homogeneous-16-128mib": (homogeneous(16), 128 * MIB),
    "homogeneous-256": (homogeneous(256, chunk_bytes=8 * KIB), 16 * MIB),
    "far-100ms": (far(0.1), 16 * MIB),
    "far-100ms-warm": (far(0.1, 65_536), 16 * MIB),
    "down-5x": (asymmetric(1.0), 16 * MIB),
    "down-5x-seeder-4x": (asymmetric(4.0), 16 * MIB),
    "seeder-4x": (seeder_rate(4.0), 16 * MIB),
    "seeder-quarter": (seeder_rate(0.25), 16 * MIB),
    "mixed-16": (mixed(16), 16 * MIB),
    "mixed-64": (mixed(64), 16 * MIB),
    "mixed-256": (mixed(256), 16 * MIB),
    "churn": (churn(10.0), 16 * MIB),
    "two-sites": (two_sites(), 16 * MIB),
    "joins-30s": (joins(30.0), 16 * MIB),
    "disk-300ms": (slow_disk(0.3), 16 * MIB),
    "loss-0.1%": (lossy(0.001), 16 * MIB),
    "loss-1%": (lossy(0.01), 16 * MIB),
    "two-seeders": (two_seeders(), 16 * MIB),
    "mute-20%": (misbehaving(MuteRelayer, share=0.2), 16 * MIB),
    "lying-20%": (misbehaving(LyingRelayer, share=0.2), 16 * MIB),
    "corrupt-20%": (misbehaving(PushCorrupter, share=0.2), 16 * MIB),
    "stalling-20%": (misbehaving(StallingRelayer, share=0.2), 16 * MIB),
    "claiming-20%": (misbehaving(ClaimingRelayer, share=0.2), 16 * MIB),
    "complaining-20%": (misbehaving(FalseComplainer, share=0.2), 16 * MIB),
    "malicious-30%": (
        misbehaving(PushCorrupter, StallingRelayer, LyingRelayer, share=0.3),
        16 * MIB,
    ),
}
"""What the campaign runs, with the size of the image."""
