"""Vocabulary of the swarm: digests, canonical encoding, keys, identities and every wire message.

Everything here is pure: no input or output, no clock, no randomness. `protocol` imports none of the
other packages; `chunks` and `ledger` build on it, and `swarmd` wires all of them to the world.
"""

__project__ = "swarmd"
