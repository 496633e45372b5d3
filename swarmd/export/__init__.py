"""Exports of the ledger: decoded rows, and the forms in which auditors want them.

`rows` decodes final blocks into plain rows and picks those asked for; `audit` writes rows as JSON
Lines, CSV or a self-contained HTML page; `tiles` writes the log as C2SP static files. Nothing here
reads a disk or a network: blocks come as bytes, output goes to strings.
"""
