"""The transition: what a block does to the ledger. Start reading in `block.py`.

`block` is the whole rule for a block, `envelope` who may submit what, `shares` what it costs its
signer; `kinds` lists every transaction kind with its body and its rule, one module for each area
(`subject`, `group`, `manifest`, `receipt`, ...). Rules are numbered in docs/spec/. Nothing here
does I/O, knows a clock or depends on the order of a set: every node computes the same.
"""
