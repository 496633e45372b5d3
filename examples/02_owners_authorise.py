"""Two of three owners approve a release; a validator's key, a stolen key or a copy do not count.

Run: python examples/02_owners_authorise.py
"""

from __future__ import annotations

from protocol.approval import Action, Approval, sign_approval, verify_threshold
from protocol.digest import ChainId, Digest, sha256
from protocol.errors import VerificationError
from protocol.group import OwnerRoot, Policy
from protocol.keys import PrivateKey

CHAIN = ChainId(sha256(b"an example's chain"))


def main() -> None:
    """Runs the example."""
    owners = [PrivateKey(bytes([number]) * 32) for number in (1, 2, 3)]
    validator = PrivateKey(bytes([9]) * 32)
    pairs = sorted((key.public, f"owner-{number}") for number, key in enumerate(owners, 1))
    root = OwnerRoot(version=1, threshold=2, owners=tuple(pairs))
    policy = Policy(approve_threshold=2, revoke_threshold=2, amend_threshold=2, enrol_threshold=1)
    manifest = Digest(sha256(b"the signed bytes of a manifest"))

    def approval(key: PrivateKey) -> bytes:
        statement = Approval(
            era=0,
            action=Action.AUTHORISE,
            subject=manifest,
            group="fleet",
            policy=policy.policy_id,
            valid_until_ms=1_800_000_000_000,
        )
        return sign_approval(statement, key, CHAIN).signed.raw

    def judge(name: str, approvals: list[bytes]) -> None:
        try:
            names = verify_threshold(
                approvals,
                root=root,
                threshold=policy.approve_threshold,
                chain=CHAIN,
                era=0,
                action=Action.AUTHORISE,
                subject=manifest,
                group="fleet",
                policy=policy.policy_id,
            )
            print(f"{name}: authorised by {', '.join(names)}")
        except VerificationError as error:
            print(f"{name}: refused, {error}")

    judge("two owners", [approval(owners[0]), approval(owners[2])])
    judge("one owner, twice", [approval(owners[0]), approval(owners[0])])
    judge("one owner and a validator", [approval(owners[0]), approval(validator)])


if __name__ == "__main__":
    main()
