"""Level 3: daemons as processes, on loopback or in network namespaces, driven by scenario files."""
