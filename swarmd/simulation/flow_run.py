"""The flow model's engine: `run_flow` computes a scenario with arrays over all sites.

One step moves bytes for a short time at constant rates:

- What origins have given out so far (`pushed`) is ahead of every site; it grows by what they can
  send, but no faster than the fastest site takes it.
- Demand is every site that heard of the release and lacks something, limited by its downlink and by
  `pushed`. Supply is the origins and all sites that hold anything.
- Supply is shared max-min fair: all get the same level, unless a limit of their own is below it.
- A site is complete at the moment within the step at which its bytes are, and then after a lag: the
  round trips of the start, and the units that are under way at the end.

Once everything was pushed, origins are peers among others: they serve what those connected to them
ask of them, and whatever the sites cannot supply themselves.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final

import numpy as np

from swarmd.simulation.flow import FlowFigures, FlowScenario
from swarmd.simulation.flow_fleet import ACKS, Fleet, Floats, Integers, draw_fleet

_CURVE_POINTS: Final = 256
"""Points of each curve."""
_STEP_SHARE: Final = 0.02
"""Share of one site's fetch time that a step lasts at most."""
_STEP_BYTES_SHARE: Final = 0.005
"""Share of all bytes that a step moves at most, unless it gets shorter than `_STEPS_MAX` allows."""
_STEP_GROWTH: Final = 1.5
"""How much longer a step may be than the one before."""
_STEP_MIN_SHARE: Final = 1 / 4000
"""Shortest step, in bounds."""
_ROUNDS_MAX: Final = 64
"""Rounds of sharing a step's supply; each caps more sites, and a handful suffices in practice."""
_START_ROUND_TRIPS: Final = 3.0
"""Loaded round trips that a transfer takes beyond its bytes: measured with transfers of 16 to 256
nodes."""
_SPARSE_EFFICIENCY: Final = 0.75
"""What is left of uplinks where sites know only some of the others: measured with crowds of 64 to
256 nodes of 16 peers each (`swarmd/simulation/crowd.py`); where all know all it is 1."""
_SPARSE_TAIL_POWER: Final = 4.0
"""Where sites know some others only, few are late: lateness goes with this power of their rank."""
_SLOW_SHARE: Final = 0.05
"""The uplink that decides how long the last copies take: so many sites have a slower one."""
_FLAT_PEERS_MAX: Final = 64
"""Sites that one relayer serves itself (relay.md); above, each unit takes further hops."""


def run_flow(scenario: FlowScenario) -> FlowFigures:
    """Computes a scenario. One seed gives one result."""
    return _Run(scenario, draw_fleet(scenario)).run()


def lag_s(scenario: FlowScenario, sites: int, uplink_bytes_per_s: float) -> float:
    """What a fetch takes beyond its bytes: the first round trips, and the last units' copies.

    Where sites know only some of the others, further hops are a matter of luck, added elsewhere.
    """
    round_trip_s = 2 * (scenario.delay_s + scenario.bloat_s)
    is_flat = scenario.peers < sites - 1 or sites <= _FLAT_PEERS_MAX
    hops = 1.0 if is_flat else math.log(sites) / math.log(_FLAT_PEERS_MAX)
    copies_s = _copies_s(scenario, sites, uplink_bytes_per_s)
    return _START_ROUND_TRIPS * round_trip_s + hops * copies_s


def _fan_out(scenario: FlowScenario, sites: int) -> int:
    return min(sites, scenario.peers, _FLAT_PEERS_MAX)


def _copies_s(scenario: FlowScenario, sites: int, uplink_bytes_per_s: float) -> float:
    """How long one site's copies of a unit take to leave."""
    if not uplink_bytes_per_s:
        return 0.0
    return _fan_out(scenario, sites) * scenario.unit_bytes / uplink_bytes_per_s


