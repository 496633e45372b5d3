"""All validators of a laboratory in one hand: certifies whatever a test wants, true or false."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ledger.block import Block, decode_block
from ledger.block_store import BlockStore, Durability
from ledger.certificate import Certificate
from ledger.chain import Chain
from ledger.records.manifest import ManifestStatus
from ledger.state_keys import manifest_key
from ledger.transition.kind import Body
from ledger.transition.kinds import kind_of
from ledger.vote import Vote, VoteKind
from protocol.catchup import Freshness, FreshnessAnswer, sign_freshness
from protocol.digest import BlockId, ManifestId
from protocol.genesis import decode_genesis
from protocol.merkle import inclusion_proof, leaf_hash, merkle_root
from protocol.transaction import Transaction, sign_transaction
from swarmd.clock import SystemClock
from swarmd.datadir import KeyName
from swarmd.running_node import RunningNode
from tests.support.swarm import GROUP, VALIDATORS, Swarm


class Forge:
    """A chain of its own, made with the validators' keys."""

    def __init__(self, lab: Swarm) -> None:
        self.lab = lab
        genesis = decode_genesis((lab.path / "genesis.cbor").read_bytes())
        self._store = BlockStore(Path(":memory:"), Durability.BATCHED)
        self.chain = Chain.open(self._store, genesis)
        self.keys = [lab.key(name, KeyName.VALIDATOR) for name in VALIDATORS]
        self._nonces: dict[str, int] = {}

    def close(self) -> None:
        self._store.close()

    def transaction(
        self, body: Body, *, by: str = "publisher-1", nonce: int | None = None
    ) -> bytes:
        """A transaction signed with a node's key."""
        if nonce is None:
            nonce = self._nonces.get(by, 0)
            self._nonces[by] = nonce + 1
        signed = sign_transaction(
            Transaction(
                era=0,
                signer=self.lab.did(by),
                nonce=nonce,
                valid_until_ms=SystemClock().wall_ms() + 3_600_000,
                kind=kind_of(body),
                body=body.to_value(),
            ),
            self.lab.key(by),
            self.lab.chain,
        )
        return signed.signed.raw

    def build(self, *bodies: Body, by: str = "publisher-1") -> Block:
        """A valid block on the head."""
        now_ms = SystemClock().wall_ms()
        for body in bodies:
            self.chain.submit(self.transaction(body, by=by), now_ms=now_ms)
        head = self.chain.head
        view = head.view + 1
        proposer = self.chain.validators.leader(view)
        block = self.chain.build(head.block_id, view=view, proposer=proposer, now_ms=now_ms)
        assert len(block.transactions) == len(bodies)
        return block

    def advance(self, *bodies: Body, by: str = "publisher-1") -> tuple[Block, Certificate]:
        """A valid block that is final here."""
        block = self.build(*bodies, by=by)
        certificate = self.certify(block)
        self.chain.commit(block.block_id, certificate)
        return block, certificate

    def certify(self, block: Block) -> Certificate:
        """A finalize certificate by a quorum, whatever the block says."""
        header = block.header
        votes = []
        for index in range(self.chain.validators.quorum):
            blank = Vote(
                VoteKind.FINALIZE, header.epoch, header.view, header.block_id, index, bytes(64)
            )
            signature = self.keys[index].sign(blank.message(self.lab.chain, 0))
            votes.append(replace(blank, signature=signature))
        return Certificate.of(votes, self.chain.validators)

    def authorise_without_owners(self, manifest: ManifestId) -> Block:
        """A block whose state root commits to an authorisation that no owner gave."""
        block = self.build()
        record = self.chain.state.manifest(manifest, GROUP)
        assert record is not None
        claimed = replace(
            record, status=ManifestStatus.AUTHORISED, authorised_height=block.header.height
        )
        tree = self.chain.state.tree.update({manifest_key(manifest, GROUP): claimed.encode()})
        return Block(replace(block.header, state_root=tree.root), (), (), ())

    def state(
        self,
        nonce: bytes,
        *,
        validators: Sequence[int] = (0, 1, 2, 3),
        height: int | None = None,
        block_id: BlockId | None = None,
    ) -> FreshnessAnswer:
        """Freshness statements about a nonce."""
        head = self.chain.head
        leaf = leaf_hash(nonce)
        statements = []
        for index in validators:
            content = Freshness(
                era=0,
                validator=index,
                epoch=head.epoch,
                height=head.height if height is None else height,
                block_id=head.block_id if block_id is None else block_id,
                nonces=merkle_root([leaf]),
                time_ms=0,
            )
            signed = sign_freshness(content, self.keys[index], self.lab.chain)
            statements.append((signed.signed.raw, 0, inclusion_proof([leaf], 0), 1))
        return FreshnessAnswer(statements=tuple(statements))

    def put(self, name: str) -> None:
        """Leaves the chain so far in the folder of a node that does not run."""
        raws, certificate = self.chain.blocks(1, 10**6)
        assert certificate is not None
        path = self.lab.directory(name).ledger / "ledger.db"
        store = BlockStore(path, Durability.FULL)
        copy = Chain.open(store, self.chain.genesis)
        copy.follow([decode_block(raw) for raw in raws], certificate)
        store.close()

    async def give(self, node: RunningNode, *runs: tuple[Block, Certificate]) -> None:
        """Has a node follow blocks as if an honest peer had delivered them."""
        chain = node.ledger.chain
        for block, certificate in runs:
            await node.ledger.run_commit(
                lambda block=block, certificate=certificate: chain.follow([block], certificate)
            )
