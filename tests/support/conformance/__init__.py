"""Stories that the conformance vectors are told from (docs/spec/conformance.md)."""
