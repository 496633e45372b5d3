"""Policy files: a group's rules as people write them, in TOML or JSON.

    approve_threshold = 2
    amend_threshold = 2
    soak = "4h"
    maintenance = [{days = ["Sat", "Sun"], from = "01:00", to = "05:00"}]
    [rule]
    k_of = {count = 1, of = ["auditor"]}

Every key is optional but the four thresholds; durations are texts such as `24h` (see `rule_text`),
times are TOML offset date-times or RFC 3339 texts. docs/spec/contracts.md explains each.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields as dataclass_fields
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from protocol.calendar import Freeze
from protocol.defence import DefenceRules
from protocol.did import parse_did_text
from protocol.digest import ChainId, DidId
from protocol.errors import ConfigError, EncodingError
from protocol.limits import KIB
from protocol.policy import Policy, Witnesses, decode_policy
from protocol.rollout import Promotion, RolloutPlan, RolloutStage
from protocol.rule import Rule, Scope
from protocol.tlog import parse_note_key
from swarmd.rule_text import parse_duration, parse_rule, parse_window

POLICY_FILE_BYTES_MAX: Final = 64 * KIB
"""Text of a policy file: eight times the largest policy."""
T = TypeVar("T")
_THRESHOLDS: Final = (
    "approve_threshold",
    "revoke_threshold",
    "amend_threshold",
    "enrol_threshold",
)
_DURATIONS: Final = {
    "amend_delay": "amend_delay_ms",
    "offer_freshness": "offer_freshness_ms",
    "serve_freshness": "serve_freshness_ms",
    "manifest_lifetime_max": "manifest_lifetime_ms_max",
    "soak": "soak_ms",
}


def parse_document(text: str, what: str) -> Mapping[str, Any]:
    """Reads TOML, or JSON if it begins with a brace.

    Raises:
        ConfigError: neither.
    """
    try:
        is_json = text.lstrip().startswith("{")
        document = json.loads(text) if is_json else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{what}: neither TOML nor JSON: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{what}: expected a table")
    return document


def parse_policy(text: str, chain: ChainId | None = None, what: str = "policy") -> Policy:
    """Reads a policy file.

    Args:
        text: TOML or JSON.
        chain: the chain whose DIDs `publishers` may name; None: only hex is read.
        what: the file's name, for error messages.

    Raises:
        ConfigError: malformed, an unknown key, or rules that contradict each other.
    """
    document = parse_document(text, what)
    unknown = sorted(set(document) - {*_THRESHOLDS, *_DURATIONS, *_READERS, "publishers"})
    if unknown:
        raise ConfigError(f"{what}: unknown key {unknown[0][:64]!r}")
    values: dict[str, Any] = {}
    for name in _THRESHOLDS:
        if name not in document:
            raise ConfigError(f"{what}: {name!r} is missing")
        values[name] = _integer(document[name], f"{what}.{name}")
    for name, field in _DURATIONS.items():
        if name in document:
            values[field] = parse_duration(document[name], f"{what}.{name}")
    if "publishers" in document:
        values["publishers"] = _publishers(document["publishers"], chain, f"{what}.publishers")
    for name, read in _READERS.items():
        if name in document:
            values[name] = _guarded(read, document[name], f"{what}.{name}")
    try:
        policy = Policy(**values)
        return decode_policy(policy.encode())  # the size is checked on the way
    except EncodingError as error:
        raise ConfigError(f"{what}: {error}") from None


def _guarded(read: Callable[[Any, str], T], value: Any, what: str) -> T:
    try:
        return read(value, what)
    except EncodingError as error:
        raise ConfigError(f"{what}: {error}") from None


def _integer(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{what}: {value!r} is no integer")
    return value


def _boolean(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{what}: expected true or false")
    return value


def _list(value: object, what: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise ConfigError(f"{what}: expected a list")
    return value


def _publishers(value: object, chain: ChainId | None, what: str) -> tuple[DidId, ...]:
    found = []
    for item in _list(value, what):
        if not isinstance(item, str):
            raise ConfigError(f"{what}: {item!r} is no DID")
        found.append(_publisher(item, chain, what))
    return tuple(sorted(set(found)))


def _publisher(text: str, chain: ChainId | None, what: str) -> DidId:
    try:
        if text.startswith("did:") and chain is not None:
            return parse_did_text(text, chain)
        raw = bytes.fromhex(text)
    except (EncodingError, ValueError) as error:
        raise ConfigError(f"{what}: {error}") from None
    if len(raw) != 32:
        raise ConfigError(f"{what}: {text[:80]!r} is no DID of 64 hex digits")
    return DidId(raw)


def parse_time(value: object, what: str) -> int:
    """Reads a time with its offset; returns milliseconds since 1970.

    Raises:
        ConfigError: it is something else, or has no offset.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise ConfigError(f"{what}: {error}") from None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ConfigError(f"{what}: {value!r} is no time with an offset, 2026-12-20T00:00:00Z")
    since = value - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000