class _Run:
    """The state of one run."""

    def __init__(self, scenario: FlowScenario, fleet: Fleet) -> None:
        self._scenario = scenario
        self._fleet = fleet
        self._size = float(scenario.image_bytes)
        sites = fleet.site_count
        self._held: Floats = np.zeros(sites)
        self._joins: Floats = np.full(sites, np.inf)
        self._finishes: Floats = np.full(sites, np.inf)
        self._active: Integers = np.zeros(0, dtype=np.int64)
        self._gateway_joins: Floats = np.full(scenario.gateways, np.inf)
        self._pending: Integers = np.zeros(0, dtype=np.int64)
        self._stage = -1
        self._stage_starts: list[float] = []
        self._pushed = 0.0
        self._supply = 0.0
        self._origin_bytes = 0.0
        self._moved = 0.0
        self._origin_curve: list[tuple[float, float]] = []
        self._steps = 0
        self._level = 0.0
        self._rate = 0.0
        self._step_s = 0.0
        self._is_sparse = scenario.peers < sites - 1
        self._efficiency = _SPARSE_EFFICIENCY if self._is_sparse else 1.0
        peers = min(scenario.peers, sites)
        reached = min(scenario.origin_peers * scenario.origins, sites)
        self._origin_pull_share = reached / sites / peers

    def run(self) -> FlowFigures:
        """Steps until every site is complete."""
        now = 0.0
        self._begin_stage(now)
        while True:
            now = self._admit(now)
            if not len(self._active):
                if self._stage + 1 == len(self._scenario.stages) and not len(self._pending):
                    break
                now = self._idle_until(now)
                continue
            step_s = self._choose_step()
            self._move(now, step_s)
            now += step_s
            self._promote(now)
        return self._figures()

    # Stages and joins ----------------------------------------------------------------------------

    def _begin_stage(self, now: float) -> None:
        """Lets the next stage's gateways hear of the release."""
        self._stage += 1
        self._stage_starts.append(now)
        fleet = self._fleet
        members = np.flatnonzero(fleet.stage_of == self._stage)
        self._gateway_joins[members] = now + fleet.delay_of[members]
        np.minimum.at(self._joins, fleet.site_of[members], self._gateway_joins[members])
        waiting = np.isinf(self._finishes) & np.isfinite(self._joins)
        waiting[self._active] = False
        found = np.flatnonzero(waiting)
        # The earliest last, so that they are taken off the end.
        self._pending = found[np.argsort(-self._joins[found], kind="stable")]

    def _admit(self, now: float) -> float:
        """Takes in the sites that join within the coming step."""
        until = now + (self._step_s if len(self._active) else 0.0)
        pending = self._pending
        if len(pending) and self._joins[pending[-1]] <= until:
            ascending = self._joins[pending][::-1]
            count = int(np.searchsorted(ascending, until, side="right"))
            self._active = np.concatenate([self._active, pending[len(pending) - count :]])
            self._pending = pending[: len(pending) - count]
        return now

    def _idle_until(self, now: float) -> float:
        """Nobody fetches: passes the time until somebody joins or a stage begins."""
        self._step_s = 0.0
        if len(self._pending):
            return max(now, float(self._joins[self._pending[-1]]))
        begins_at = max(now, self._next_stage_at(np.inf))
        self._begin_stage(begins_at)
        return begins_at

    def _promote(self, now: float) -> None:
        """Begins the next stage, if it is time."""
        if self._stage + 1 < len(self._scenario.stages):
            begins_at = self._next_stage_at(now)
            if begins_at <= now:
                self._begin_stage(now)

    def _next_stage_at(self, now: float) -> float:
        """When the present stage's soak is over and enough of it succeeded; infinite if not yet."""
        stage = self._scenario.stages[self._stage]
        soaked_at = self._stage_starts[-1] + stage.soak_s
        if soaked_at > now:
            return np.inf
        members = np.flatnonzero(self._fleet.stage_of == self._stage)
        wanted = math.ceil(stage.success_share * len(members))
        if not wanted:
            return soaked_at
        times = self._gateway_finishes(members)
        succeeded_at = float(np.partition(times, wanted - 1)[wanted - 1])
        return max(soaked_at, succeeded_at)

    def _gateway_finishes(self, members: Integers | slice) -> Floats:
        """When gateways are complete: with their site's copy, or once it crossed their network."""
        sites = self._fleet.site_of[members]
        local_s = 0.0
        if self._scenario.gateways_per_site > 1.0:
            local_s = self._size / self._scenario.lan_bytes_per_s
        finishes: Floats = np.maximum(self._finishes[sites], self._gateway_joins[members] + local_s)
        return finishes

    # Moving bytes --------------------------------------------------------------------------------

    def _choose_step(self) -> float:
        """How long rates may be taken for constant, seconds."""
        shortest = _STEP_MIN_SHARE * self._fleet.bound_s
        wanted = shortest
        if self._rate and self._step_s:
            total = self._size * self._fleet.site_count
            wanted = min(
                _STEP_SHARE * self._size / self._level,
                _STEP_BYTES_SHARE * total / self._rate,
                _STEP_GROWTH * self._step_s,
            )
        self._step_s = max(wanted, shortest)
        return self._step_s

    def _move(self, now: float, step_s: float) -> None:
        """Moves the bytes of one step."""
        fleet, active = self._fleet, self._active
        starts = np.maximum(self._joins[active], now)
        spans = now + step_s - starts
        lacking_before = self._size - self._held[active]
        limits = fleet.downlinks[active] * spans
        given = self._efficiency * fleet.origin_rate
        supply = (self._efficiency * self._supply + fleet.origin_rate) / (1 + ACKS) * step_s
        level, _ = _share(limits, spans, supply)
        fastest = min(level, float(fleet.downlinks[active].max()))
        pushed = min(self._size, self._pushed + min(given, fastest) * step_s)
        np.minimum(limits, pushed - self._held[active], out=limits)
        level, amounts = _share(limits, spans, supply)
        moved = float(amounts.sum())
        self._note_origin(now + step_s, moved, pushed, step_s)
        self._start_giving(active, amounts)
        self._held[active] += amounts
        self._level = max(fastest, 1e-9)
        self._rate = moved / step_s
        self._moved += moved
        self._steps += 1
        # A byte's worth of rounding must not cost a step.
        is_done = self._held[active] >= self._size - 0.5
        if is_done.any():
            done = active[is_done]
            shares = lacking_before[is_done] / np.maximum(amounts[is_done], 1e-9)
            self._finishes[done] = starts[is_done] + spans[is_done] * np.minimum(shares, 1.0)
            self._active = active[~is_done]

    def _start_giving(self, active: Integers, amounts: Floats) -> None:
        """Counts the uplinks of sites that just got their first bytes."""
        is_first = (self._held[active] == 0.0) & (amounts > 0.0)
        self._supply += float(self._fleet.uplinks[active[is_first]].sum())

    def _note_origin(self, now: float, moved: float, pushed: float, step_s: float) -> None:
        """Says how much of what moved the origins sent."""
        sites_can = self._efficiency * self._supply / (1 + ACKS) * step_s
        fresh = pushed - self._pushed
        asked = 0.0 if fresh > 0.0 else moved * self._origin_pull_share
        sent = max(fresh / self._efficiency, asked, moved - sites_can)
        self._origin_bytes += min(sent, self._fleet.origin_rate * step_s)
        self._pushed = pushed
        self._origin_curve.append((now, self._origin_bytes))

    # Result --------------------------------------------------------------------------------------

    def _figures(self) -> FlowFigures:
        scenario, fleet = self._scenario, self._fleet
        uplinks = np.sort(fleet.uplinks[fleet.uplinks > 0.0])
        # Units that slow relayers pass on come last, whoever waits for them.
        uplink = _quantile(uplinks, _SLOW_SHARE) if len(uplinks) else 0.0
        lags: float | Floats = lag_s(scenario, fleet.site_count, uplink)
        if self._is_sparse:
            copies_s = _copies_s(scenario, fleet.site_count, uplink)
            ranks = fleet.luck[fleet.site_of] ** _SPARSE_TAIL_POWER
            lags = lags + copies_s * math.log(fleet.site_count) * ranks
        finishes = self._gateway_finishes(slice(None)) + lags
        fetches = np.sort(finishes - self._gateway_joins)
        finishes_sorted = np.sort(finishes)
        count = scenario.gateways
        micros = np.rint(finishes * 1e6).astype("<i8")
        return FlowFigures(
            gateways=count,
            sites=fleet.site_count,
            bound_s=fleet.bound_s,
            p50_s=_quantile(finishes_sorted, 0.5),
            p99_s=_quantile(finishes_sorted, 0.99),
            makespan_s=float(finishes_sorted[-1]),
            fetch_p50_s=_quantile(fetches, 0.5),
            fetch_p99_s=_quantile(fetches, 0.99),
            origin_bytes=self._origin_bytes,
            origin_share=self._origin_bytes / (count * self._size),
            site_bytes=self._moved,
            stage_starts_s=tuple(self._stage_starts),
            curve=_completion_curve(finishes_sorted),
            origin_curve=_thin(self._origin_curve),
            steps=self._steps,
            result_hash=hashlib.sha256(micros.tobytes()).hexdigest(),
        )


