"""Spam against a revocation: mempool and blocks are kept full by one group's gateways."""

from __future__ import annotations

from functools import partial
from typing import Final

from ledger.bodies.receipt import AnchorReceipts
from ledger.chain import Chain
from ledger.errors import LedgerError
from ledger.records.tenant import TenantRecord
from ledger.state import LedgerState
from ledger.state_keys import tenant_key
from ledger.transition.shares import ORDINARY_COUNT_MAX, TENANT_STATE_BYTES_MAX
from protocol.digest import sha256
from protocol.transaction import SignedTransaction
from swarmd.simulation.attacks.attack import Attack, AttackResult, Family, at_least, at_most
from swarmd.simulation.byzantine.mempool_spammer import MempoolSpammer
from swarmd.simulation.lab import FLEET, Lab, make_lab
from swarmd.simulation.lab_chain import authorise, build_next, make_bench

_SPAMMERS: Final = 50
"""With 16 nonces each they would have 800 transactions wait: more than their tenant may."""
_ROUNDS: Final = 2
_BLOCKS_MAX: Final = 1
_GIVEN_UP: Final = 3
"""Blocks after which a transaction is taken for one that does not come through."""


class _Flooded:
    """A chain whose blocks are full of one group's transactions."""

    def __init__(self) -> None:
        self.lab: Lab = make_lab(gateways=1 + _SPAMMERS)
        self.origin: Chain = self.lab.open_chain()
        self.release = self.lab.manifest()
        authorise(self.lab, self.origin, self.release)
        self.spammer = MempoolSpammer(self.lab, self.lab.gateways[1:])
        self.attempts = self.full_blocks = self.blocks = 0

    def spam(self) -> None:
        """Hands in whatever the spammers have."""
        now_ms = self.origin.head.time_ms + 1000
        for signed in self.spammer.transactions(self.origin):
            self.attempts += 1
            try:
                self.origin.submit(signed.signed.raw, now_ms=now_ms)
            except LedgerError:
                continue

    def block(self) -> tuple[bytes, ...]:
        """The next final block, while the spam goes on; its transactions."""
        block = build_next(self.origin)
        self.origin.commit(block.block_id, self.lab.certificate(block))
        self.blocks += 1
        self.full_blocks += len(block.transactions) >= ORDINARY_COUNT_MAX
        self.spam()
        return block.transactions

    def wait(self, signed: SignedTransaction) -> float:
        """In which block a transaction is final that is handed in now; infinite: in none."""
        try:
            self.origin.submit(signed.signed.raw, now_ms=self.origin.head.time_ms + 1000)
        except LedgerError:
            return float("inf")
        for number in range(1, _GIVEN_UP + 1):
            if signed.signed.raw in self.block():
                return number
        return float("inf")


def _run(_seed: int, *, is_protecting: bool) -> AttackResult:
    world = _Flooded()
    world.spam()
    for _ in range(_ROUNDS):
        world.block()
    body = AnchorReceipts(size=1, root=sha256(b"honest"))
    signed = (
        world.lab.revoke(world.release.manifest_id)
        if is_protecting
        else world.lab.transaction(world.lab.gateways[0], body)
    )
    blocks = world.wait(signed)
    verdicts = (
        at_most("blocks until the revocation is final", _BLOCKS_MAX, blocks),
        at_least("blocks full of spam", world.blocks - 1, world.full_blocks),
    )
    return AttackResult(verdicts=verdicts, attempts=world.attempts)


SPAM: Final = Attack(
    name="spam-against-revocation",
    family=Family.AUTHORITY,
    known_as="mempool flooding",
    attacker="fifty gateways of the group keep all their nonces in use with valid transactions, so"
    " that mempool and blocks are full, while owners revoke; the control waits in the same queue"
    " with an ordinary transaction",
    counter="a quarter of mempool and block is for what protects, and that comes first (Q30, Q40,"
    " Q41); signer and tenant have bounds (Q10 to Q16, Q42, Q43)",
    run=partial(_run, is_protecting=True),
    control=partial(_run, is_protecting=False),
)
"""See its fields."""


# State growth -------------------------------------------------------------------------------------

_SLACK_BYTES: Final = 1500
"""What the group may still add."""
_WRITERS: Final = 40


class _Grown:
    """A state in which the gateways of a group have nearly used up what they may add for good."""

    def __init__(self, *, is_used_up: bool) -> None:
        self.bench = make_bench(gateways=_WRITERS)
        self.lab = self.bench.lab
        self.release = self.lab.manifest()
        self.bench.apply(self.lab.propose(self.release))
        self.bench.apply(self.lab.approve(self.release.manifest_id))
        if is_used_up:
            used = TenantRecord(state_bytes=TENANT_STATE_BYTES_MAX - _SLACK_BYTES)
            state = self.bench.state
            tree = state.tree.update({tenant_key(FLEET): used.encode()})
            self.bench.state = LedgerState(tree, state.log)
        self.before = self._bytes()

    def _bytes(self) -> int:
        return self.bench.state.tenant(FLEET).state_bytes

    @property
    def added_bytes(self) -> int:
        """State that the group's gateways have added since."""
        return self._bytes() - self.before

    def tries(self, signed: SignedTransaction) -> bool:
        """Whether a transaction is accepted in a block of its own."""
        try:
            self.bench.apply(signed)
        except LedgerError:
            self.lab.nonces[signed.transaction.signer] = signed.transaction.nonce
            return False
        return True


def _run_growth(_seed: int, *, is_used_up: bool) -> AttackResult:
    world, tries = _Grown(is_used_up=is_used_up), 0
    spammer = MempoolSpammer(world.lab, world.lab.gateways)
    for signed in spammer.first_anchors():
        world.tries(signed)
        tries += 1
    added_bytes = world.added_bytes  # what protects may add, it is bounded by what it needs (Q3)
    other = world.lab.manifest(sequence=2, image=b"of a tenant of its own")
    is_proposed = world.tries(world.lab.propose(other))
    is_revoked = world.tries(world.lab.revoke(world.release.manifest_id))
    verdicts = (
        at_most("state added beyond the share", _SLACK_BYTES, added_bytes, "B"),
        at_least("others still write", 1, is_proposed),
        at_least("revocation accepted", 1, is_revoked),
    )
    return AttackResult(verdicts=verdicts, attempts=tries)


STATE_GROWTH: Final = Attack(
    name="state-growth",
    family=Family.AUTHORITY,
    known_as="state growth, dust",
    attacker="forty gateways of a group that has added nearly 256 MiB of state go on adding; in the"
    " control they begin with nothing used up",
    counter="a tenant's state is counted for good and bounded (Q16); what adds none and what"
    " protects passes, and other tenants have their own (Q1, Q3)",
    run=partial(_run_growth, is_used_up=True),
    control=partial(_run_growth, is_used_up=False),
)
"""See its fields."""
