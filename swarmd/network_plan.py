"""Reads the plan of a new network: what people agreed on before the first block.

name = "acme"                       # of the chain
heartbeat_ms = 600000               # optional
epoch_ms = 604800000                # optional

[governance]                        # offline keys of the whole chain
threshold = 2
owners = [["ada", "did:key:z6Mk..."], ["bob", "did:key:z6Mk..."]]

[[group]]
name = "fleet"
threshold = 2                       # owners that must agree to approve or amend, at least
owners = [["ada", "did:key:z6Mk..."], ["bob", "did:key:z6Mk..."]]
revoke = 1                          # optional, like approve, amend and enrol: own thresholds
publishers = ["factory"]            # optional: join files' names; default: any of the group
offer_freshness_ms = 259200000      # optional, like serve_freshness_ms and amend_delay_ms
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from protocol.did import parse_did_key
from protocol.errors import ConfigError, EncodingError
from protocol.genesis import GROUPS_MAX, Parameters
from protocol.group import (
    AMEND_DELAY_MS,
    OFFER_FRESHNESS_MS,
    OWNERS_MAX,
    PUBLISHERS_MAX,
    SERVE_FRESHNESS_MS,
    Group,
    OwnerRoot,
    Policy,
)
from protocol.keys import PublicKey
from protocol.limits import MIB
from swarmd.datadir import read_bounded

PLAN_BYTES_MAX: Final = 1 * MIB
"""256 groups with 32 owners each take about 800 KiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPlan:
    """What goes into a genesis besides its nodes."""

    name: str
    """Name of the chain, for people."""
    heartbeat_ms: int
    """An idle chain makes a block this often, milliseconds."""
    epoch_ms: int
    """An epoch lasts this long, milliseconds."""
    groups: tuple[Group, ...]
    """First device groups, with no publishers in their policies yet."""
    publishers: Mapping[str, tuple[str, ...]]
    """By group: names of those that may propose; none: any publisher of the group."""
    governance: OwnerRoot
    """Offline keys of the whole chain."""


class _Table:
    """Reads one TOML table; errors name the key with its path."""

    def __init__(self, value: object, what: str, known: tuple[str, ...]) -> None:
        if not isinstance(value, dict):
            raise ConfigError(f"{what}: expected a section")
        for key in value:
            if key not in known:
                raise ConfigError(f"{what}: unknown key {key[:64]!r}; known: {', '.join(known)}")
        self._value: dict[str, Any] = value
        self.what = what

    def take(self, key: str) -> object:
        if key not in self._value:
            raise ConfigError(f"{self.what}: {key!r} is missing")
        return self._value[key]

    def text(self, key: str) -> str:
        value = self.take(key)
        if not isinstance(value, str):
            raise ConfigError(f"{self.what}: {key!r} is not text")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        if default is not None and key not in self._value:
            return default
        value = self.take(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ConfigError(f"{self.what}: {key!r} is not a positive integer")
        return value

    def texts(self, key: str, *, maximum: int) -> tuple[str, ...]:
        value = self._value.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{self.what}: {key!r} is not a list of names")
        if len(value) > maximum or len(set(value)) != len(value):
            raise ConfigError(f"{self.what}: {key!r}: a name twice, or more than {maximum}")
        return tuple(value)

    def owners(self) -> OwnerRoot:
        value = self.take("owners")
        if not isinstance(value, list) or not 1 <= len(value) <= OWNERS_MAX:
            raise ConfigError(f"{self.what}: 'owners' is not a list of 1 to {OWNERS_MAX} owners")
        keys = tuple(sorted(_read_owner(item, self.what) for item in value))
        try:
            return OwnerRoot(version=1, threshold=self.integer("threshold"), owners=keys)
        except EncodingError as error:
            raise ConfigError(f"{self.what}: {error}") from None


def _read_owner(value: object, what: str) -> tuple[PublicKey, str]:
    match value:
        case [str(name), str(key)]:
            try:
                return parse_did_key(key), name
            except EncodingError as error:
                raise ConfigError(f"{what}: owner {name[:64]!r}: {error}") from None
    raise ConfigError(f'{what}: an owner is written ["name", "did:key:..."]')


def _read_group(value: object, what: str) -> tuple[Group, tuple[str, ...]]:
    thresholds = ("approve", "revoke", "amend", "enrol")
    times = ("offer_freshness_ms", "serve_freshness_ms", "amend_delay_ms")
    known = ("name", "threshold", "owners", *thresholds, "publishers", *times)
    table = _Table(value, what, known)
    root = table.owners()
    try:
        policy = Policy(
            approve_threshold=table.integer("approve", root.threshold),
            revoke_threshold=table.integer("revoke", root.threshold),
            amend_threshold=table.integer("amend", root.threshold),
            enrol_threshold=table.integer("enrol", root.threshold),
            amend_delay_ms=table.integer("amend_delay_ms", AMEND_DELAY_MS),
            offer_freshness_ms=table.integer("offer_freshness_ms", OFFER_FRESHNESS_MS),
            serve_freshness_ms=table.integer("serve_freshness_ms", SERVE_FRESHNESS_MS),
        )
        group = Group(name=table.text("name"), owner_root=root, policy=policy)
    except EncodingError as error:
        raise ConfigError(f"{what}: {error}") from None
    return group, table.texts("publishers", maximum=PUBLISHERS_MAX)


def parse_plan(text: str) -> NetworkPlan:
    """Reads and checks a plan.

    Raises:
        ConfigError: not TOML, an unknown or missing key, or rules that contradict each other.
    """
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise ConfigError(f"not TOML: {error}") from None
    table = _Table(document, "plan", ("name", "heartbeat_ms", "epoch_ms", "governance", "group"))
    groups = table.take("group")
    if not isinstance(groups, list) or not 1 <= len(groups) <= GROUPS_MAX:
        raise ConfigError(f"plan: expected 1 to {GROUPS_MAX} [[group]] sections")
    read = [_read_group(item, f"group {number}") for number, item in enumerate(groups, 1)]
    governance = _Table(table.take("governance"), "governance", ("threshold", "owners"))
    return NetworkPlan(
        name=table.text("name"),
        heartbeat_ms=table.integer("heartbeat_ms", Parameters().heartbeat_ms),
        epoch_ms=table.integer("epoch_ms", Parameters().epoch_ms),
        groups=tuple(group for group, _ in read),
        publishers={group.name: names for group, names in read if names},
        governance=governance.owners(),
    )


def load_plan(path: Path) -> NetworkPlan:
    """Reads the plan at `path`.

    Raises:
        StorageError: it cannot be read.
        ConfigError: it is not valid; the message names the file.
    """
    data = read_bounded(path, bytes_max=PLAN_BYTES_MAX)
    try:
        return parse_plan(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
