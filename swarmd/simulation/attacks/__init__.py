"""Attacks on a swarm, each with what must hold all the same; they make `docs/attacks.md`."""
