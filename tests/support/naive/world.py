"""State as one dict, what a block knows, and what every rule asks of both."""

from __future__ import annotations

from typing import Any

from tests.support.naive.cbor import INTEGER_MAX, Malformed, decode, encode
from tests.support.naive.crypto import Signed, key_id, tagged
from tests.support.naive.forms import digest, fields, group_name, one, uint, whole
from tests.support.naive.objects import read_policy
from tests.support.naive.rules import Facts, truth

APPROVAL = fields({0: one, 1: uint, 2: whole(1, 27), 3: digest, 4: group_name, 5: digest, 6: uint})
GOVERNANCE = "governance"
ZERO = bytes(32)


class Refused(Exception):
    """A refusal; `code` is stable, `later` tells that the same bytes may become valid."""

    def __init__(self, code: str, *, later: bool = False) -> None:
        super().__init__(code)
        self.code, self.later = code, later


def known(record: Any, code: str) -> dict[int, Any]:
    """A record that exists; else not yet."""
    if record is None:
        raise Refused(code, later=True)
    return dict(record)


def check(condition: object, code: str, *, later: bool = False) -> None:
    """Refuses unless a condition holds."""
    if not condition:
        raise Refused(code, later=later)


def name_key(*parts: bytes | str) -> bytes:
    """A state key of its parts."""
    return b"".join(part.encode() if isinstance(part, str) else part for part in parts)


