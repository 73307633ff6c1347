"""Starts the processes of resource managers for real: `syncpoint resource run NAME` with the node's configuration.

Not for: when (supervision.py).
"""

from __future__ import annotations

import os
import subprocess  # no shell but for a command of the user's own
import sys
from collections.abc import Mapping, Sequence

from syncpoint.node.supervision import Child

SYNCPOINT = (sys.executable, "-c", "from syncpoint.cli import main; main()")
"""The command, whatever the PATH says: the same Python, the same package."""


class SystemLauncher:
    """Parameters: `config`, the node's configuration file; `arguments`, further ones of `syncpoint resource run`."""

    def __init__(self, config: str, arguments: Sequence[str] = ()) -> None:
        self._config = config
        self._arguments = tuple(arguments)

    def __repr__(self) -> str:
        return f"<SystemLauncher of {self._config}>"

    def resource(self, name: str) -> Child:
        """See `Launcher.resource`. What it writes goes where the node's own goes."""
        command = [*SYNCPOINT, "resource", "run", name, "--config", self._config, *self._arguments]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def command(self, command: str, environment: Mapping[str, str]) -> Child:
        """See `Launcher.command`: a line for the shell."""
        return subprocess.Popen(
            command, shell=True, stdin=subprocess.DEVNULL, env={**os.environ, **environment}, start_new_session=True
        )
