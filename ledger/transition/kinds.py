"""The registry: every transaction kind, by name. Each area lists its own in `KINDS`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from ledger.bodies.codec import MapValue
from ledger.transition import (
    capability,
    defence,
    emergency,
    governance,
    group,
    health,
    manifest,
    policy,
    receipt,
    rollout,
    subject,
    subject_decisions,
    subject_recovery,
    validators,
)
from ledger.transition.kind import Body, Kind, Lane
from protocol.encoding import Fields
from protocol.errors import EncodingError

_AREAS: Final = (
    governance,
    subject,
    subject_decisions,
    subject_recovery,
    group,
    manifest,
    policy,
    rollout,
    health,
    emergency,
    receipt,
    validators,
    defence,
    capability,
)


def _merge() -> Mapping[str, Kind[Any]]:
    merged: dict[str, Kind[Any]] = {}
    for area in _AREAS:
        for kind in area.KINDS:
            assert kind.name not in merged, f"transaction kind {kind.name} is registered twice"
            merged[kind.name] = kind
    return MappingProxyType(merged)


KINDS: Final = _merge()
"""Every transaction kind by its name, in the order of the areas."""
PROTECTING_KINDS: Final = tuple(
    kind.name for kind in KINDS.values() if kind.lane is Lane.PROTECTING
)
"""Kinds that protect: they go first and have shares of their own."""
_NAMES: Final[Mapping[type, str]] = {kind.body: kind.name for kind in KINDS.values()}


def kind_of(body: Body) -> str:
    """The kind that an envelope around this body must state."""
    return _NAMES[type(body)]


def decode_body(kind: str, value: MapValue) -> Body:
    """Reads a body of a known kind; its extensions (negative keys) are ignored.

    Raises:
        EncodingError: unknown kind, malformed, or over a bound.
    """
    known = KINDS.get(kind)
    if known is None:
        raise EncodingError(f"unknown transaction kind {kind!r}")
    fields = Fields(value, kind)
    body: Body = known.read(fields)
    fields.finish()
    return body
