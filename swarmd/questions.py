"""The vocabulary of the one question: may SUBJECT do ACTION on OBJECT?

Subjects and actions are typed, so that a question that makes no sense does not pass for one that
was answered. `swarmd.authority` answers; nobody else does.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ledger.offer import Device
from protocol.authorised import AuthorisedManifest
from protocol.digest import DidId, ManifestId
from protocol.errors import NotYetError, PolicyError
from swarmd.net.address import PeerKey

# -- subjects -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ThisNode:
    """The node that asks itself."""


@dataclass(frozen=True, slots=True)
class PeerSubject:
    """A peer by its transport key."""

    key: PeerKey
    """Proven by the handshake."""


@dataclass(frozen=True, slots=True)
class MemberSubject:
    """A subject of the ledger, connected or not."""

    did: DidId
    """Who."""


@dataclass(frozen=True, slots=True)
class DeviceSubject:
    """A device behind this node."""

    device: Device
    """What is known of it."""


@dataclass(frozen=True, slots=True)
class OperatorSubject:
    """A process on this machine that opened the control socket."""

    uid: int
    """Its user id, as the kernel tells."""


Subject = ThisNode | PeerSubject | MemberSubject | DeviceSubject | OperatorSubject
"""Who may be asked about."""


# -- actions ------------------------------------------------------------------------------------


class ImageAct(Enum):
    """Actions on the images of a manifest; a permit rests on its authorisation."""

    FETCH = "fetch"
    """This node fetches and stores them."""
    SERVE = "serve"
    """A peer is sent recipes and chunks, or told which are here."""
    TAKE = "take"
    """This node tells a peer that it wants them, and takes its chunks."""
    OFFER = "offer"
    """A device is offered them."""


class Access(Enum):
    """Actions that rest on standing alone."""

    STAGE = "stage"
    """A peer looks at the images of a manifest that waits for approval; object: the manifest."""
    PUBLISH = "publish"
    """A peer, or this node, proposes for a product; object: `Line`."""
    READ_LEDGER = "read-ledger"
    """A peer reads the ledger."""
    RELAY = "relay"
    """A peer passes on a group's announcements; object: the group."""
    SEAL = "seal"
    """A member makes rings for a group, and seals images for it; object: the group."""
    READ_RING = "read-ring"
    """A peer, or a member, is given a group's rings and what they open; object: the group."""
    OPERATE = "operate"
    """An operator uses the control socket."""


@dataclass(frozen=True, slots=True)
class Line:
    """A product in a group."""

    group: str
    """The group."""
    product: str
    """The product."""


Object = ManifestId | Line | str | None
"""What an action is about: a manifest, a product in a group, a group's name, or nothing."""


# -- answers ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Permit:
    """Yes, resting on this authorisation."""

    authorised: AuthorisedManifest
    """What was checked."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """Yes, resting on the subject's standing."""

    reason: str
    """For people and receipts, such as `capability` or `member`."""


@dataclass(frozen=True, slots=True)
class Denial:
    """No."""

    rule: str
    """Stable name of the rule, such as `manifest.revoked`."""
    message: str
    """For people."""
    may_retry: bool = False
    """Whether waiting may help."""

    def error(self) -> PolicyError:
        """The same as an error."""
        return (NotYetError if self.may_retry else PolicyError)(self.rule, self.message)


Verdict = Permit | Denial
"""Answers about images."""
Answer = Allowed | Denial
"""Answers about access."""
