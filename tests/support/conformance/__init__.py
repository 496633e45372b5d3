"""Stories that the conformance vectors are told from, one module an area (docs/spec/conformance.md)."""
