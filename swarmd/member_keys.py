"""Transport keys by my copy of the ledger: whose they are, and which follow them."""

from __future__ import annotations

from ledger.chain import Chain
from ledger.records.subject import SubjectRecord, SubjectStatus
from ledger.rules.membership import groups_of
from protocol.did import KeyPurpose, SubjectKind
from protocol.digest import DidId
from protocol.errors import EncodingError
from protocol.keys import PublicKey
from swarmd.net.address import PeerKey


class MemberKeys:
    """Looks keys up in the newest final state each time it is asked."""

    def __init__(self, chain: Chain) -> None:
        """Reads `chain`."""
        self._chain = chain

    def subject(self, did: DidId) -> SubjectRecord | None:
        """A subject's record; None: there is no such subject."""
        return self._chain.state.subject(did)

    def holder(self, peer: PeerKey) -> DidId | None:
        """Who holds or once held a key; None: nobody, or it is no key at all."""
        try:
            return self._chain.state.holder(PublicKey(peer))
        except EncodingError:
            return None

    def member(self, peer: PeerKey) -> tuple[DidId, SubjectRecord] | None:
        """The active subject whose transport key this is now; None: there is none."""
        did = self.holder(peer)
        record = None if did is None else self.subject(did)
        if did is None or record is None or record.status is not SubjectStatus.ACTIVE:
            return None
        return (did, record) if record.key(KeyPurpose.TRANSPORT) == PublicKey(peer) else None

    def is_enrolled(self, peer: PeerKey) -> bool:
        """Whether a key is the transport key of an active subject."""
        return self.member(peer) is not None

    def current_key(self, peer: PeerKey) -> PeerKey:
        """The transport key of whoever holds or once held this one."""
        did = self.holder(peer)
        record = None if did is None else self.subject(did)
        key = None if record is None else record.key(KeyPurpose.TRANSPORT)
        return peer if key is None else PeerKey(key.raw)

    def is_validator(self, peer: PeerKey) -> bool:
        """Whether a key is an active validator's."""
        found = self.member(peer)
        return found is not None and found[1].kind is SubjectKind.VALIDATOR

    def groups(self, peer: PeerKey) -> tuple[str, ...]:
        """Groups of the member with this key; none for anybody else."""
        found = self.member(peer)
        return () if found is None else groups_of(self._chain.state, found[0])

    def are_acquainted(self, one: PeerKey, other: PeerKey) -> bool:
        """Whether two members share a group, or one of them is a validator, who serves all."""
        if self.is_validator(one) or self.is_validator(other):
            return self.is_enrolled(one) and self.is_enrolled(other)
        theirs = self.groups(other)
        return any(group in theirs for group in self.groups(one))