def _share(limits: Floats, spans: Floats, supply: float) -> tuple[float, Floats]:
    """Shares a supply max-min fair.

    Args:
        limits: bytes that each can take at most.
        spans: seconds that each takes part.
        supply: bytes there are.

    Returns:
        The level (bytes a second; infinite if there is enough for all), and everybody's bytes.
    """
    if float(limits.sum()) <= supply:
        return math.inf, limits.copy()
    level = supply / float(spans.sum())
    for _ in range(_ROUNDS_MAX):
        is_limited = limits < level * spans
        if is_limited.all():
            break  # by rounding only: together they want more than there is
        left = supply - float(limits[is_limited].sum())
        higher = left / float(spans[~is_limited].sum())
        if higher <= level * (1 + 1e-12):
            break
        level = higher
    return level, np.minimum(limits, level * spans)


def _quantile(ascending: Floats, share: float) -> float:
    return float(ascending[max(math.ceil(share * len(ascending)) - 1, 0)])


def _completion_curve(ascending: Floats) -> tuple[tuple[float, float], ...]:
    count = len(ascending)
    picks = np.unique(np.linspace(0, count - 1, min(count, _CURVE_POINTS)).astype(np.int64))
    return tuple((float(ascending[pick]), (int(pick) + 1) / count) for pick in picks)


def _thin(points: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    if len(points) <= _CURVE_POINTS:
        return tuple(points)
    picks = np.unique(np.linspace(0, len(points) - 1, _CURVE_POINTS).astype(np.int64))
    return tuple(points[pick] for pick in picks)
