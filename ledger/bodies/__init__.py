"""Bodies of transactions: one frozen dataclass and one strict codec for each kind.

The envelope (era, signer, nonce, lifetime, signature) is `protocol.transaction`'s. A body is a map
with integer keys; what it does and when it is allowed is in `ledger.transition`, whose registry
(`ledger.transition.kinds`) joins kind, body and rule.
"""
