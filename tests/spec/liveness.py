"""Liveness: when the faults are over, nothing stays in doubt. And that this can fail, so that it says something.

Not for: safety (rules.py).
"""

from __future__ import annotations

from tests.spec.rules import FOLDER, Model

LIVENESS = (
    Model("folder: nothing stays in doubt", FOLDER, "Liveness.cfg"),
    Model(
        "folder: without recovery something may", FOLDER, "Liveness.cfg", {"SPECIFICATION": "UnfairSpec"}, "violated"
    ),
)
