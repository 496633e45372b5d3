"""Where processes stand: side by side on loopback, or in namespaces with links between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol

from protocol.did import SubjectKind
from swarmd.config import Endpoint
from swarmd.simulation.daemons.timeline import draw_links, of_one_end
from swarmd.simulation.links import NodeLink
from swarmd.simulation.processes.namespaces import QUEUE_MS, Namespaces, Port
from swarmd.simulation.scenario import Fault, FaultKind, LinkClass, Nat, Scenario

NODE_PORT: Final = 7001
"""Where every node listens that has an address of its own."""
BACKBONE_MBIT: Final = 1000.0
"""Rate of validators' links: they are not what a scenario measures, Mbit/s."""
_MBIT: Final = 125_000.0


class Grounds(Protocol):
    """What nodes need of the place where they run."""

    @property
    def links(self) -> Mapping[str, NodeLink] | None:
        """Rates of publisher and gateways by name; None: nobody keeps any."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the scenario is not modelled here."""
        ...

    def place(self, name: str) -> Endpoint | None:
        """Where a node listens; None: where it was going to."""
        ...

    def command(self, name: str) -> list[str]:
        """What to put before a node's command."""
        ...

    def disturb(self, fault: Fault, away: Sequence[str]) -> None:
        """Begins a partition, one way or both, or losses."""
        ...

    def calm(self) -> None:
        """Ends both."""
        ...


class Loopback:
    """All nodes on the loopback address: no rates, no delays, no partitions."""

    links: Final = None
    """Nobody keeps any."""
    notes: Final = (
        "loopback has no links: the scenario's rates, latencies and sites are not kept",
    )
    """That."""

    def place(self, name: str) -> Endpoint | None:  # noqa: ARG002 - as Grounds has it
        """Where it was going to."""
        return None

    def command(self, name: str) -> list[str]:  # noqa: ARG002 - as Grounds has it
        """Nothing."""
        return []

    def disturb(self, fault: Fault, away: Sequence[str]) -> None:  # noqa: ARG002 - likewise
        """Never asked: `check_processes` refuses such faults."""
        raise AssertionError(f"{fault.kind} on loopback was refused")

    def calm(self) -> None:
        """As `disturb`."""
        raise AssertionError("nothing was disturbed")


class Islands:
    """A namespace for each node, with the links of the scenario."""

    def __init__(self, scenario: Scenario, seed: int, names: Sequence[str]) -> None:
        """Plans them.

        Args:
            scenario: has the links.
            seed: decides which gateway has which.
            names: all nodes.

        Raises:
            ConfigError: this machine cannot.
        """
        network, drawn = scenario.network, draw_links(scenario, seed)
        self._numbers: Final = {name: number for number, name in enumerate(names)}
        self._loss = network.segment_loss
        validator = Port(
            up_mbit=BACKBONE_MBIT,
            down_mbit=BACKBONE_MBIT,
            latency_ms=network.latency_ms / 2,
            jitter_ms=network.jitter_ms / 2,
            loss=of_one_end(network.loss),
            duplication=of_one_end(network.duplication),
        )
        sites = list(dict.fromkeys(each.site for each in scenario.links.values() if each.site))
        ports = {name: _port(each, sites) for name, each in drawn.items()}
        self._namespaces = Namespaces(
            [ports.get(name, validator) for name in names], loss=self._loss
        )
        self.links: Final = {
            name: NodeLink(
                uplink_bytes_per_s=each.up_mbit * _MBIT, downlink_bytes_per_s=each.down_mbit * _MBIT
            )
            for name, each in drawn.items()
        }
        """As the scenario has them."""
        self.notes: Final[tuple[str, ...]] = ()
        """Nothing: what they cannot model is refused."""

    @property
    def context(self) -> AbstractContextManager[object]:
        """Within it the namespaces exist."""
        return self._namespaces

    def place(self, name: str) -> Endpoint | None:
        """An address of its own."""
        return Endpoint(self._namespaces.address(self._numbers[name]), NODE_PORT)

    def command(self, name: str) -> list[str]:
        """Enters its namespace."""
        return self._namespaces.command(self._numbers[name])

    def disturb(self, fault: Fault, away: Sequence[str]) -> None:
        """Begins a partition, one way or both, or losses."""
        numbers = [self._numbers[name] for name in away]
        if fault.kind is FaultKind.LOSS:
            self._namespaces.set_loss(fault.loss)
        elif fault.kind is FaultKind.ONE_WAY:
            self._namespaces.mute(numbers)
        else:
            self._namespaces.cut(numbers)

    def calm(self) -> None:
        """Ends both."""
        self._namespaces.heal()
        self._namespaces.set_loss(self._loss)


def _port(each: LinkClass, sites: Sequence[str]) -> Port:
    return Port(
        up_mbit=each.up_mbit,
        down_mbit=each.down_mbit,
        latency_ms=each.latency_ms,
        jitter_ms=each.jitter_ms,
        loss=each.loss,
        duplication=each.duplication,
        reorder=each.reorder,
        reorder_ms=each.reorder_ms,
        queue_ms=QUEUE_MS if each.queue_ms is None else each.queue_ms,
        site=sites.index(each.site) + 1 if each.site else 0,
        is_closed=each.nat is Nat.CLOSED,
    )


def node_names(scenario: Scenario) -> tuple[str, ...]:
    """All nodes of a scenario: validators, the publisher, gateways."""
    counts = (
        (SubjectKind.VALIDATOR, scenario.validators.count),
        (SubjectKind.PUBLISHER, 1),
        (SubjectKind.GATEWAY, scenario.gateways.count),
    )
    return tuple(f"{kind.name.lower()}-{n}" for kind, count in counts for n in range(1, count + 1))
