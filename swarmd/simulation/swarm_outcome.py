"""What a simulated swarm came to: verdicts against bounds, series for plots, the trace hash."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One thing that was measured against its bound."""

    name: str
    """What, as docs/spec/simulation.md defines it."""
    bound: float
    """What was allowed."""
    measured: float | None
    """What came of it; None: it never came to an end."""
    unit: str = ""
    """Unit of both; empty: a count or a share."""
    is_minimum: bool = False
    """Whether the bound is the least rather than the most that is allowed."""
    failed_s: float | None = None
    """When it was certain that the bound is broken, simulated seconds; None: it was not."""

    @property
    def passed(self) -> bool:
        """Whether the bound was kept as far as the run went."""
        return self.failed_s is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The swarm at one moment; bytes are chunk bytes since the start."""

    time_s: float
    """Simulated seconds."""
    complete: int
    """Pairs of an honest gateway and a release that it completed."""
    height: int
    """Final blocks."""
    seeder_bytes: int
    """Sent by seeders."""
    gateway_bytes: int
    """Sent by honest gateways."""
    adversary_bytes: int
    """Sent by gateways that break the rules."""
    bad_bytes: int
    """Received by honest gateways and found not to match."""
    seeder_use: float
    """Part of the seeders' uplinks in use since the sample before."""
    gateway_use: float
    """Part of the honest gateways' uplinks in use since the sample before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The graph of the swarm at one moment; nodes by position, seeders first."""

    time_s: float
    """Simulated seconds."""
    held: tuple[float, ...]
    """For each node, the part of the newest release that it holds; -1: it is down."""
    edges: tuple[tuple[int, int, int], ...]
    """(from, to, chunk bytes since the frame before), the busiest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseFigures:
    """How one release went; times in simulated seconds."""

    name: str
    """What the scenario calls it."""
    manifest: str
    """Its manifest id, hexadecimal."""
    is_authorised: bool
    """Whether enough owners signed."""
    published_s: float
    """When it was handed to the validators."""
    final_s: float | None
    """When it was final; None: never."""
    revoked_s: float | None
    """When its revocation was final; None: never."""
    bound_s: float
    """The fluid bound of its distribution, seconds."""
    finished_s: tuple[float, ...]
    """When honest gateways had it, since it was final, ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """See the module's docstring."""

    scenario: str
    """Name of the scenario."""
    summary: str
    """Its summary."""
    seed: int
    """Replays the run, with the same scenario and the same options."""
    nodes: int
    """Gateways."""
    validators: int
    """Seats."""
    adversaries: tuple[tuple[str, int], ...]
    """Kinds of those that broke the rules, with their number."""
    expected_to_break: tuple[str, ...]
    """Why the run must break, if it must: more faults than anybody survives."""
    verdicts: tuple[Verdict, ...]
    """What was measured."""
    releases: tuple[ReleaseFigures, ...]
    """How each release went."""
    simulated_s: float
    """Simulated seconds; real ones where real processes ran."""
    height: int
    """Final blocks."""
    event_count: int
    """Events executed."""
    trace_hash: str
    """Equal for two runs of one seed; empty where runs do not repeat."""
    samples: tuple[Sample, ...] = field(repr=False)
    """The swarm over time."""
    frames: tuple[Frame, ...] = field(repr=False)
    """Its graph over time."""
    seeders: int = 1
    """The first so many nodes of each frame."""
    bad_nodes: tuple[int, ...] = ()
    """Nodes of the frames that break the rules, by position."""
    bad_members: int = 0
    """Gateways that break the rules."""
    replay: str = ""
    """The command that runs it again."""
    level: str = "machines"
    """What ran: `machines`, `daemons`, `processes` or `namespaces`."""
    cpu_share: float | None = None
    """Part of the machine's processors in use during the run, whoever used them; None where
    processors are free."""
    cpu_s: float | None = None
    """Processor seconds that the nodes took during the run; None likewise."""
    notes: tuple[str, ...] = ()
    """What a reader has to know, such as parts of the scenario that this level does not model."""

    @property
    def held(self) -> bool:
        """Whether every bound was kept: the adversary did not win."""
        return all(verdict.passed for verdict in self.verdicts)

    @property
    def passed(self) -> bool:
        """Whether the run went as it must: held, or broke where it had to break."""
        return self.held is not bool(self.expected_to_break)

    @property
    def failures(self) -> tuple[Verdict, ...]:
        """The bounds that were broken, the earliest first."""
        failed = [verdict for verdict in self.verdicts if verdict.failed_s is not None]
        return tuple(sorted(failed, key=lambda verdict: verdict.failed_s or 0.0))

    @property
    def prefix_s(self) -> float | None:
        """How much of the run shows the first broken bound, simulated seconds."""
        return self.failures[0].failed_s if self.failures else None

    def verdict(self, name: str) -> Verdict:
        """Finds a verdict.

        Raises:
            KeyError: the scenario says nothing about it; the message lists what there is.
        """
        for verdict in self.verdicts:
            if verdict.name == name:
                return verdict
        known = ", ".join(verdict.name for verdict in self.verdicts)
        raise KeyError(f"no verdict {name!r}; there are: {known}")

    def document(self) -> dict[str, object]:
        """The outcome as JSON has it; what is infinite or missing is null."""
        document = _plain(dataclasses.asdict(self))
        assert isinstance(document, dict), "an outcome is a table"
        document |= {"held": self.held, "passed": self.passed, "prefix_s": self.prefix_s}
        document["trace_hash"] = self.trace_hash or None
        for verdict, entry in zip(self.verdicts, document["verdicts"], strict=True):
            entry["passed"] = verdict.passed
        return document

    def explain(self) -> str:
        """Says in a few lines what was broken and how to see it again."""
        trace = f"trace {self.trace_hash[:16]}" if self.trace_hash else f"level {self.level}"
        lines = [f"{self.scenario}: seed {self.seed}, {trace}"]
        lines += [
            f"  {verdict.name}: {text_of(verdict.measured)} {verdict.unit}".rstrip()
            + f", {'at least' if verdict.is_minimum else 'at most'} {verdict.bound:g} allowed;"
            + f" certain after {verdict.failed_s:.2f} s"
            for verdict in self.failures
        ]
        if self.replay:
            lines.append(f"  replay: {self.replay}")
        return "\n".join(lines)


def text_of(number: float | None) -> str:
    """A measured value for people."""
    return "never" if number is None else f"{number:.4g}"


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
