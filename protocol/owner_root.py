"""Owner roots: whose keys count in a group, and for what.

*Owners* are a threshold of person keys that every gateway of the group pins; they alone count for
the thresholds that authorise, revoke and amend. *Roles* name further keys: a `builder` may attest
an image, an `emergency` key may pause offers; any other role (an auditor, say) counts only where
a policy's rule names it. A key may hold several roles and may be an owner's.

A root is replaced by rotation, signed by a threshold of the old root and of the new one (as TUF
roots are: the TUF specification, section 6.1), see `protocol.rotation`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from protocol.digest import Digest
from protocol.encoding import (
    Extensions,
    Fields,
    Key,
    Value,
    as_array,
    check_extensions,
    check_range,
    check_sorted_unique,
    check_text,
)
from protocol.errors import EncodingError
from protocol.keys import PublicKey
from protocol.limits import NAME_BYTES_MAX

OWNERS_MAX: Final = 32
"""Owner keys of one root."""
ROLES_MAX: Final = 8
"""Roles of one root: a rule that needs more cannot be read by a person."""
ROLE_KEYS_MAX: Final = 32
"""Entries of all roles of one root together; with 32 owners a root takes about 8 KiB."""
OWNER_ROLE: Final = "owner"
"""What rules and separations call the owners; no role may have this name."""
PUBLISHER_ROLE: Final = "publisher"
"""Reserved: publishers are subjects of the ledger, not keys of a root."""
BUILDER_ROLE: Final = "builder"
"""May attest that it arrived at the same image."""
EMERGENCY_ROLE: Final = "emergency"
"""May pause offers for a while."""
_ROLE_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")

KeyHolder = tuple[PublicKey, str]
"""A key and the name of who holds it."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Everything that a root says of one key."""

    key: PublicKey
    """The key."""
    name: str
    """Who holds it, 1 to 64 bytes."""
    is_owner: bool
    """Whether it counts for thresholds."""
    roles: tuple[str, ...]
    """Names of its roles, ascending; `owner` is not among them."""

    def has_role(self, role: str) -> bool:
        """Tells whether it holds a role; `owner` stands for being one."""
        return self.is_owner if role == OWNER_ROLE else role in self.roles


