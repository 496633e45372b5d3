"""The demonstration: the whole job on one machine, with real processes and real firmware."""
