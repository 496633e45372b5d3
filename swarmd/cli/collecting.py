"""Collecting signatures where one owner is not enough: a file that goes from hand to hand.

Each line is one signed approval in hex. Lines about something else are left out: the ledger may
have moved on since they were signed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from protocol.approval import APPROVAL_BYTES_MAX, Approval, parse_approval, sign_approval
from protocol.digest import ChainId
from protocol.errors import ConfigError, EncodingError, NotYetError, StorageError
from protocol.group import OWNERS_MAX
from protocol.keys import Signer

COLLECTED_BYTES_MAX: Final = 2 * (APPROVAL_BYTES_MAX + 1) * OWNERS_MAX
"""Longest file: 32 approvals in hex, one on each line."""


def collect(
    approval: Approval, key: Signer, chain: ChainId, *, path: Path | None, needed: int
) -> tuple[bytes, ...]:
    """Signs an approval and adds those of others that say the same.

    Args:
        approval: what the holder of `key` agrees to.
        key: whose signature is added.
        chain: the chain.
        path: file with others' approvals, to which this one is added; None: there is none.
        needed: how many it takes.

    Returns:
        All of them, this one last.

    Raises:
        NotYetError: `approval.threshold`: fewer than needed; the file has them all.
        ConfigError: the file is something else.
        StorageError: it cannot be read or written.
    """
    own = sign_approval(approval, key, chain).signed
    said = _content(approval)
    others = [
        raw
        for raw in _read(path)
        if _content(parse_approval(raw).approval) == said
        and parse_approval(raw).signed.key_id != own.key_id
    ]
    approvals = (*others, own.raw)
    if path is not None:
        _write(path, approvals)
    if len(approvals) < needed and path is not None:
        raise NotYetError(
            "approval.threshold",
            f"{len(approvals)} of {needed} signatures are in {path}: pass it to the next owner",
        )
    return approvals


def _content(approval: Approval) -> tuple[object, ...]:
    """What is agreed to; how long it is valid is each signer's own affair."""
    return approval.era, approval.action, approval.subject, approval.group, approval.policy


def _read(path: Path | None) -> list[bytes]:
    if path is None or not path.exists():
        return []
    try:
        with path.open("rb") as file:
            data = file.read(COLLECTED_BYTES_MAX + 1)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    try:
        if len(data) > COLLECTED_BYTES_MAX:
            raise EncodingError("too long")
        approvals = [bytes.fromhex(line) for line in data.decode("ascii").split()]
        for raw in approvals:
            parse_approval(raw)
    except (EncodingError, ValueError) as error:
        raise ConfigError(f"{path}: no file of approvals: {error}") from error
    return approvals


def _write(path: Path, approvals: tuple[bytes, ...]) -> None:
    try:
        path.write_text("".join(f"{raw.hex()}\n" for raw in approvals), encoding="ascii")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
