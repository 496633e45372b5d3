"""Simplex consensus as a sans-IO machine (Chan and Pass, "Simplex Consensus", TCC 2023).

`engine.Simplex` takes inputs and returns effects (`interface`); the host owns clock, disk, network
and execution. The numbered rules are in docs/spec/consensus.md.
"""
