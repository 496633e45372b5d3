"""Control methods about image traffic: what holds, rates by hand, and the off switch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from protocol.limits import KIB
from swarmd.control.params import Params
from swarmd.limits.rates import RATE_KIB_MAX, rate_of
from swarmd.limits.service import TrafficOrders, TrafficService

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON
    from swarmd.control.server import Handler, Report


class TrafficDesk:
    """Implements the methods."""

    def __init__(self, service: TrafficService) -> None:
        """Speaks to the limits of a node."""
        self._service = service

    def handlers(self) -> Mapping[str, Handler]:
        """Methods by name."""
        return {
            "traffic": self._show,
            "traffic.switch": self._switch,
            "traffic.limit": self._limit,
        }

    def summary(self) -> dict[str, JSON]:
        """What `status` says."""
        return dict(asdict(self._service.statistics()))

    async def _show(self, params: Mapping[str, object], _report: Report) -> JSON:
        Params(params).finish()
        return self.summary()

    async def _switch(self, params: Mapping[str, object], _report: Report) -> JSON:
        reader = Params(params)
        is_off = reader.choice("to", ("on", "off")) == "off"
        reader.finish()
        await self._service.order(replace(self._service.orders, is_off=is_off))
        return self.summary()

    async def _limit(self, params: Mapping[str, object], _report: Report) -> JSON:
        """Sets rates by hand; one that is absent is as configured again."""
        reader = Params(params)
        rates: dict[str, int | None] = {}
        for name in ("up", "down"):
            rates[name] = None
            if reader.has(f"{name}_kib_s"):
                kib_per_s = reader.uint(f"{name}_kib_s", maximum=RATE_KIB_MAX)
                rate_of(kib_per_s, name)
                rates[name] = kib_per_s * KIB
        reader.finish()
        orders = TrafficOrders(
            is_off=self._service.orders.is_off, up=rates["up"], down=rates["down"]
        )
        await self._service.order(orders)
        return self.summary()
