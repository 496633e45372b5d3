"""Rollback mirror: keeps everything that was ever true, and says it again.

It holds no key. All it sends was genuine once: runs of blocks with their certificates, statements
of freshness, transactions that owners and publishers signed.
"""

from __future__ import annotations

from protocol.catchup import FreshnessAnswer


class RollbackMirror:
    """Remembers and repeats."""

    def __init__(self) -> None:
        """Knows nothing yet."""
        self.runs: list[bytes] = []
        """Answers with final blocks, in the order in which they became final."""
        self.statements: list[FreshnessAnswer] = []
        """Answers of validators about nonces of others, or of the same gateway before."""
        self.transactions: list[bytes] = []
        """Signed transactions."""

    def hear(
        self,
        *,
        run: bytes | None = None,
        statement: FreshnessAnswer | None = None,
        transaction: bytes | None = None,
    ) -> None:
        """Notes what passes by."""
        if run is not None:
            self.runs.append(run)
        if statement is not None:
            self.statements.append(statement)
        if transaction is not None:
            self.transactions.append(transaction)