def check_role_name(name: str) -> str:
    """Checks a role's name: 1 to 32 of `a-z 0-9 -`, a letter first; returns it.

    Raises:
        EncodingError: it is something else.
    """
    if not _ROLE_NAME.fullmatch(name):
        raise EncodingError(f"role name {name[:80]!r} is not 1 to 32 of a-z, 0-9, '-'")
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerRoot:
    """A threshold of person keys; also the form of the governance root."""

    version: int
    """Raised by one at each rotation."""
    threshold: int
    """How many distinct owner keys must sign."""
    owners: tuple[KeyHolder, ...]
    """Keys with the name of each holder, ascending by key; names are distinct."""
    roles: tuple[tuple[str, tuple[KeyHolder, ...]], ...] = ()
    """Further roles, ascending by name, each with its keys (at least one), ascending by key."""
    extensions: Extensions = field(default_factory=dict, hash=False)
    """Unknown non-critical fields, kept because they are part of what is hashed."""

    def __post_init__(self) -> None:
        """Refuses a root that `from_value` would refuse.

        Raises:
            EncodingError: a threshold that cannot be met, unsorted or repeated keys or roles, a
                name that is bad or stands for two keys, a key under two names.
        """
        check_range(self.version, "owner root's version", minimum=1)
        if not 1 <= self.threshold <= len(self.owners) <= OWNERS_MAX:
            raise EncodingError(
                f"threshold {self.threshold} of {len(self.owners)} keys (at most {OWNERS_MAX})"
            )
        check_sorted_unique((key.raw for key, _ in self.owners), "owner keys")
        self._check_roles()
        self._check_names()
        check_extensions(self.extensions, "owner root")

    def _check_roles(self) -> None:
        if len(self.roles) > ROLES_MAX:
            raise EncodingError(f"{len(self.roles)} roles, at most {ROLES_MAX}")
        if sum(len(keys) for _, keys in self.roles) > ROLE_KEYS_MAX:
            raise EncodingError(f"roles name more than {ROLE_KEYS_MAX} keys")
        check_sorted_unique((name.encode() for name, _ in self.roles), "roles")
        for role, keys in self.roles:
            if check_role_name(role) in (OWNER_ROLE, PUBLISHER_ROLE):
                raise EncodingError(f"role name {role!r} is reserved")
            if not keys:
                raise EncodingError(f"role {role!r} has no key")
            check_sorted_unique((key.raw for key, _ in keys), f"keys of role {role!r}")

    def _check_names(self) -> None:
        """One name stands for one key, and the other way round: people approve by names."""
        names: dict[str, PublicKey] = {}
        keys: dict[PublicKey, str] = {}
        for key, name in self._entries():
            check_text(name, "owner's name", maximum=NAME_BYTES_MAX, empty=False)
            if names.setdefault(name, key) != key:
                raise EncodingError(f"two keys share a holder's name, {name!r}")
            if keys.setdefault(key, name) != name:
                raise EncodingError(f"one key has two holders' names, {name!r} is one")

    def _entries(self) -> Iterator[KeyHolder]:
        yield from self.owners
        for _, keys in self.roles:
            yield from keys

    def owner(self, key_id: bytes) -> KeyHolder | None:
        """The owner's key and name behind a key id, or None: what thresholds count."""
        return next((pair for pair in self.owners if pair[0].key_id == key_id), None)

    def holder(self, key_id: bytes) -> Holder | None:
        """Whoever stands behind a key id, owner or holder of a role, or None."""
        found = next((pair for pair in self._entries() if pair[0].key_id == key_id), None)
        if found is None:
            return None
        roles = tuple(role for role, keys in self.roles if found in keys)
        return Holder(found[0], found[1], found in self.owners, roles)

    def holders(self) -> tuple[Holder, ...]:
        """Everybody whom this root names, ascending by key."""
        every = sorted(dict.fromkeys(self._entries()))
        found = (self.holder(key.key_id) for key, _ in every)
        return tuple(holder for holder in found if holder is not None)

    def role_size(self, role: str) -> int:
        """How many keys hold a role; `owner` counts the owners."""
        if role == OWNER_ROLE:
            return len(self.owners)
        return next((len(keys) for name, keys in self.roles if name == role), 0)

    def key_ids(self) -> tuple[Digest, ...]:
        """Key ids of all owners, ascending."""
        return tuple(sorted(key.key_id for key, _ in self.owners))

    def to_value(self) -> Value:
        """The wire form; without roles it has no field for them."""
        value: dict[Key, Value] = {
            0: 1,
            1: self.version,
            2: self.threshold,
            3: [[key.to_value(), name] for key, name in self.owners],
            **self.extensions,
        }
        if self.roles:
            value[4] = [
                [role, [[key.to_value(), name] for key, name in keys]] for role, keys in self.roles
            ]
        return value

    @classmethod
    def from_value(cls, value: Value) -> OwnerRoot:
        """Reads the wire form.

        Raises:
            EncodingError: malformed, or a threshold that cannot be met.
        """
        fields = Fields(value, "owner root")
        fields.constant(0, 1)
        return cls(
            version=fields.uint(1, minimum=1),
            threshold=fields.uint(2, minimum=1, maximum=OWNERS_MAX),
            owners=fields.items(3, _read_holder, minimum=1, maximum=OWNERS_MAX),
            roles=fields.optional(
                4, lambda key: fields.items(key, _read_role, minimum=1, maximum=ROLES_MAX)
            )
            or (),
            extensions=fields.finish(),
        )


def _read_holder(value: Value) -> KeyHolder:
    key, name = as_array(value, "owner", size=2)
    if not isinstance(name, str):
        raise EncodingError("owner's name is not text")
    return PublicKey.from_value(key), name


def _read_role(value: Value) -> tuple[str, tuple[KeyHolder, ...]]:
    name, keys = as_array(value, "role", size=2)
    if not isinstance(name, str) or not isinstance(keys, (list, tuple)):
        raise EncodingError("a role is not a name and a list of keys")
    if not 1 <= len(keys) <= ROLE_KEYS_MAX:
        raise EncodingError(f"role has {len(keys)} keys, allowed are 1 to {ROLE_KEYS_MAX}")
    return name, tuple(_read_holder(key) for key in keys)
