"""Proofs for operators: about manifests, subjects, receipts, transactions and what is absent.

Every proof is made in the ledger's worker thread from one snapshot. Receipts come from this node's
own log and are proved against the root it anchored last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ledger.errors import LedgerNotYetError
from ledger.proof_make import ProofBuilder, make_core_proof, make_proof
from ledger.state_tree import KEY_BYTES_MAX
from protocol.digest import DidId, ManifestId, TransactionId
from protocol.errors import PolicyError
from swarmd.control.params import Params
from swarmd.control.protocol import JSON
from swarmd.export.tiles import checkpoint_of
from swarmd.ledger_host import LedgerHost
from swarmd.services.cosigning import Ask, CosigningService
from swarmd.services.receipts import ReceiptService

BLOCKS_BYTES_MAX: Final = 384 * 1024
"""Blocks in one answer, bytes; in hex they stay below the control socket's 2 MiB."""


class ProvingService:
    """Makes proofs on request."""

    def __init__(self, ledger: LedgerHost, receipts: ReceiptService) -> None:
        """Reads `ledger` and, for its own entries, `receipts`."""
        self._ledger = ledger
        self._receipts = receipts

    async def prove(self, reader: Params) -> JSON:
        """Answers the control method `prove`: exactly one of its subjects must be given.

        Raises:
            PolicyError: nothing of the kind, or not any more; `NotYetError` when waiting may help.
        """
        if reader.has("manifest"):
            return await self._manifest(reader)
        make = self._other(reader)
        reader.finish()
        proof = await self._ledger.run(lambda: _built(self._ledger, make))
        return self._answer(proof, {})

    async def _manifest(self, reader: Params) -> JSON:
        manifest = ManifestId(reader.hex_bytes("manifest", size=32))
        group = reader.text("group") if reader.has("group") else None
        is_core = reader.boolean("core") if reader.has("core") else False
        reader.finish()
        signed = self._ledger.manifests.get(manifest)
        if signed is None:
            raise LedgerNotYetError(
                "manifest.unknown", f"no manifest {manifest.hex()[:8]} in my ledger"
            )
        groups, state = signed.manifest.groups, self._ledger.chain.state
        known = (name for name in groups if state.manifest(manifest, name) is not None)
        chosen = group if group is not None else next(known, groups[0])
        write = make_core_proof if is_core else make_proof
        proof = await self._ledger.run(lambda: write(self._ledger.chain, manifest, chosen))
        return self._answer(proof, {"group": chosen})

    def _other(self, reader: Params) -> Callable[[ProofBuilder], None]:
        """Reads what else may be proved."""
        if reader.has("did"):
            did = DidId(reader.hex_bytes("did", size=32))
            return lambda builder: builder.add_subject(did)
        if reader.has("transaction"):
            name = TransactionId(reader.hex_bytes("transaction", size=32))
            return lambda builder: builder.add_transaction(name)
        if reader.has("absent"):
            (key,) = reader.hex_list("absent", items_max=1, bytes_max=KEY_BYTES_MAX)
            return lambda builder: _add_absent(builder, key)
        number = reader.uint("receipt")
        return lambda builder: self._receipts.add_to(builder, number)

    def _answer(self, proof: bytes, facts: dict[str, JSON]) -> JSON:
        return {
            "proof": proof.hex(),
            "height": self._ledger.chain.head.height,
            "genesis": self._ledger.chain_id.hex(),
            **facts,
        }

    async def blocks(self, reader: Params) -> JSON:
        """Answers the control method `blocks`: encoded final blocks for exports."""
        start, end = reader.uint("from", minimum=1), reader.uint("to", minimum=1)
        reader.finish()
        chain = self._ledger.chain

        def read() -> tuple[tuple[bytes, ...], int]:
            raws, _ = chain.blocks(start, BLOCKS_BYTES_MAX)
            if not raws and (header := chain.header_at(start)) is not None:
                first = chain.block(header.block_id)  # the first of an era, which is in no run
                raws = () if first is None else (first.encoded,)
            return raws, chain.first_block

        raws, first = await self._ledger.run(read)
        wanted = [raw.hex() for raw in raws[: max(0, end + 1 - start)]]
        return {"blocks": [*wanted], "height": chain.head.height, "first": first}

    async def checkpoint(self, reader: Params, cosigning: CosigningService, ask: Ask) -> JSON:
        """Answers the control method `checkpoint`: the log's head with validators' cosignatures.

        Args:
            reader: no parameters.
            cosigning: gathers them, this node's own among them if it holds a seat.
            ask: sends one request to a peer on the ledger stream.
        """
        reader.finish()
        chain = self._ledger.chain
        header, quorum = chain.head, chain.validators.quorum
        lines: list[JSON] = [line.encode() for line in await cosigning.gather(header, ask)]
        return {
            "text": checkpoint_of(header).encode(),
            "signatures": lines,
            "quorum": quorum,
            "header": header.encoded.hex(),
            "height": header.height,
        }


def _built(ledger: LedgerHost, make: Callable[[ProofBuilder], None]) -> bytes:
    builder = ProofBuilder(ledger.chain)
    make(builder)
    return builder.encode()


def _add_absent(builder: ProofBuilder, key: bytes) -> None:
    if builder.add_key(key) is not None:
        raise PolicyError("proof.present", f"the state holds a value under {key.hex()}")
