"""Spam against a revocation: mempool and blocks are kept full by one group's gateways."""

from __future__ import annotations

from functools import partial
from typing import Final

from ledger.bodies.receipt import AnchorReceipts
from ledger.chain import Chain
from ledger.errors import LedgerError
from ledger.transition.shares import ORDINARY_COUNT_MAX
from protocol.digest import sha256
from protocol.transaction import SignedTransaction
from swarmd.simulation.attacks.attack import Attack, AttackResult, Family, at_least, at_most
from swarmd.simulation.byzantine.mempool_spammer import MempoolSpammer
from swarmd.simulation.lab import Lab, make_lab
from swarmd.simulation.lab_chain import authorise, build_next

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
    known_as="mempool flooding; state growth",
    attacker="fifty gateways of the group keep all their nonces in use with valid transactions, so"
    " that mempool and blocks are full, while owners revoke; the control waits in the same queue"
    " with an ordinary transaction",
    counter="a quarter of mempool and block is for what protects, and that comes first (Q30, Q40,"
    " Q41); signer and tenant have bounds (Q10 to Q16, Q42, Q43)",
    run=partial(_run, is_protecting=True),
    control=partial(_run, is_protecting=False),
)
"""See its fields."""
