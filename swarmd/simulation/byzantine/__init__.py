"""Validators that break the rules, one kind in each module."""
