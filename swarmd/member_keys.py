"""Transport keys by my copy of the ledger: whose they are, and which follow them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.chain import Chain
from ledger.records.subject import SubjectRecord, SubjectStatus
from ledger.rules.membership import groups_of
from protocol.did import KeyPurpose, SubjectKind
from protocol.digest import BlockId, DidId
from protocol.errors import EncodingError
from protocol.keys import PublicKey
from swarmd.net.address import PeerKey

KEPT_MAX: Final = 4096
"""Keys whose answers are kept until the next block: about 4 MiB. Each costs a walk of the state."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What the newest final state says of a key."""

    did: DidId | None
    record: SubjectRecord | None
    groups: tuple[str, ...]


_NOBODY: Final = _Known(None, None, ())


class MemberKeys:
    """Looks keys up in the newest final state; answers are kept until there is a newer one."""

    def __init__(self, chain: Chain) -> None:
        """Reads `chain`."""
        self._chain = chain
        self._kept: dict[PeerKey, _Known] = {}
        self._kept_at: BlockId | None = None

    def _look_up(self, peer: PeerKey) -> _Known:
        head = self._chain.head.block_id
        if self._kept_at != head:
            self._kept_at = head
            self._kept.clear()
        known = self._kept.get(peer)
        if known is None:
            known = self._read(peer)
            if len(self._kept) >= KEPT_MAX:
                self._kept.clear()
            self._kept[peer] = known
        return known

    def _read(self, peer: PeerKey) -> _Known:
        state = self._chain.state
        try:
            did = state.holder(PublicKey(peer))
        except EncodingError:
            return _NOBODY
        record = None if did is None else state.subject(did)
        if did is None or record is None:
            return _Known(did, None, ())
        return _Known(did, record, groups_of(state, did))

    def subject(self, did: DidId) -> SubjectRecord | None:
        """A subject's record; None: there is no such subject."""
        return self._chain.state.subject(did)

    def holder(self, peer: PeerKey) -> DidId | None:
        """Who holds or once held a key; None: nobody, or it is no key at all."""
        return self._look_up(peer).did

    def member(self, peer: PeerKey) -> tuple[DidId, SubjectRecord] | None:
        """The active subject whose transport key this is now; None: there is none."""
        known = self._look_up(peer)
        if known.did is None or known.record is None:
            return None
        is_its_key = known.record.key(KeyPurpose.TRANSPORT) == PublicKey(peer)
        is_active = known.record.status is SubjectStatus.ACTIVE
        return (known.did, known.record) if is_active and is_its_key else None

    def is_enrolled(self, peer: PeerKey) -> bool:
        """Whether a key is the transport key of an active subject."""
        return self.member(peer) is not None

    def current_key(self, peer: PeerKey) -> PeerKey:
        """The transport key of whoever holds or once held this one."""
        record = self._look_up(peer).record
        key = None if record is None else record.key(KeyPurpose.TRANSPORT)
        return peer if key is None else PeerKey(key.raw)

    def is_validator(self, peer: PeerKey) -> bool:
        """Whether a key is an active validator's."""
        found = self.member(peer)
        return found is not None and found[1].kind is SubjectKind.VALIDATOR

    def groups(self, peer: PeerKey) -> tuple[str, ...]:
        """Groups of the member with this key; none for anybody else."""
        return () if self.member(peer) is None else self._look_up(peer).groups

    def are_acquainted(self, one: PeerKey, other: PeerKey) -> bool:
        """Whether two members share a group, or one of them is a validator, who serves all."""
        if self.is_validator(one) or self.is_validator(other):
            return self.is_enrolled(one) and self.is_enrolled(other)
        theirs = self.groups(other)
        return any(group in theirs for group in self.groups(one))
