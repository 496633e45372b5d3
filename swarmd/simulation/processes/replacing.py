"""Replaces a part of the daemon in this process, for good: rogues are processes of their own."""

from __future__ import annotations

import importlib


def replace_in(module: str, name: str, value: object) -> None:
    """Has a module use something else under a name that it imported or defined.

    Args:
        module: full name.
        name: must exist there, so that a renaming breaks the tests and not the attack.
        value: what to use.

    Raises:
        AttributeError: the module has no such name.
    """
    holder = importlib.import_module(module)
    getattr(holder, name)
    setattr(holder, name, value)
