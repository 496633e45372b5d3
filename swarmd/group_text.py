"""Group files: a device group as people write it, in TOML or JSON.

name = "pumps"
parent = "fleet"                      # optional
[owners]
version = 1
threshold = 2
keys = [["ada", "did:key:z6Mk..."], ["bob", "did:key:z6Mk..."]]
[owners.roles]
auditor = [["eve", "did:key:z6Mk..."]]
[selector]                            # optional, a rule about attributes (see `rule_text`)
compare = ["vendor", "==", "acme"]
[policy]                              # as in a policy file
approve_threshold = 2
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from protocol.did import parse_did_key
from protocol.digest import ChainId
from protocol.errors import ConfigError, EncodingError
from protocol.group import Group, Placement
from protocol.owner_root import KeyHolder, OwnerRoot
from protocol.rule import Scope
from swarmd.policy_text import parse_document, parse_policy
from swarmd.rule_text import parse_rule


def parse_root(value: object, what: str) -> OwnerRoot:
    """Reads an owner root from decoded TOML or JSON.

    Raises:
        ConfigError: malformed, or a root that nobody could meet.
    """
    known = {"version", "threshold", "keys", "roles"}
    if not isinstance(value, Mapping) or not set(value) <= known:
        raise ConfigError(f"{what}: expected a table of {', '.join(sorted(known))}")
    roles = value.get("roles", {})
    if not isinstance(roles, Mapping):
        raise ConfigError(f"{what}.roles: expected a table")
    try:
        return OwnerRoot(
            version=_integer(value.get("version", 1), f"{what}.version"),
            threshold=_integer(value.get("threshold"), f"{what}.threshold"),
            owners=_holders(value.get("keys"), f"{what}.keys"),
            roles=tuple(
                (str(role), _holders(keys, f"{what}.roles.{role}"))
                for role, keys in sorted(roles.items())
            ),
        )
    except EncodingError as error:
        raise ConfigError(f"{what}: {error}") from None


def _integer(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{what}: {value!r} is no integer")
    return value


def _holders(value: object, what: str) -> tuple[KeyHolder, ...]:
    if not isinstance(value, list):
        raise ConfigError(f'{what}: expected a list of ["name", "did:key:..."]')
    found = []
    for item in value:
        match item:
            case [str(name), str(key)]:
                try:
                    found.append((parse_did_key(key), name))
                except EncodingError as error:
                    raise ConfigError(f"{what}: {name[:64]!r}: {error}") from None
            case _:
                raise ConfigError(f'{what}: a holder is written ["name", "did:key:..."]')
    return tuple(sorted(found))


def parse_placement(document: Mapping[str, Any], what: str) -> Placement:
    """Reads `parent` and `selector`; raises ConfigError."""
    parent = document.get("parent")
    if parent is not None and not isinstance(parent, str):
        raise ConfigError(f"{what}.parent: {parent!r} is no name of a group")
    selector = document.get("selector")
    rule = None
    if selector is not None:
        rule = parse_rule(selector, Scope.SUBJECT, f"{what}.selector")
    try:
        return Placement(parent, rule)
    except EncodingError as error:
        raise ConfigError(f"{what}: {error}") from None


def parse_group(text: str, chain: ChainId | None, what: str) -> Group:
    """Reads a group file.

    Raises:
        ConfigError: malformed, an unknown key, or rules its owners could not live under.
    """
    document = parse_document(text, what)
    unknown = sorted(set(document) - {"name", "parent", "selector", "owners", "policy"})
    if unknown:
        raise ConfigError(f"{what}: unknown key {unknown[0][:64]!r}")
    policy = parse_policy(
        json.dumps(document.get("policy", {}), default=_time_text), chain, f"{what}.policy"
    )
    try:
        return Group(
            name=str(document.get("name", "")),
            owner_root=parse_root(document.get("owners"), f"{what}.owners"),
            policy=policy,
            placement=parse_placement(document, what),
        )
    except EncodingError as error:
        raise ConfigError(f"{what}: {error}") from None


def _time_text(value: object) -> str:
    """TOML knows times, JSON does not; both are read the same way afterwards."""
    if isinstance(value, datetime):
        return value.isoformat()
    raise ConfigError(f"{value!r} has no place in a policy")
