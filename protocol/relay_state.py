"""What the receiving and the giving side of a relay share: roles, possession, members, effects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from protocol.digest import ManifestId
from protocol.exchange_events import PeerId
from protocol.exchange_layout import Layout
from protocol.limits import RECIPE_PAGE_LEAVES
from protocol.relay_chunks import ChunkSet
from protocol.relay_estimates import Chance
from protocol.relay_events import RelayEffect, RelaySettings, SendRelay
from protocol.relay_members import HOLDING, RECEIVING, Member, MemberTable
from protocol.relay_messages import Ready, RelayControl, Role, Run
from protocol.runs import Runs


class RelayState:
    """See the module's docstring. Effects gather in `effects` until the machine returns them."""

    def __init__(
        self,
        *,
        manifest_id: ManifestId,
        own_key: PeerId,
        chunk_counts: Sequence[int],
        settings: RelaySettings,
        entropy: int,
    ) -> None:
        """Starts alone, with no recipe known."""
        self.manifest_id: Final = manifest_id
        """What is relayed."""
        self.own_key: Final = own_key
        """This node's transport key."""
        self.settings: Final = settings
        """What this node says of itself."""
        self.layout: Final = Layout(chunk_counts)
        """Numbers and lengths of chunks."""
        self.chance: Final = Chance(entropy)
        """Decides what is left to chance."""
        self.have: Final = ChunkSet()
        """Chunks verified here."""
        self.missing: Final = list(chunk_counts)
        """Chunks of each object that are not here; meaningful once the object is ready."""
        self.roles: Final[dict[int, Role]] = {}
        """This node's part for each ready object."""
        self.members: Final = MemberTable()
        """Everybody else."""
        self.has_relayed = False
        """Whether somebody seeded, here or elsewhere, since the start."""
        self.effects: list[RelayEffect] = []
        """What the host is to do."""

    # Chunks --------------------------------------------------------------------------------------

    def object_of(self, number: int) -> int:
        """The object a chunk belongs to."""
        return self.layout.component_of(number)

    def whole(self, number: int) -> Run:
        """All chunks of an object."""
        return self.layout.offset(number), self.layout.chunk_count_of(number)

    def size_of(self, run: Run) -> int:
        """Bytes of a run within one ready object."""
        number = self.object_of(run[0])
        start = run[0] - self.layout.offset(number)
        return self.layout.bytes_of(number, Runs(((start, run[1]),)))

    def object_bytes(self, number: int) -> int:
        """Bytes of a ready object."""
        return self.size_of(self.whole(number))

    def split(self, run: Run) -> Iterable[tuple[int, Run]]:
        """Cuts a run where objects end: (object, part)."""
        first, count = run
        while count:
            number = self.object_of(first)
            start, size = self.whole(number)
            part = min(count, start + size - first)
            yield number, (first, part)
            first, count = first + part, count - part

    def learn(self, number: int, lengths: Sequence[int], held: int) -> None:
        """Notes an object's recipe and what is held of it."""
        for page in range(self.layout.page_count(number)):
            start = page * RECIPE_PAGE_LEAVES
            self.layout.learn_page(number, page, lengths[start : start + RECIPE_PAGE_LEAVES])
        first, count = self.whole(number)
        self.have.remove(first, count)
        self.have.add(first, count, held)
        self.missing[number] = count - held.bit_count()

    # Roles ---------------------------------------------------------------------------------------

    def receives(self, number: int) -> bool:
        """Whether pushes of an object are welcome here."""
        return self.roles.get(number) in RECEIVING

    def holds(self, number: int) -> bool:
        """Whether every chunk of an object is here."""
        return self.roles.get(number) in HOLDING

    def set_role(self, number: int, role: Role | None) -> None:
        """Changes this node's part and tells everybody."""
        if self.roles.get(number) is role:
            return
        if role is None:
            del self.roles[number]
        else:
            self.roles[number] = role
        for member in self.members:
            self.tell_ready(member)

    def tell_ready(self, member: Member) -> None:
        """Tells a member this node's part."""
        for number in self.roles:
            if self.receives(number):
                member.told_ready[number] = None
        self.send(
            member,
            Ready(
                manifest_id=self.manifest_id,
                roles=tuple(sorted(self.roles.items())),
                is_leaf=self.settings.is_leaf,
                site=self.settings.site,
            ),
        )

    def is_near(self, member: Member) -> bool:
        """Whether a member is not known to be in another site."""
        return member.site in (b"", self.settings.site)

    def send(self, member: Member, message: RelayControl) -> None:
        """Sends a message."""
        self.effects.append(SendRelay(peer=member.peer, message=message))
