"""Colluding validators: hold some vote keys, up to all, and some owner keys, up to none.

Together with a publisher's stolen keys they claim that an image is authorised which too few owners
approved. With a quorum of votes they can certify any state, so that a follower sees a certified
block that breaks the rules, and a newcomer that fetches the state whole sees nothing wrong in it
but what the owners' signatures say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ledger.block import Block
from ledger.certificate import Certificate
from ledger.chain import Chain
from ledger.records.manifest import ManifestRecord, ManifestStatus
from ledger.state_keys import approval_key, group_key, manifest_key, policy_key
from ledger.state_range import make_page
from ledger.state_tree import StateTree
from ledger.vote import VoteKind
from protocol.approval import Action
from protocol.digest import Digest, ManifestId, PolicyId
from protocol.keys import PrivateKey
from protocol.merkle import EMPTY_ROOT
from protocol.state_messages import StateHeadAnswer
from swarmd.simulation.lab import FLEET, Lab, make_policy, make_root, owner_keys
from swarmd.simulation.lab_gateway import blocks_answer


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgedState:
    """A state that validators certify though no block leads to it."""

    claim: str
    """What is false in it."""
    block: Block
    """The block that commits to it."""
    certificate: Certificate
    """By as many as collude."""
    tree: StateTree
    """The state."""
    log: bytes
    """The log after the block, encoded."""
    manifests: tuple[bytes, ...]
    """Signed bytes of the manifests that the state names."""

    @property
    def run(self) -> bytes:
        """What a follower is shown."""
        return blocks_answer((self.block.encoded,), self.certificate.encode())

    @property
    def head(self) -> StateHeadAnswer:
        """What a newcomer is shown first."""
        return StateHeadAnswer(
            steps=(),
            headers=(self.block.header.encoded,),
            certificate=self.certificate.encode(),
            log=self.log,
        )

    def page(self, start: Digest) -> bytes:
        """A page of the state."""
        return make_page(self.tree, start).encode()


class ColludingValidators:
    """Forges states on top of a chain."""

    def __init__(
        self, lab: Lab, origin: Chain, *, seats: Sequence[int], owners: Sequence[PrivateKey]
    ) -> None:
        """Holds the vote keys of these seats, and these owner keys of the fleet."""
        self._lab = lab
        self._origin = origin
        self._seats = tuple(seats)
        self._owners = tuple(owners)

    def states(self, manifest: ManifestId) -> Iterator[ForgedState]:
        """Every state that says that a proposed manifest is authorised."""
        for claim, writes in self._claims(manifest).items():
            yield self._forge(claim, writes)

    def _claims(self, manifest: ManifestId) -> dict[str, dict[bytes, bytes]]:
        theirs = owner_keys("thieves")
        strangers = self._signed(manifest, theirs[:2])
        root = make_root(theirs)
        record = self._origin.state.group(FLEET)
        assert record is not None, "every lab has the fleet"
        lax = make_policy(approve_threshold=1, amend_threshold=1)
        stolen = self._signed(manifest, self._owners)
        ids = [key.public.key_id for key in self._owners]
        both = [key.public.key_id for key in theirs[:2]]
        twice = self._signed(manifest, self._owners, action=Action.REVOKE)
        return {
            "authorised by nobody": self._claim(manifest, []),
            "authorised by who was robbed": {**stolen, **self._claim(manifest, ids)},
            "signatures of strangers": {**strangers, **self._claim(manifest, both)},
            "revocations for approvals": {**twice, **self._claim(manifest, ids)},
            "other owners": {
                **strangers,
                **self._claim(manifest, both),
                group_key(FLEET): replace(record, owner_root=root).encode(),
            },
            "a lax policy under the old name": {
                **stolen,
                **self._claim(manifest, ids),
                policy_key(self._record(manifest).policy): lax.encode(),
            },
            "a lax policy of its own": {
                **stolen,
                **self._claim(manifest, ids, policy=lax.policy_id),
                policy_key(lax.policy_id): lax.encode(),
            },
        }

    def _record(self, manifest: ManifestId) -> ManifestRecord:
        record = self._origin.state.manifest(manifest, FLEET)
        assert record is not None, "the thieves proposed it"
        return record

    def _claim(
        self, manifest: ManifestId, approvers: Sequence[Digest], policy: PolicyId | None = None
    ) -> dict[bytes, bytes]:
        record = self._record(manifest)
        claimed = replace(
            record,
            status=ManifestStatus.AUTHORISED,
            authorised_height=self._origin.head.height,
            authorised_ms=self._origin.head.time_ms,
            approvers=tuple(sorted(approvers)),
            root_version=1,
            policy=policy or record.policy,
        )
        return {manifest_key(manifest, FLEET): claimed.encode()}

    def _signed(
        self, manifest: ManifestId, keys: Sequence[PrivateKey], action: Action = Action.AUTHORISE
    ) -> dict[bytes, bytes]:
        """Approvals, on record as if they were ones to authorise."""
        subject = Digest(manifest)
        return {
            approval_key(subject, Action.AUTHORISE, key.public.key_id, FLEET): self._lab.approval(
                action, subject, key
            )
            for key in keys
        }

    def _forge(self, claim: str, writes: dict[bytes, bytes]) -> ForgedState:
        head, state = self._origin.head, self._origin.state
        tree = state.tree.update(writes)
        view = head.view + 1
        header = replace(
            head,
            view=view,
            height=head.height + 1,
            parent=head.block_id,
            parent_view=head.view,
            time_ms=head.time_ms + 1000,
            proposer=self._origin.validators.leader(view),
            body_root=EMPTY_ROOT,
            log_size=state.log.size,
            log_root=state.log.root,
            state_root=tree.root,
        )
        block = Block(header)
        return ForgedState(
            claim=claim,
            block=block,
            certificate=self._certify(block),
            tree=tree,
            log=state.log.encode(),
            manifests=tuple(self._manifests()),
        )

    def _manifests(self) -> Iterator[bytes]:
        known = dict.fromkeys(manifest for manifest, _, _ in self._origin.manifest_records())
        for manifest in known:
            raw = self._origin.manifest_bytes(manifest)
            assert raw is not None, "a chain has every manifest that it names"
            yield raw

    def _certify(self, block: Block) -> Certificate:
        """A finalize certificate by those who collude, filled up with their own signatures."""
        header, quorum = block.header, self._lab.validator_set.quorum
        seats = self._seats[:quorum] or (0,)
        keys = [
            self._lab.vote(VoteKind.FINALIZE, seat, view=header.view, block_id=header.block_id)
            for seat in seats
        ]
        signatures = [vote.signature for vote in keys] if self._seats else [bytes(64)]
        missing = [seat for seat in range(len(self._lab.validators)) if seat not in seats]
        named = sorted((*seats, *missing[: quorum - len(seats)]))
        by_seat = dict(zip(seats, signatures, strict=True))
        return Certificate(
            VoteKind.FINALIZE,
            header.epoch,
            header.view,
            header.block_id,
            sum(1 << seat for seat in named).to_bytes(
                (len(self._lab.validators) + 7) // 8, "little"
            ),
            tuple(by_seat.get(seat, signatures[0]) for seat in named),
        )
