"""What rules and policies mean: pure functions over facts, used by the transition and by gateways.

`evaluate` gives a rule its truth and the reasons for it, `judge` a whole policy, `release` collects
the facts of a manifest from a state, `membership` says which groups a subject belongs to, `owners`
follows rotations of owner roots. Nothing here writes. Numbered rules: docs/spec/contracts.md.
"""
