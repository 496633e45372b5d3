"""The replicated ledger: Simplex consensus, pure state transition, proofs and their stores.

Machines here are sans-IO: inputs and time go in, effects come out. `transition` is the
specification of what a transaction does; `simplex` decides the order; `proof` shows the outcome to
a third party.
"""

__project__ = "swarmd"