def _freeze(value: object, what: str) -> Freeze:
    if not isinstance(value, Mapping) or set(value) != {"from", "to"}:
        raise ConfigError(f"{what}: a freeze is {{from = TIME, to = TIME}}")
    return Freeze(parse_time(value["from"], what), parse_time(value["to"], what))


def _freezes(value: object, what: str) -> tuple[Freeze, ...]:
    found = (_freeze(item, what) for item in _list(value, what))
    return tuple(sorted(found, key=lambda one: one.from_ms))


def _windows(value: object, what: str) -> Any:
    found = (parse_window(item, what) for item in _list(value, what))
    return tuple(sorted(found, key=lambda one: (one.days, one.from_minute, one.to_minute)))


def _separation(value: object, what: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for item in _list(value, what):
        match item:
            case [str(first), str(second)]:
                pairs.append((min(first, second), max(first, second)))
            case _:
                raise ConfigError(f"{what}: a separation is two names of roles")
    return tuple(sorted(set(pairs)))


def _witnesses(value: object, what: str) -> Witnesses:
    if not isinstance(value, Mapping) or set(value) != {"threshold", "keys"}:
        raise ConfigError(f"{what}: expected {{threshold, keys}}")
    keys = [parse_note_key(str(key)) for key in _list(value["keys"], what)]
    ordered = tuple(sorted(keys, key=lambda key: key.encode().encode()))
    return Witnesses(_integer(value["threshold"], what), ordered)


_STAGE: Final = ("share", "success_sites_min", "failure_sites_max", "failure_share_max")


def _stage(value: object, what: str) -> RolloutStage:
    if not isinstance(value, Mapping) or not set(value) <= {*_STAGE, "soak", "sample_min"}:
        raise ConfigError(f"{what}: a stage is a table of {', '.join(_STAGE)}, soak, sample_min")
    numbers = {name: _integer(value.get(name, 0), f"{what}.{name}") for name in _STAGE}
    return RolloutStage(
        soak_ms=parse_duration(value.get("soak", "0s"), f"{what}.soak"),
        sample_min=_integer(value.get("sample_min", 1), f"{what}.sample_min"),
        **numbers,
    )


def _rollout(value: object, what: str) -> RolloutPlan:
    if not isinstance(value, Mapping) or not set(value) <= {"stages", "priority", "promotion"}:
        raise ConfigError(f"{what}: expected a table of stages, priority, promotion")
    promotion = value.get("promotion", "owners")
    if promotion not in ("owners", "automatic"):
        raise ConfigError(f"{what}.promotion: neither 'owners' nor 'automatic'")
    stages = _list(value.get("stages"), f"{what}.stages")
    return RolloutPlan(
        stages=tuple(_stage(item, f"{what}.stages") for item in stages),
        priority=_integer(value.get("priority", 0), f"{what}.priority"),
        promotion=Promotion[promotion.upper()],
    )


def _defence(value: object, what: str) -> DefenceRules:
    known = {item.name.removesuffix("_ms"): item.name for item in dataclass_fields(DefenceRules)}
    if not isinstance(value, Mapping) or not set(value) <= set(known):
        raise ConfigError(f"{what}: expected a table of {', '.join(known)}")
    numbers = {
        known[name]: parse_duration(item, f"{what}.{name}")
        if known[name].endswith("_ms")
        else _integer(item, f"{what}.{name}")
        for name, item in value.items()
    }
    return DefenceRules(**numbers)


def _rule(value: object, what: str) -> Rule:
    return parse_rule(value, Scope.RELEASE, what)


_READERS: Final[Mapping[str, Callable[[Any, str], Any]]] = {
    "rule": _rule,
    "veto_threshold": _integer,
    "attestations": _integer,
    "closed": _boolean,
    "freezes": _freezes,
    "maintenance": _windows,
    "separation": _separation,
    "witnesses": _witnesses,
    "rollout": _rollout,
    "defence": _defence,
}
