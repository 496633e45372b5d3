"""The simulation: one world of events, links and faults in which the production machines run.

`world` knows nothing of what runs on it; `consensus_host` puts validators into it, `byzantine`
misbehaves. One seed decides everything, and a trace hash shows that it does.
"""
