"""Values of the state tree, each in one canonical encoding.

Every record is a map that starts with its schema number. They are written by the transition only,
so that reading one that does not decode means a damaged store or a lying peer. One module for each
kind of thing on record; docs/spec/ledger.md lists them.
"""
