"""Selectors: which subjects belong to a group by the attributes its owners certified.

A selector is a rule about a subject (`Scope.SUBJECT`) over `vendor`, `class`, `hardware_revision`,
`region` and `tag`. It cannot ask for time, counters or votes, so that membership changes only when
somebody changes an attribute or the selector.
"""

from __future__ import annotations

from protocol.encoding import Value
from protocol.rule import Rule, Scope
from protocol.rule_codec import rule_from_value

Selector = Rule
"""A rule that `check_rule` accepts for `Scope.SUBJECT`."""


def selector_from_value(value: Value) -> Selector:
    """Reads the wire form; raises EncodingError."""
    return rule_from_value(value, Scope.SUBJECT)
