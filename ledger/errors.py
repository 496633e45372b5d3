"""Errors of the ledger: refused transactions, refused blocks, and the fork alarm.

A transaction is refused with a stable code, the `rule` of its `PolicyError`; docs/spec/ledger.md
lists them. "Never valid" and "not yet valid" are different types, and so are they for blocks.
"""

from __future__ import annotations

from protocol.digest import BlockId
from protocol.errors import NotYetError, PolicyError, VerificationError


class LedgerError(PolicyError):
    """The transaction breaks a rule and will not become valid by waiting.

    Attributes:
        rule: stable code such as `manifest.sequence`.
    """


class LedgerNotYetError(LedgerError, NotYetError):
    """The transaction is not valid now but may become so as the chain goes on."""


class UnsupportedVersionError(LedgerNotYetError):
    """The chain has moved to a protocol version that this program does not know (E51).

    Attributes:
        rule: `chain.version`.
    """

    def __init__(self, version: int, known: int) -> None:
        super().__init__(
            "chain.version",
            f"the chain runs protocol version {version}, this program knows {known}: update swarmd",
        )


class InvalidBlockError(VerificationError):
    """The block breaks a rule and will never be valid on this chain.

    Attributes:
        block_id: the refused block.
        rule: stable code such as `block.state_root`, or that of the transaction at fault.
    """

    def __init__(self, block_id: BlockId, rule: str, message: str) -> None:
        super().__init__(f"block {block_id.hex()[:8]}: {message} [{rule}]")
        self.block_id = block_id
        self.rule = rule


class BlockNotReadyError(NotYetError):
    """The block cannot be judged yet: an ancestor is missing and must be fetched.

    Attributes:
        block_id: the block that cannot be judged.
        missing: the ancestor to fetch, or the block itself when memory for more is lacking.
    """

    def __init__(self, block_id: BlockId, missing: BlockId, message: str) -> None:
        super().__init__("block.not_ready", f"block {block_id.hex()[:8]}: {message}")
        self.block_id = block_id
        self.missing = missing


class ForkAlarmError(VerificationError):
    """A quorum of validators certified what the rules forbid; nothing of it is adopted (L33).

    Attributes:
        block_id: the certified block at fault.
        rule: the rule it breaks.
        certificate: the encoded certificate, evidence against its signers.
    """

    def __init__(self, block_id: BlockId, rule: str, message: str, certificate: bytes) -> None:
        super().__init__(f"certified block {block_id.hex()[:8]}: {message} [{rule}]")
        self.block_id = block_id
        self.rule = rule
        self.certificate = certificate
