"""Counts what adversaries of the exchange do: how often they did not send what they should."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from swarmd.simulation.exchange_host import ExchangeHost
from swarmd.simulation.transfer_host import TransferHost

H = TypeVar("H", bound=ExchangeHost | TransferHost)


@dataclass(slots=True)
class Tally:
    """How often adversaries misbehaved."""

    misdeeds: int = 0
    """Messages that were changed, swallowed or made up."""


def tallied(kind: type[H], tally: Tally) -> type[H]:
    """The same adversary, whose misdeeds are counted.

    Args:
        kind: what it is.
        tally: counts those of all its nodes.
    """

    def outgoing(self: Any, target: int, message: Any) -> Iterable[Any]:
        items = tuple(kind.outgoing(self, target, message))
        if items != (message,):
            tally.misdeeds += max(len(items), 1)
        return items

    return type(kind.__name__, (kind,), {"outgoing": outgoing})
