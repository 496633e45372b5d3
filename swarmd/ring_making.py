"""Makes ring files: a publisher's own, for a group, with a wrap for each member.

The first version of a generation draws a content key; later versions carry the old wraps over and
add members. Taking somebody out draws a new key, generation by generation: whoever had the old one
may have kept it, and every image sealed under it (Z18, Z19).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from protocol.digest import ChainId, DidId
from protocol.errors import PolicyError
from protocol.keys import Signer
from protocol.sealing import CONTENT_KEY_BYTES, ContentKey, RingName
from protocol.sealing_ring import (
    RingFile,
    RingMember,
    SealingKeyStatement,
    SignedRing,
    ring_members,
    sign_ring,
)
from swarmd.entropy import Entropy
from swarmd.keys.sealing_key import wrap_key


@dataclass(frozen=True, slots=True, kw_only=True)
class RingPlan:
    """What a publisher wants of a ring."""

    group: str
    """For whose members."""
    adds: tuple[SealingKeyStatement, ...] = ()
    """Members to wrap to, their statements verified; one who is there already gets the new key."""
    removes: tuple[DidId, ...] = ()
    """Members to leave out; the ring goes into a new generation then."""
    is_new: bool = False
    """A new generation although nobody leaves."""


class RingMaker:
    """Makes the rings of one publisher."""

    def __init__(
        self, *, chain: ChainId, did: DidId, person_key: Signer, own: bytes, entropy: Entropy
    ) -> None:
        """Names the maker.

        Args:
            chain: the chain.
            did: the publisher.
            person_key: signs ring files.
            own: its own public sealing key: it is a member of each of its rings.
            entropy: draws content keys.
        """
        self.did: Final = did
        """The publisher."""
        self._chain = chain
        self._person_key = person_key
        self._own = own
        self._entropy = entropy

    def make(
        self, plan: RingPlan, before: SignedRing | None, key: ContentKey | None, *, era: int
    ) -> SignedRing:
        """Makes the next file of a group's ring.

        Args:
            plan: what it shall be.
            before: the newest file so far; None: this is the first.
            key: the content key of `before`; may be None if the plan asks for a new generation.
            era: current era.

        Raises:
            PolicyError: somebody to be removed is no member, or the publisher itself; nothing
                would change; or the old content key is not at hand.
            EncodingError: too many members, or one whose key would open the wrap for anybody.
        """
        kept = () if before is None else before.file.members
        if strangers := set(plan.removes) - {member.did for member in kept}:
            raise PolicyError("sealing.member", f"{min(strangers).hex()[:8]} is no member")
        if self.did in plan.removes:
            raise PolicyError("sealing.member", "the publisher is a member of each of its rings")
        if before is None or plan.is_new or plan.removes:
            generation = 1 if before is None else before.file.generation + 1
            return self._first(plan, kept, generation, era)
        return self._next(plan, before, key, era)

    def _first(
        self, plan: RingPlan, kept: Sequence[RingMember], generation: int, era: int
    ) -> SignedRing:
        name = RingName(
            chain=self._chain, publisher=self.did, group=plan.group, generation=generation
        )
        key = ContentKey(self._entropy.token(CONTENT_KEY_BYTES), name)
        keys = {member.did: member.key for member in kept if member.did not in plan.removes}
        keys.update((one.did, one.key) for one in plan.adds)
        keys[self.did] = self._own
        members = [wrap_key(key, did, public) for did, public in keys.items()]
        return self._sign(key, members, version=1, era=era)

    def _next(
        self, plan: RingPlan, before: SignedRing, key: ContentKey | None, era: int
    ) -> SignedRing:
        if key is None:
            raise PolicyError(
                "sealing.key", "this node cannot open its own ring: make a new generation"
            )
        members = {member.did: member for member in before.file.members}
        wanted = {one.did: one.key for one in plan.adds}
        changed = {
            did: public
            for did, public in wanted.items()
            if did not in members or members[did].key != public
        }
        if not changed:
            raise PolicyError("sealing.unchanged", "all of them are members of the ring already")
        members.update((did, wrap_key(key, did, public)) for did, public in changed.items())
        return self._sign(key, list(members.values()), version=before.file.version + 1, era=era)

    def _sign(
        self, key: ContentKey, members: Sequence[RingMember], *, version: int, era: int
    ) -> SignedRing:
        file = RingFile(
            era=era,
            publisher=self.did,
            group=key.name.group,
            generation=key.name.generation,
            version=version,
            check=key.check(),
            members=ring_members(members),
        )
        return sign_ring(file, self._person_key, self._chain)
