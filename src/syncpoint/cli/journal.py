"""`syncpoint journal …`: a folder's journal, read as files; no manager is started and no lock is taken away.

Not for: reading the format (journal/inspect.py).
"""

from __future__ import annotations

import typer

__all__ = ["app"]

app = typer.Typer(help="Look at a journal's folder, and mend what can be mended.", no_args_is_help=True)
