"""Records what single blocks do to named states: the vectors of docs/spec/conformance.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from ledger.errors import LedgerError, LedgerNotYetError
from ledger.state import LedgerState
from ledger.transition.block import apply_block
from ledger.transition.context import BlockContext
from ledger.transition.envelope import read_transaction
from ledger.transition.kind import Body
from ledger.vote import Ed25519Verifier, Evidence
from protocol.approval import Action
from protocol.did import KeyPurpose
from protocol.transaction import SignedTransaction, sign_transaction
from tests.support.ledger import GENESIS_MS, HOUR_MS, Bench, Lab, Member, make_bench

Entry = SignedTransaction | bytes
"""A transaction, or bytes that may be none."""


@dataclass(kw_only=True)
class StoryLab(Lab):
    """A lab whose transactions fit the newest state: lowest free nonce, valid for an hour."""

    bench: Bench | None = None
    """Where nonces and time are taken from."""

    def transaction(
        self,
        signer: Member,
        body: Body,
        *,
        nonce: int | None = None,
        valid_until_ms: int | None = None,
    ) -> SignedTransaction:
        """Signs a transaction."""
        assert self.bench is not None, "a story sets its bench"
        if nonce is None:
            nonce = self.bench.state.account(signer.did).nonce
        until_ms = self.bench.time_ms + HOUR_MS
        return super().transaction(signer, body, nonce=nonce, valid_until_ms=until_ms)

    def approval(self, *arguments: Any, **options: Any) -> bytes:
        """One owner's approval, by default under the policy in force in the next block."""
        group = options.get("group", "fleet")
        assert self.bench is not None, "a story sets its bench"
        record = self.bench.state.group(group)
        if record is not None:
            options.setdefault("policy", record.policy_at(self.bench.time_ms + 1000))
        options.setdefault("valid_until_ms", GENESIS_MS + 10_000 * HOUR_MS)
        return super().approval(*arguments, **options)


class Story:
    """One genesis and the vectors that follow from it; `bench` stands at the newest state."""

    def __init__(self, name: str, **genesis: Any) -> None:
        self.name = name
        bench = make_bench(**genesis)
        values = {field.name: getattr(bench.lab, field.name) for field in fields(Lab)}
        self.lab = StoryLab(**values)
        self.bench = StoryBench(lab=self.lab, state=bench.state)
        self.lab.bench = self.bench
        self.at = "genesis"
        self.vectors: list[dict[str, Any]] = []
        self._states: dict[str, tuple[LedgerState, int, int]] = {}
        self._keep("genesis")

    def ok(self, name: str, *entries: Entry, evidence: Sequence[Evidence] = ()) -> None:
        """A block that is valid; its state is the newest one from here on."""
        vector = self._vector(name, entries, evidence)
        outcome = self.bench.execute(entries, evidence)
        self.bench.state, self.at = outcome, name
        self.bench.height += 1
        self.bench.time_ms += 1000
        self.vectors.append({**vector, "state_root": outcome.tree.root.hex()})
        self._keep(name)

    def no(self, code: str, name: str, *entries: Entry, evidence: Sequence[Evidence] = ()) -> None:
        """A block that is refused with a code; nothing changes."""
        vector = self._vector(name, entries, evidence)
        error = self._refusal(entries, evidence)
        rule = None if error is None else error.rule
        assert rule == code, f"{self.name}: {name}: {rule}, expected {code}: {error}"
        later = isinstance(error, LedgerNotYetError)
        self.vectors.append({**vector, "refused": code, "not_yet": later})

    def _refusal(
        self, entries: Sequence[Entry], evidence: Sequence[Evidence]
    ) -> LedgerError | None:
        try:
            self.bench.execute(entries, evidence)
        except LedgerError as error:
            return error
        return None

    def back(self, name: str) -> None:
        """Goes back to an earlier state."""
        self.bench.state, self.bench.height, self.bench.time_ms = self._states[name]
        self.at = name

    def wait(self, milliseconds: int) -> None:
        """Lets header time pass."""
        self.bench.time_ms += milliseconds

    def agree(
        self, action: Action, subject: bytes, count: int = 2, *, group: str = "fleet"
    ) -> tuple[bytes, ...]:
        """Approvals of the first owners of a group."""
        return self.lab.approvals(action, subject, count=count, group=group)

    def altered(self, signed: SignedTransaction, member: Member, **changes: Any) -> bytes:
        """A transaction changed and signed again."""
        transaction = replace(signed.transaction, **changes)
        key = member.key(KeyPurpose.NODE)
        return sign_transaction(transaction, key, self.lab.chain_id).signed.raw

    def document(self) -> dict[str, Any]:
        """The story as it stands in its file."""
        names = [vector["name"] for vector in self.vectors]
        twice = sorted({name for name in names if names.count(name) > 1})
        assert not twice, f"{self.name}: names of two vectors: {twice}"
        return {"genesis": self.lab.genesis.encode().hex(), "vectors": self.vectors}

    def _keep(self, name: str) -> None:
        self._states[name] = (self.bench.state, self.bench.height, self.bench.time_ms)

    def _vector(
        self, name: str, entries: Sequence[Entry], evidence: Sequence[Evidence]
    ) -> dict[str, Any]:
        return {
            "name": name,
            "on": self.at,
            "height": self.bench.height + 1,
            "time_ms": self.bench.time_ms + 1000,
            "transactions": [raw_of(entry).hex() for entry in entries],
            "evidence": [item.encoded.hex() for item in evidence],
        }


@dataclass(kw_only=True)
class StoryBench(Bench):
    """A bench that follows epochs and takes whole blocks."""

    def execute(self, entries: Sequence[Entry], evidence: Sequence[Evidence] = ()) -> LedgerState:
        """The state after a next block; raises LedgerError."""
        signed = [read_transaction(raw_of(entry)) for entry in entries]
        validators = self.state.validators(self.state.epoch().epoch)
        assert validators is not None, "each epoch has its set"
        context = BlockContext(
            chain=self.lab.chain_id,
            era=0,
            height=self.height + 1,
            time_ms=self.time_ms + 1000,
            validators=validators,
        )
        return apply_block(self.state, context, signed, evidence, Ed25519Verifier()).state


def raw_of(entry: Entry) -> bytes:
    """The bytes of an entry."""
    return entry if isinstance(entry, bytes) else entry.signed.raw
