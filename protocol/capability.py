"""Capabilities: what owners of a group let one subject do, in what scope, until when.

Membership is the rule, a capability the exception: it lets a subject do a listed thing in a group,
for all of it, for one product or for one manifest, until a header time. Verbs are a closed list;
roles are names for sets of verbs and exist for people only, the ledger knows verbs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Final

from protocol.digest import DidId, Digest, ManifestId, tagged_digest
from protocol.encoding import (
    Fields,
    Value,
    check_identifier,
    check_range,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError
from protocol.group import check_group_name

CAPABILITY_TAG: Final = "swarmd/capability/1"
"""Domain of capability ids."""
CAPABILITY_BYTES_MAX: Final = 512
"""Encoded capability; one with the longest names takes about 250 bytes."""


class Verb(IntEnum):
    """What a capability may allow; the numbers are on the wire."""

    PUBLISH = 1
    """Propose manifests."""
    FETCH = 2
    """Be served recipes and chunks."""
    SERVE = 3
    """Have its chunks taken by members."""
    READ_LEDGER = 4
    """Read the ledger, as members may."""
    OPERATE = 5
    """Operate nodes of the group by the keys of its record."""
    APPROVE_STAGING = 6
    """Be served images that wait for approval."""
    RELAY = 7
    """Pass on the group's announcements."""


ROLES: Final[Mapping[str, tuple[Verb, ...]]] = MappingProxyType(
    {
        "publisher": (Verb.PUBLISH, Verb.SERVE),
        "mirror": (Verb.FETCH, Verb.SERVE, Verb.READ_LEDGER, Verb.RELAY),
        "auditor": (Verb.READ_LEDGER,),
        "approver": (Verb.FETCH, Verb.APPROVE_STAGING),
        "operator": (Verb.READ_LEDGER, Verb.OPERATE),
    }
)
"""Names that people may grant; what is signed are the verbs."""


def verbs_of(names: tuple[str, ...]) -> tuple[Verb, ...]:
    """Reads names of verbs (`read-ledger`) and roles; gives the verbs, ascending.

    Raises:
        EncodingError: a name is neither, or there is none.
    """
    known = {verb.name.lower().replace("_", "-"): (verb,) for verb in Verb}
    found: dict[Verb, None] = {}
    for name in names:
        verbs = ROLES.get(name) or known.get(name)
        if verbs is None:
            raise EncodingError(f"{name[:40]!r} is no role and no verb of a capability")
        found.update(dict.fromkeys(verbs))
    if not found:
        raise EncodingError("a capability needs at least one verb")
    return tuple(sorted(found))


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """What owners allow one subject."""

    subject: DidId
    """Whom."""
    group: str
    """In which group; its owners grant."""
    verbs: tuple[Verb, ...]
    """What, ascending, at least one."""
    product: str | None = None
    """Only for this product; None: for all."""
    manifest: ManifestId | None = None
    """Only for this manifest; None: for all."""
    expires_ms: int
    """Header time after which it is void, milliseconds."""
    issue: int = 0
    """Tells it from an equal one that was withdrawn; any number its owners choose."""

    def __post_init__(self) -> None:
        """Refuses what `decode_capability` would refuse.

        Raises:
            EncodingError: no verb, verbs unsorted or repeated, a bad name, a scope of both kinds.
        """
        check_group_name(self.group)
        if not self.verbs or list(self.verbs) != sorted(set(self.verbs)):
            raise EncodingError("capability: verbs are not an ascending list of at least one")
        if self.product is not None:
            check_identifier(self.product, "capability's product")
        if self.product is not None and self.manifest is not None:
            raise EncodingError("capability: scope is a product or a manifest, not both")
        check_range(self.expires_ms, "capability's expiry")
        check_range(self.issue, "capability's issue")

    @property
    def capability_id(self) -> Digest:
        """Digest that GRANT and WITHDRAW approvals name."""
        return tagged_digest(CAPABILITY_TAG, self.encode())

    def covers(self, verb: Verb, *, product: str, manifest: ManifestId | None) -> bool:
        """Whether it allows a verb on a manifest of a product, apart from its expiry."""
        return (
            verb in self.verbs
            and self.product in (None, product)
            and self.manifest in (None, manifest)
        )

    def encode(self) -> bytes:
        """Canonical bytes."""
        return encode_canonical(
            {
                0: 1,
                1: self.subject,
                2: self.group,
                3: [int(verb) for verb in self.verbs],
                4: self.product,
                5: self.manifest,
                6: self.expires_ms,
                7: self.issue,
            }
        )


def decode_capability(data: bytes) -> Capability:
    """Reads a capability.

    Raises:
        EncodingError: malformed, an unknown verb, or a field that this version does not know.
    """
    fields = Fields(decode_canonical(data, bytes_max=CAPABILITY_BYTES_MAX), "capability")
    fields.constant(0, 1)
    capability = Capability(
        subject=DidId(fields.digest(1)),
        group=fields.name(2),
        verbs=fields.items(3, _read_verb, minimum=1, maximum=len(Verb)),
        product=None if fields.value(4) is None else fields.identifier(4),
        manifest=None if fields.value(5) is None else ManifestId(fields.digest(5)),
        expires_ms=fields.uint(6),
        issue=fields.uint(7),
    )
    if fields.finish():
        raise EncodingError("capability: extensions are not allowed")
    return capability


def _read_verb(value: Value) -> Verb:
    if isinstance(value, bool) or not isinstance(value, int):
        raise EncodingError("capability: a verb is not a number")
    try:
        return Verb(value)
    except ValueError:
        raise EncodingError(f"capability: unknown verb {value}") from None
