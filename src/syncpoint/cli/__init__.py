"""The `syncpoint` command: look at what is in doubt, resolve it, check databases and journals.

`app.py` joins the groups of commands; `setup.py` turns options into a manager or resources; `output.py` and
`views.py` print. Not for: deciding anything (manager/operators.py), or checking anything (resources/, journal/).
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """The entry point. Says what to install when the command line's own packages are missing."""
    try:
        from syncpoint.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(f"The command needs the Python package {error.name}. Run: pip install 'syncpoint[cli]'")
    app()