class World:
    """One block's view of the state; transactions work on copies."""

    def __init__(
        self, store: dict[bytes, bytes], *, chain: bytes, era: int, height: int, now: int
    ) -> None:
        self.store, self.chain, self.era = store, chain, era
        self.height, self.now = height, now

    def copy(self) -> World:
        """The same with a state of its own."""
        return World(
            dict(self.store), chain=self.chain, era=self.era, height=self.height, now=self.now
        )

    def get(self, *parts: bytes | str) -> Any:
        """A decoded record, or None."""
        raw = self.store.get(name_key(*parts))
        return None if raw is None else decode(raw, 16_384)

    def put(self, value: Any, *parts: bytes | str) -> None:
        """Writes a record."""
        self.store[name_key(*parts)] = encode(value)

    def after(self, milliseconds: int) -> int:
        """A later header time; none is above 2^63 - 1."""
        return min(self.now + milliseconds, INTEGER_MAX)

    # ---- subjects

    def subject(self, did: bytes) -> Any:
        """A subject's record, or None."""
        return self.get("d/", did)

    def node_key(self, did: bytes, purpose: int = 2) -> bytes | None:
        """The current key for one purpose."""
        for number, (_, public) in (self.subject(did) or {3: []})[3]:
            if number == purpose:
                return bytes(public)
        return None

    def holder(self, public: bytes) -> bytes | None:
        """Who holds or once held a key."""
        return self.store.get(b"k/" + public)

    # ---- groups

    def group(self, name: str) -> Any:
        """A group's record; not there: not yet."""
        return known(self.get("g/", name), "group.unknown")

    def policy_id(self, group: str) -> bytes:
        """The policy in force (L20, L22)."""
        record = self.group(group)
        scheduled = record[3]
        return bytes(scheduled[0] if scheduled and self.now >= scheduled[1] else record[2])

    def policy(self, policy_id: bytes) -> dict[int, Any]:
        """A policy by its id."""
        return read_policy(self.store[b"p/" + policy_id])

    def in_force(self, group: str) -> dict[int, Any]:
        """The policy in force."""
        return self.policy(self.policy_id(group))

    def root(self, group: str) -> Any:
        """The owner root in force."""
        return self.group(group)[1]

    def placement(self, group: str) -> Any:
        """Parent and selector."""
        return self.get("gp/", group) or {0: 1}

    def ancestors(self, group: str) -> list[str]:
        """Parent, its parent, and so on."""
        found: list[str] = []
        above = self.placement(group).get(1)
        while above is not None:
            found.append(above)
            above = self.placement(above).get(1)
        return found

    def children(self, group: str) -> list[str]:
        """Groups below one; of "": those without parent that have a selector."""
        record = self.get("gc/", group)
        return list(record[1]) if record else []

    def attributes(self, did: bytes, group: str) -> dict[str, str]:
        """Attributes that count in a group (K64)."""
        found: dict[str, str] = {}
        for name in [group, *self.ancestors(group)]:
            record = self.get("at/", did, name)
            for attribute, value in record[2] if record else []:
                found.setdefault(attribute, value)
        return found

    def is_selected(self, did: bytes, group: str) -> bool:
        """Whether a group's selector is true for a subject."""
        rule = self.placement(group).get(2)
        if rule is None:
            return False
        values: dict[int, list[Any]] = {}
        for name, value in self.attributes(did, group).items():
            if name in ("vendor", "class", "region"):
                values[{"vendor": 32, "class": 33, "region": 35}[name]] = [value]
            elif name == "hardware_revision":
                plain = value.isascii() and value.isdigit() and len(value) <= 18
                if plain and (value == "0" or value[0] != "0"):
                    values[34] = [int(value)]
            elif name.startswith("tag:"):
                values.setdefault(36, []).append(name[4:])
        return truth(rule, Facts(values)) is True

    def groups_of(self, did: bytes) -> set[str]:
        """All groups that a subject belongs to (K60)."""
        record = self.subject(did)
        found = set(record[5]) if record else set()
        for name in list(found):
            found.update(self.ancestors(name))
        waiting = ["", *sorted(found)]
        while waiting:
            for child in self.children(waiting.pop()):
                if child not in found and self.is_selected(did, child):
                    found.add(child)
                    waiting.append(child)
        return found

    # ---- epochs

    def epoch(self) -> Any:
        """The epoch's record."""
        return self.get("c/epoch")

    def seats(self) -> list[Any]:
        """The validators of this epoch: [did, key or null]."""
        return list(self.validators(self.epoch()[1])[2])

    def validators(self, epoch: int) -> Any:
        """The validator set of an epoch."""
        return self.get("v/", epoch.to_bytes(8, "big"))

    def is_seated(self, did: bytes) -> bool:
        """Whether a subject is a validator now."""
        return any(seat[0] == did for seat in self.seats())

    # ---- approvals (L42)

    def accept(
        self,
        raws: list[bytes],
        action: int,
        subject: bytes,
        group: str,
        policy: bytes,
        keys: set[bytes],
    ) -> dict[bytes, bytes]:
        """Checks approvals and gives the bytes by public key; refuses by the first that is unfit.

        `keys` are the public keys that may sign.
        """
        found: dict[bytes, bytes] = {}
        ids = {key_id(public): public for public in keys}
        for raw in raws:
            try:
                signed = Signed(raw, 512)
                content = APPROVAL(signed.content)
            except Malformed as error:
                raise Refused("approval.malformed") from error
            check(content[1] == self.era, "approval.era")
            check(content[2] == action, "approval.action")
            check(content[3] == subject, "approval.subject")
            check(content[4] == group, "approval.group")
            check(content[5] == policy, "approval.policy")
            check(content[6] >= self.now, "approval.expired")
            check(signed.key_id in ids, "approval.owner")
            public = ids[signed.key_id]
            good = signed.is_by(public, "swarmd/approval/1", self.chain, self.era)
            check(good, "approval.signature")
            check(public not in found, "approval.duplicate")
            found[public] = raw
        return found

    def check_newer(
        self, found: dict[bytes, bytes], action: int, subject: bytes, group: str
    ) -> None:
        """K18 and I40."""
        for public, raw in found.items():
            before = self.store.get(self._approval_key(subject, action, public, group))
            if before is not None:
                until = Signed(before, 512).content[6]
                check(Signed(raw, 512).content[6] > until, "approval.used")

    def _approval_key(self, subject: bytes, action: int, public: bytes, group: str) -> bytes:
        return name_key("ap/", subject, bytes([action]), key_id(public), group)

    def has_approved(self, subject: bytes, action: int, public: bytes, group: str) -> bool:
        """Whether an approval is on record."""
        return self._approval_key(subject, action, public, group) in self.store

    def note(self, found: dict[bytes, bytes], action: int, subject: bytes, group: str) -> None:
        """Writes accepted approvals under `ap/`."""
        for public, raw in found.items():
            self.store[self._approval_key(subject, action, public, group)] = raw

    def agree(
        self,
        raws: list[bytes],
        action: int,
        subject: bytes,
        group: str,
        threshold: int,
        *,
        fresh: bool = False,
        noted: bool = True,
    ) -> dict[bytes, bytes]:
        """As many owners of a group as asked, under the policy in force; notes them."""
        keys = {public for (_, public), _ in self.root(group)[3]}
        found = self.accept(raws, action, subject, group, self.policy_id(group), keys)
        check(len(found) >= threshold, "approval.threshold")
        if fresh:
            self.check_newer(found, action, subject, group)
        if noted:
            self.note(found, action, subject, group)
        return found

    def govern(
        self,
        raws: list[bytes],
        action: int,
        subject: bytes,
        *,
        group: str = GOVERNANCE,
        policy: bytes = ZERO,
        once: bool = True,
        noted: bool = True,
    ) -> dict[bytes, bytes]:
        """The governance root's threshold (G1, G2); notes them."""
        root = self.get("c/governance")
        keys = {public for (_, public), _ in root[3]}
        found = self.accept(raws, action, subject, group, policy, keys)
        check(len(found) >= root[2], "approval.threshold")
        if once:
            self.check_newer(found, action, subject, group)
        if noted:
            self.note(found, action, subject, group)
        return found


def digest_of(tag: str, value: Any) -> bytes:
    """A tagged digest over a canonical value."""
    return tagged(tag, encode(value))
