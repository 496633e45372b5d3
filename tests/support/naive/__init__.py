"""A second implementation of the ledger's transition, written from docs/spec and nothing else.

It is slow and plain on purpose: state is one dict of byte strings, every record is decoded when it
is read, the root is computed anew for every block. It imports nothing of `ledger` or `protocol`, so
that a mistake in them cannot be its mistake too. `block.apply_block` is the way in.
"""
